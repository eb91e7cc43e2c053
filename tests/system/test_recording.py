"""Recordings of steps: the bookkeeping with a pretended graph, the rest on a GPU."""

import threading
from types import SimpleNamespace

import pytest
import torch

from eyescream_py.system.errors import UserError
from eyescream_py.system.lanes import Lanes
from eyescream_py.system.recording import (
    WARM_UP,
    Recorded,
    Recorder,
    UnrecordedError,
    rate_for,
    recorded,
    set_rate,
)
from tests.fake_cuda import OnCuda, pretend_recording
from tests.pretended_gpu import pretended_gpu

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("device", "wanted"), [(CPU, True), (torch.device("cuda"), False)])
def test_steps_stay_as_they_are_where_nothing_is_recorded(device, wanted):
    def step(x):
        return 2 * x

    assert Recorder(device, wanted).step(step) is step
    assert Recorder(device, wanted).parts(step, step) == (step, step)


def test_a_step_warms_up_is_recorded_once_and_then_replayed_on_what_each_call_brings(monkeypatch):
    made = pretend_recording(monkeypatch)
    places = []

    def double(x):
        places.append(x.data_ptr())
        return {"doubled": 2 * x}

    step = Recorder(CPU).step(double)
    given = [torch.tensor([float(k)]) for k in range(8)]
    seen = [step(x)["doubled"] for x in given[:WARM_UP]]
    assert [float(t) for t in seen] == [0, 2, 4]
    assert places == [x.data_ptr() for x in given[:WARM_UP]]
    later = [step(x)["doubled"] for x in given[WARM_UP:]]
    assert len(made) == 1
    assert len(set(places[WARM_UP:])) == 1  # the recording's own input
    assert len({t.data_ptr() for t in later}) == 1
    assert float(later[0]) == 14  # overwritten by the calls since
    assert [float(x) for x in given] == list(range(8))


def test_inputs_of_other_shapes_are_computed_as_written(monkeypatch):
    made = pretend_recording(monkeypatch)
    step = Recorder(CPU).step(lambda x: x + 1)
    for _ in range(WARM_UP + 1):
        step(torch.zeros(4))
    assert step(torch.ones(3)).tolist() == [2, 2, 2]
    assert step(torch.ones(4)).tolist() == [2, 2, 2, 2]
    assert len(made) == 1


def test_a_short_batch_in_the_warm_up_is_not_what_is_recorded(monkeypatch):
    made = pretend_recording(monkeypatch)
    step = Recorder(CPU).step(lambda x: x + 1)
    for count in [4, 4, 4, 3, 3, 4, 4, 4]:
        step(torch.zeros(count))
        assert made == []
    step(torch.zeros(4))
    assert [len(one._inputs[0]) for one in made] == [4]


def test_later_parts_use_what_earlier_ones_kept(monkeypatch):
    pretend_recording(monkeypatch)
    kept = []

    def forward(x):
        w = torch.ones(2, requires_grad=True)
        kept[:] = [w, (w * x).sum()]
        return kept[1].detach()

    def backward(x):
        w, loss = kept
        loss.backward()
        return w.grad

    first, second = Recorder(CPU).parts(forward, backward)
    for k in range(6):
        x = torch.tensor([float(k), 1.0])
        assert float(first(x)) == k + 1
        assert second(x).tolist() == [k, 1]


def refusing(message, monkeypatch):
    """Every recording after this fails in the first of its parts that asks for `message`."""
    made = pretend_recording(monkeypatch)
    record = Recorded._record

    def refuse(self, inputs):
        record(self, inputs)  # half of the work is done
        made.pop()
        self._graph = None
        raise UnrecordedError(message)

    return made, record, refuse


def test_a_step_that_cannot_be_recorded_runs_as_written_from_there_on(monkeypatch, capsys):
    _, _, refuse = refusing("the step cannot be recorded on this GPU (why)", monkeypatch)
    monkeypatch.setattr(Recorded, "_record", refuse)
    recorder, calls = Recorder(CPU), []
    step = recorder.step(lambda x: calls.append(x) or x + 1)
    for k in range(8):
        x = torch.full((2,), float(k))
        assert step(x).tolist() == [k + 1, k + 1]
        assert calls[-1] is x
    said = capsys.readouterr().err
    assert said == (
        "the step cannot be recorded on this GPU (why): this run goes on without, slower and "
        "otherwise the same.\n"
    )
    assert len(recorder.parts(calls.append)) == 1
    assert recorder.step(calls.append) == calls.append  # the next ones are not even tried


def test_a_later_part_that_cannot_be_recorded_has_again_what_the_first_one_kept(monkeypatch):
    _, record, refuse = refusing("why", monkeypatch)
    kept = []

    def forward(x):
        w = torch.ones(2, requires_grad=True)
        kept[:] = [w, (w * x).sum()]
        return kept[1].detach()

    def backward(x):
        w, loss = kept
        kept.clear()  # as a graph that was gone through
        loss.backward()
        return w.grad

    def one_fails(self, inputs):
        (refuse if self._function is backward else record)(self, inputs)

    monkeypatch.setattr(Recorded, "_record", one_fails)
    first, second = Recorder(CPU).parts(forward, backward)
    for k in range(8):
        x = torch.tensor([float(k), 1.0])
        assert float(first(x)) == k + 1
        assert second(x).tolist() == [k, 1]


def test_a_failed_recording_is_one_line_with_its_remedy(monkeypatch):
    asked = {}

    class NoGraph:
        def __init__(self, *given, **words):
            asked.update(words)
            raise RuntimeError("operation not permitted\nand a trace")

    with monkeypatch.context() as patch:
        pretend_recording(patch)
        step = Recorder(CPU, remedy="give --no-capture").step(lambda x: x)
    step._recorder.stream = SimpleNamespace(device=torch.device("cpu", 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", NoGraph)
    with pytest.raises(UserError) as raised:
        step._record((torch.zeros(1),))
    assert raised.value.message == (
        "the step cannot be recorded on this GPU (operation not permitted): give --no-capture"
    )
    assert asked["capture_error_mode"] == "thread_local"


def test_the_first_replay_waits_for_what_a_recording_does_to_the_random_numbers(monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.graph(graph, None, stream):
            pass
        with pytest.raises(RuntimeError, match="offset does not wait for another stream"):
            graph.replay()
        made, _ = recorded(lambda: None, stream, "the work", "")
        made.replay()
        assert gpu.graphs == [graph, made]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_rate_is_a_tensor_that_is_changed_in_place_on_a_gpu_alone(gpu):
    weight = torch.ones(2)
    rate = rate_for(OnCuda(weight) if gpu else weight, 0.5)
    assert isinstance(rate, torch.Tensor) is gpu
    optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=rate)
    set_rate(optimizer, 0.25)
    (group,) = optimizer.param_groups
    assert float(group["lr"]) == 0.25
    assert (group["lr"] is rate) is gpu


@needs_gpu
def test_a_recording_bears_a_thread_that_pins_memory_and_copies_from_it():
    """As a loader's does for the next batches."""
    device, over = torch.device("cuda"), threading.Event()
    pinned = []

    def pin():
        while not over.is_set():
            pinned.append(torch.ones(1 << 16 + len(pinned) % 5).pin_memory())
            del pinned[:-3]

    weight = torch.full((64, 64), 0.01, device=device, requires_grad=True)

    def slope(x):
        weight.grad = None
        for _ in range(100):
            x = x @ weight
        x.sum().backward()
        return weight.grad

    step = Recorder(device).step(slope)
    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(WARM_UP + 3):
            x = torch.ones(8, 64).pin_memory().to(device, non_blocking=True)
            found = step(x).clone()
    finally:
        over.set()
        thread.join()
    assert pinned
    torch.testing.assert_close(found, slope(x))


@needs_gpu
def test_after_a_recording_that_failed_all_goes_on_as_written(capsys):
    """It reads a value back, with random numbers drawn and other streams at work."""
    device = torch.device("cuda")
    generator, lanes = torch.Generator(device).manual_seed(1), Lanes(device)
    torch.manual_seed(1)
    w = torch.zeros(1000, device=device, requires_grad=True)

    def work():
        x = torch.rand(1000, device=device, generator=generator)
        x += torch.empty_like(x).uniform_()
        ((w - x) ** 2).sum().backward()
        with lanes.beside(x):
            w.data.add_(x)
        float(x.sum())
        lanes.join()

    torch.cuda.synchronize()
    states = generator.get_state(), torch.cuda.get_rng_state()
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    with pytest.raises(UnrecordedError, match="the work cannot be recorded on this GPU"):
        recorded(work, stream, "the work", "", generator=generator)
    assert torch.cuda.current_stream(device) == current
    assert not w.any()
    for now, before in zip((generator.get_state(), torch.cuda.get_rng_state()), states,
                           strict=True):  # fmt: skip
        assert torch.equal(now, before)
    w.grad = None
    work()
    seen = [w.detach().clone()]
    w.data.zero_()
    generator.manual_seed(1)
    torch.manual_seed(1)
    work()
    seen.append(w.detach().clone())
    assert torch.equal(*seen)
    for _ in range(3):  # and what can be recorded still is
        graph, _ = recorded(lambda: w.data.mul_(0), stream, "the work", "", generator=generator)
        graph.replay()
        assert not w.any()
        w.data.fill_(1)


@needs_gpu
def test_a_step_that_reads_back_is_trained_as_written(capsys):
    device = torch.device("cuda")
    w = torch.zeros(3, device=device, requires_grad=True)

    def step(x):
        loss = ((w - x - torch.empty_like(x).uniform_()) ** 2).sum()
        (slope,) = torch.autograd.grad(loss, w)
        w.data.sub_(0.1 * slope * (loss.item() > 0))
        return loss.detach()

    outcomes = []
    for wanted in (False, True):
        torch.manual_seed(0)
        w.data.zero_()
        run = Recorder(device, wanted).step(step)
        for k in range(8):
            loss = run(torch.full((3,), float(k), device=device))
        outcomes.append([float(loss), *w.tolist()])
    assert outcomes[0] == outcomes[1]
    assert "this run goes on without" in capsys.readouterr().err


@needs_gpu
def test_a_recording_follows_its_inputs_its_weights_and_its_random_numbers():
    device = torch.device("cuda")

    def made(wanted):
        torch.manual_seed(0)
        w = torch.zeros(3, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([w], rate_for(w, 0.1), fused=True, capturable=True)

        def step(x):
            optimizer.zero_grad(set_to_none=True)
            loss = ((w - x - torch.rand_like(x)) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return Recorder(device, wanted).step(step), optimizer

    outcomes = []
    for wanted in (False, True):
        step, optimizer = made(wanted)
        for k in range(12):
            set_rate(optimizer, 0.1 / (1 + k))
            loss = step(torch.full((3,), float(k), device=device))
        outcomes.append([float(loss), *optimizer.param_groups[0]["params"][0].tolist()])
    assert outcomes[0] == outcomes[1]


@needs_gpu
def test_parts_of_a_step_share_a_graph_while_others_run_in_between():
    device = torch.device("cuda")

    def made(wanted):
        w, kept = torch.ones(1000, device=device, requires_grad=True), []
        recorder = Recorder(device, wanted)

        def forward(x):
            kept[:] = [(w * x).sigmoid().square()]
            return kept[0].detach()

        def backward(x):
            (slope,) = torch.autograd.grad(kept[0].sum(), w)
            kept.clear()
            w.data.sub_(0.1 * slope)
            return slope

        def between(x):
            return (x.exp() + x).softmax(0)

        return (*recorder.parts(forward, backward), recorder.step(between), w)

    (a, b, c, w), (d, e, f, v) = made(False), made(True)
    for k in range(10):
        x = torch.randn(1000, device=device)
        assert torch.equal(a(x), d(x))
        for _ in range(k % 3):
            assert torch.equal(c(x), f(x))
        assert torch.equal(b(x), e(x))
    assert torch.equal(w, v)
