"""Iterations recorded and replayed: as CUDA graphs, and as the operators of a processor."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from eyescream_py.game.capture import CapturedIteration
from eyescream_py.game.precision import choose
from eyescream_py.game.taming import DiffAugment, SlopePenalty, SpectralBound, Taming
from eyescream_py.game.working import Working
from eyescream_py.system import tape
from eyescream_py.system.errors import UserError
from tests.game.small_game import BATCH, OPTIMIZERS, assert_same_game, game


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device to capture on")
@pytest.mark.parametrize("bound", [1.01, 0.95])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_captured_iteration_is_the_eager_one(optimizer, bound):
    (eager, _), (captured, source) = (
        game(optimizer, True, bound, "cuda", flat) for flat in (False, True)
    )
    step = CapturedIteration(captured, BATCH, source)
    for n in [BATCH] * 15 + [BATCH - 2] + [BATCH] * 4:
        eager.iteration(n)
        step(n)
    assert step.graphs
    assert_same_game(eager, captured, 1e-4)


def tamed(made, source):
    """Everything that changes what D sees, its loss or its weights, and rounded copies of these."""
    kinds = ("colour", "mirror", "translation", "cutout")
    bound = SpectralBound(made.D.network, 1.0)
    made.taming = Taming(DiffAugment(kinds, source), SlopePenalty(1.0, 3), bound)
    if made.D.optimizer.flat:
        made.autocast = choose("bf16", torch.device("cpu")).autocast
        for player in (made.D, made.G):
            player.working = Working(player.network, player.optimizer.flat)


@pytest.mark.parametrize("tame", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("bound", [1.01, 0.95])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_processors_recording_is_the_eager_iteration_to_the_bit(optimizer, bound, flat, tame):
    (eager, other), (recorded, source) = (game(optimizer, False, bound, flat=flat) for _ in "ab")
    if tame:
        tamed(eager, other)
        tamed(recorded, source)
    step = CapturedIteration(recorded, BATCH, source)
    losses, ours = [], []
    for i, n in enumerate([BATCH] * 8 + [BATCH - 2] + [BATCH] * 8):
        is_logged = i % 7 == 6
        for each in (eager, recorded):
            each.G.optimizer.factor = 1 - i / 40
            if i == 12:
                each.D.optimizer.halve()
        eager.iteration(n, (lambda *call: losses.append(call)) if is_logged else None)
        step(n, (lambda *call: ours.append(call)) if is_logged else None)
    assert set(step.graphs) == ({(True, False), (False, True), (False, False)} if tame else
                                {(False, False)})  # fmt: skip
    assert ours == losses
    assert torch.equal(source.generator.get_state(), other.generator.get_state())
    for a, b in ((eager.D, recorded.D), (eager.G, recorded.G)):
        for p, q in zip(a.optimizer.gradients, b.optimizer.gradients, strict=True):
            assert torch.equal(p, q)
        assert a.has_slope() == b.has_slope()
    assert_same_game(eager, recorded, 0)


def test_what_cannot_be_recorded_is_done_by_python_and_said(monkeypatch, capsys):
    """Of three kinds of iterations, those in which R1 is due in either step of D."""
    (eager, other), (recorded, source) = (game("adam", False) for _ in "ab")
    for made, of in ((eager, other), (recorded, source)):
        tamed(made, of)
    kinds, record = [], tape.record

    def refusing(work):
        kinds.append(recorded.taming.due(2))
        made = record(work)
        return None if any(kinds[-1]) else made

    monkeypatch.setattr(tape, "record", refusing)
    step = CapturedIteration(recorded, BATCH, source)
    for _ in range(20):
        eager.iteration(BATCH)
        step(BATCH)
    assert sorted(kinds) == [(False, False), (False, True), (True, False)]
    assert list(step.graphs) == [(False, False)]
    assert capsys.readouterr().err.count("an iteration cannot be recorded: ") == 2
    assert_same_game(eager, recorded, 0)


class FakeGraph:
    """Records as a CUDA graph does: what runs within `recording` has an effect only in `replay`."""

    def __init__(self):
        self.replays = 0
        self.generators = []

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def replay(self):
        self.replays += 1


class FakeStream:
    """A stream that notes in `waits` (who, for whom) each time that it waits."""

    device = torch.device("cpu", 0)

    def __init__(self, name, waits):
        self.name, self.waits = name, waits

    def wait_stream(self, other):
        self.waits.append((self.name, other.name))


@pytest.fixture
def fake_cuda(monkeypatch):
    """The parts of torch.cuda that a capture asks for; `fault` makes the recording fail."""
    fake = SimpleNamespace(fault=None, waits=[], recorded_on=[], modes=set())

    @contextlib.contextmanager
    def recording(graph, memory, stream, capture_error_mode="global"):
        fake.recorded_on.append(stream)
        fake.modes.add(capture_error_mode)
        try:
            yield
            if fake.fault:
                raise RuntimeError(fake.fault)
        except (RuntimeError, UserError) as error:  # the end fails, too
            raise RuntimeError("operation failed due to a previous error") from error

    monkeypatch.setattr(torch.cuda, "Stream", lambda *given: FakeStream("side", fake.waits))
    current = FakeStream("current", fake.waits)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: fake.waits.append(stream.name))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    return fake


def game_on_gpu():
    """One that takes the processor for a GPU."""
    made, source = game("adam", True)
    made.figures.device = torch.device("cuda")
    return made, source


def test_r1_has_a_graph_of_its_own_and_comes_in_its_turn(fake_cuda):
    made, source = game_on_gpu()
    made.D_iterations = 1
    made.taming = Taming(slope=SlopePenalty(1.0, every=4))
    step = CapturedIteration(made, BATCH, source)
    seen = []
    for _ in range(12):
        due = made.taming.due(1)[0]
        before = {kind: graph.replays for kind, graph in step.graphs.items()}
        step(BATCH)
        ran = [k for k, g in step.graphs.items() if g.replays > before.get(k, 0)]
        seen.append((due, ran))
    assert [due for due, _ in seen] == [i % 4 == 0 for i in range(12)]
    assert [ran for _, ran in seen[3:]] == [[(due,)] for due, _ in seen[3:]]
    assert made.taming.slope.steps == 12


def test_the_first_r1_of_a_resumed_run_sets_itself_up_before_it_is_recorded(fake_cuda):
    made, source = game_on_gpu()
    made.D_iterations = 1
    made.taming = Taming(slope=SlopePenalty(1.0, every=8))
    made.taming.slope.steps = 1
    step = CapturedIteration(made, BATCH, source)
    kinds = []
    for _ in range(16):
        step(BATCH)
        kinds.append(set(step.graphs))
    assert kinds[2] == set()
    assert kinds[3] == kinds[7] == {(False,)}  # step 8, the first with R1, was the eighth
    assert kinds[15] == {(False,), (True,)}
    assert made.taming.slope.steps == 17


def test_logged_and_shorter_batches_run_eagerly_and_keep_the_turn(fake_cuda):
    made, source = game_on_gpu()
    made.taming = Taming(slope=SlopePenalty(1.0, every=3))
    step = CapturedIteration(made, BATCH, source)
    for n in [BATCH] * 5:
        step(n)
    replays = sum(graph.replays for graph in step.graphs.values())
    step(BATCH - 2)
    step(BATCH, lambda network, loss: None)
    assert sum(graph.replays for graph in step.graphs.values()) == replays == 2
    assert made.taming.slope.steps == 14  # two steps of D an iteration


def test_the_streams_wait_for_each_other_around_an_iteration_that_warms_up(fake_cuda):
    made, source = game_on_gpu()
    step = CapturedIteration(made, BATCH, source)
    iteration = made.iteration
    made.iteration = lambda n, log=None: (fake_cuda.waits.append("work"), iteration(n, log))
    step(BATCH)
    assert fake_cuda.waits == [("side", "current"), "work", ("current", "side")]


def test_a_graph_knows_the_generator_whose_numbers_it_draws(fake_cuda):
    made, source = game_on_gpu()
    step = CapturedIteration(made, BATCH, source)
    for _ in range(4):
        step(BATCH)
    assert [graph.generators for graph in step.graphs.values()] == [[source.generator]]
    assert fake_cuda.recorded_on == [step.recorder.stream]
    assert fake_cuda.modes == {"thread_local"}  # so that no other thread's call breaks it
    step.graphs.clear()
    step.recorder.generator = None
    step(BATCH)
    assert [graph.generators for graph in step.graphs.values()] == [[]]


def test_a_gpu_that_records_nothing_any_more_ends_the_run_in_one_line(fake_cuda):
    made, source = game_on_gpu()
    step = CapturedIteration(made, BATCH, source)
    for _ in range(3):
        step(BATCH)
    fake_cuda.fault = "operation not permitted when stream is capturing\nmore"
    with pytest.raises(UserError, match=r"not permitted when stream is capturing\).*--no_capture"):
        step(BATCH)
    assert fake_cuda.waits[-1] == "current"  # and no longer the recording's own stream


def test_a_recording_that_ends_with_an_error_in_words_keeps_them(fake_cuda):
    made, source = game_on_gpu()
    step = CapturedIteration(made, BATCH, source)
    for _ in range(3):
        step(BATCH)

    def iteration(n, log=None):
        raise UserError("adam: Triton cannot make it; start again with --no_fuse")

    made.iteration = iteration
    with pytest.raises(UserError, match=r"^adam: Triton .* --no_fuse$"):
        step(BATCH)
