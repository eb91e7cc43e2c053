"""Iterations with fused layers and steps: the same game as without."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.answers import Logits
from eyescream_py.game.averaging import Ema
from eyescream_py.game.capture import CapturedIteration
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.fused_adam import FusedAdam
from eyescream_py.game.group import Alone
from eyescream_py.game.precision import choose
from eyescream_py.game.taming import SlopePenalty, Taming
from eyescream_py.game.working import Working
from eyescream_py.networks import models
from eyescream_py.networks.fused_head import fuse_head
from eyescream_py.networks.fused_layers import Tools, fuse, learn_early
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.device import prepare_cuda
from eyescream_py.system.fusing import fused_kernels
from eyescream_py.system.lanes import Lanes
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.layers.stochastic import Dropout, set_random_source
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import TorchSource
from tests.training.test_on_cuda import SmallTask

BATCH, SIDE = 8, 16


def player(net, penalty, clamp, kernels, arithmetic, lanes):
    flat = Flat(net)
    optimizer = Adam(flat, 1e-3, capturable=True)
    working = Working(net, flat) if arithmetic.name == "bf16" else None
    factors = (penalty.l1, penalty.l2)
    fused = FusedAdam(kernels, optimizer, factors, clamp, working) if kernels else None
    if fused and lanes:
        learn_early(net, fused)
    return Learner(net, optimizer, penalty, clamp, working, fused, lanes)


def game(kernels, device="cpu", name="fp64", bound=1.01, dropout=True):
    device, torch_seed = torch.device(device), torch.manual_seed(0)
    assert torch_seed is not None
    arithmetic = choose(name, device)
    networks = [models.create_D((1, SIDE, SIDE)), models.create_G((1, SIDE, SIDE), 10)]
    source, lanes = TorchSource(1, device), Lanes(device) if kernels else None
    for net in networks:
        net.to(device, arithmetic.dtype).to(memory_format=torch.channels_last)
        for layer in net.modules():
            if isinstance(layer, Dropout) and not dropout:
                layer.p = 0.0
        set_random_source(net, source)
        if kernels:
            fuse(net, Tools(kernels, lanes))
    D, G = networks
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (40, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    answers = Logits(D, kernels and kernels.judge)
    if kernels:
        fuse_head(D, Tools(kernels, lanes))
    players = [
        player(net, *armed, kernels, arithmetic, lanes)
        for net, armed in ((D, (Penalty(1e-5, 1e-4), 1.0)), (G, (Penalty(), 5.0)))
    ]
    return Game(
        *players,
        FaceFeed(
            Dataset(pixels.to(device), "noise"),
            G,
            10,
            40,
            source,
            arithmetic.dtype,
            kernels=kernels,
        ),
        AccuracyGate(bound, BATCH, device),
        autocast=arithmetic.autocast,
        answers=answers,
        ema=Ema(G, 0.99, 0.0, players[1].optimizer.flat),
        tally=kernels and kernels.tally,
    ), source


def assert_close(a, b, **close):
    for x, y in ((a.D, b.D), (a.G, b.G)):
        assert int(x.optimizer.t) == int(y.optimizer.t)
        for p, q in zip(x.optimizer.parameters, y.optimizer.parameters, strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), **close)
    assert torch.equal(a.figures.confusion.counts, b.figures.confusion.counts)
    for key, value in a.figures.sums.items():
        torch.testing.assert_close(value, b.figures.sums[key], rtol=1e-4, atol=1e-6)


class Halving(Alone):
    """Another process whose gradients are all 0."""

    def average_(self, tensors):
        for tensor in tensors:
            tensor.div_(2)


def test_fused_steps_go_by_the_gradients_of_all_processes():
    net, x = nn.Linear(3, 1), torch.tensor([[1.0, 2.0, 3.0]])
    fused = player(net, Penalty(), 1.0, kernels_in_torch, choose("fp32", torch.device("cpu")), None)
    found = []
    for group in (Alone(), Halving()):
        fused.backward(net(x).sum(), group)
        found.append(net.weight.grad.tolist())
    assert found == [[[1.0, 2.0, 3.0]], [[0.5, 1.0, 1.5]]]


@pytest.mark.parametrize("bound", [1.01, 0.5])
def test_fused_steps_are_the_steps(bound):
    plain, _ = game(None, bound=bound, dropout=False)
    fused, _ = game(kernels_in_torch, bound=bound, dropout=False)
    for either in (plain, fused):
        for n in (BATCH, BATCH, 4, BATCH):
            either.iteration(n)
    assert_close(plain, fused, rtol=1e-9, atol=1e-11)
    assert 0 < int(plain.D.optimizer.t) <= 4


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize(("name", "bound"), [("fp32", 1.01), ("bf16", 0.5)])
def test_large_weights_learn_early_and_by_the_same_numbers(name, bound, slopes, monkeypatch):
    early, _ = game(kernels_in_torch, name=name, bound=bound)
    late, _ = game(kernels_in_torch, name=name, bound=bound)
    if slopes:  # whose iterations add up slopes: nothing is early in the second of three
        for either in (early, late):
            either.taming = Taming(slope=SlopePenalty(1.0, every=2))
            either.taming.count(1)
    monkeypatch.setattr(late.D.fused, "takes", lambda weight: False)
    taken = []
    take = early.D.fused.take
    monkeypatch.setattr(early.D.fused, "take", lambda w, g: taken.append(w.shape) or take(w, g))
    for _ in range(3):
        for either in (early, late):
            either.iteration(BATCH)
    assert taken == [(1024, 4096), (1024, 512, 3, 3)] * (2 if slopes else 3)
    for ours, theirs in ((early.D, late.D), (early.G, late.G)):
        a, b = ours.optimizer, theirs.optimizer
        assert torch.equal(a.flat.weights, b.flat.weights)
        assert torch.equal(a.gradients[0], b.gradients[0])
        assert all(torch.equal(a.held(kind)[0], b.held(kind)[0]) for kind in a.buffers)
        assert ours.working is None or torch.equal(ours.working.rounded, theirs.working.rounded)
    assert int(early.D.optimizer.t) == int(late.D.optimizer.t)


def test_a_copied_network_does_not_teach_the_original(monkeypatch):
    made, _ = game(kernels_in_torch)
    twin = copy.deepcopy(made.D.network)
    monkeypatch.setattr(made.D.fused, "take", lambda *given: pytest.fail("taken"))
    x = torch.rand(2, 1, SIDE, SIDE).double()
    with made.D.fused.early():
        twin(x).sum().backward()
        with pytest.raises(pytest.fail.Exception):
            made.D.network(x).sum().backward()


@pytest.mark.parametrize("beside_step", [False, True])
def test_an_early_step_that_fails_leaves_none_begun(beside_step, monkeypatch):
    def raising(*given):
        raise RuntimeError

    made, _ = game(kernels_in_torch)
    fused = made.D.fused
    (weight,) = [p for p in made.D.optimizer.parameters if p.shape == (1024, 512, 3, 3)]

    def fails(beside_step):
        with fused.early():
            fused.take(weight, torch.zeros_like(weight))
            if not beside_step:
                raise RuntimeError
        with monkeypatch.context() as patch:
            patch.setattr(fused, "_change", raising)
            fused.step()

    with pytest.raises(RuntimeError):
        fails(beside_step)
    assert not fused.taken
    assert not fused.takes(weight)
    before = int(made.D.optimizer.t)
    fused.step()
    assert int(made.D.optimizer.t) == before + 1


def gradients_in_file(made):
    """gradWeight and gradBias of D and G as a file would hold them."""
    options = SimpleNamespace(batch_size=BATCH, G_ema=0, G_ema_power=0, no_capture=True,
                              log_every=0, lr_fall=1, visdom_env="")  # fmt: skip
    task = SmallTask(options, "x.net", made, 40, None, None)
    for _ in range(2):  # the second time as the first
        networks = task.networks()
    tables = [torch7.from_module(net).fields["modules"] for net in networks.values()]
    modules = [module for table in tables for module in table.to_list()]
    names = ("gradWeight", "gradBias")
    return [m.fields[name] for m in modules for name in names if name in m.fields]


def test_files_hold_the_gradients_that_a_step_went_by():
    """As without fused steps, and in Lua: with the penalty, and clamped."""
    factors = 1e-6, 1e-2
    found = []
    for kernels in (None, kernels_in_torch):
        made, _ = game(kernels, name="fp32", dropout=False)
        for player in (made.D, made.G):
            player.clamp, player.penalty = 1e-3, Penalty(*factors)
            if player.fused:
                player.fused.clamp, player.fused.penalty = 1e-3, factors
        made.iteration(BATCH)
        found.append(gradients_in_file(made))
    plain, fused = found
    assert len(plain) > 8
    for a, b in zip(plain, fused, strict=True):
        # a step at a rate of 1e-3 lies between the weights of the two penalties
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1.1e-3 * factors[1] + 2 * factors[0])
    largest = max(float(tensor.abs().max()) for tensor in fused)
    assert largest == pytest.approx(1e-3)


def test_rounded_copies_are_those_of_the_new_weights():
    fused, _ = game(kernels_in_torch, name="bf16")
    fused.iteration(BATCH)
    for learner in (fused.D, fused.G):
        flat = learner.optimizer.flat.weights
        assert torch.equal(learner.working.rounded, flat.bfloat16())


@pytest.mark.parametrize("name", ["fp64", "bf16"])
def test_a_game_goes_on_from_its_state_to_the_bit(name):
    whole, source = game(kernels_in_torch, name=name)
    whole.iteration(BATCH)
    resumed, other = game(kernels_in_torch, name=name)
    resumed.iteration(4)  # other weights, which their copies would remember
    with torch.no_grad():
        for ours, theirs in ((resumed.D, whole.D), (resumed.G, whole.G)):
            for p, q in zip(ours.optimizer.parameters, theirs.optimizer.parameters, strict=True):
                p.copy_(q)
            ours.optimizer.import_state(theirs.optimizer.export_state())
            ours.refresh()
    other.set_state(source.state())
    for either in (whole, resumed):
        either.iteration(BATCH)
    for ours, theirs in ((resumed.D, whole.D), (resumed.G, whole.G)):
        assert torch.equal(ours.optimizer.flat.weights, theirs.optimizer.flat.weights)


def test_slopes_that_are_added_to_those_of_a_penalty_are_not_on_their_way(monkeypatch):
    """Autograd adds them up before it is over: what runs beside is waited for after it only."""
    made, _ = game(kernels_in_torch, dropout=False)
    made.taming = Taming(slope=SlopePenalty(1.0, every=2))
    made.D.lanes.on, begun = True, []

    def beside(self, *read, lane=None):
        begun.extend([read] if self.on else [])
        return contextlib.nullcontext()

    monkeypatch.setattr(Lanes, "beside", beside)
    monkeypatch.setattr(Lanes, "behind", beside)
    made.discriminator_step(BATCH)
    assert len(begun) == 1  # D's step, after the slopes
    made.discriminator_step(BATCH)  # without a penalty
    assert len(begun) > 2


def test_a_penalty_is_a_slope():
    made, _ = game(kernels_in_torch)
    made.iteration(BATCH)
    assert made.G.has_slope()
    for player in (made.D, made.G):
        player.optimizer.gradients[0].zero_()
    assert made.D.has_slope()  # by its penalty
    assert not made.D.optimizer.gradients[0].any()
    assert not made.G.has_slope()


def test_answers_of_several_processes_lie_one_by_one():
    """A kernel counts them where they lie."""

    class Two(Alone):
        size = 2

        def gather(self, ours):
            return torch.cat([ours, ours])

    made, _ = game(kernels_in_torch)
    made.group, counted = Two(), []
    made.figures.tally = lambda *given: counted.append(given)
    made.discriminator_step(BATCH)
    ((heard, meant, *_),) = counted
    assert (len(heard), len(meant)) == (2 * BATCH, 2 * BATCH)
    assert heard.is_contiguous()
    assert meant.is_contiguous()
    assert int(meant.sum()) == BATCH


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("rounded", [False, True])
def test_on_a_gpu_every_kernel_proves_itself(rounded, capfd):
    state = torch.cuda.get_rng_state()
    assert fused_kernels(torch.device("cuda", 0), rounded)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert "No joined kernels" not in capfd.readouterr().err


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("bound", [1.01, 0.5])
def test_on_a_gpu_fused_steps_are_the_steps(bound):
    device = torch.device("cuda", 0)
    prepare_cuda(device, fast=False, strict=True)
    kernels = fused_kernels(device, rounded=False)
    assert kernels
    plain, _ = game(None, device, "fp32", bound, dropout=False)
    fused, _ = game(kernels, device, "fp32", bound, dropout=False)
    for either in (plain, fused):
        for n in (BATCH, 4, BATCH):
            either.iteration(n)
    # Adam's first steps have the size of the rate whatever the slope's: signs of tiny ones differ
    assert_close(plain, fused, rtol=1e-3, atol=3e-3)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_on_a_gpu_a_replayed_graph_is_the_eager_run_to_the_bit(name):
    device = torch.device("cuda", 0)
    prepare_cuda(device, fast=False, strict=False)
    kernels = fused_kernels(device, name == "bf16")
    assert kernels
    ends = []
    for captured in (True, False, False):
        made, source = game(kernels, device, name)
        step = CapturedIteration(made, BATCH, source) if captured else made.iteration
        for n in (BATCH,) * 8 + (4, BATCH):
            step(n)
        ends.append(torch.cat([made.D.optimizer.flat.weights, made.G.optimizer.flat.weights]))
    assert torch.equal(ends[1], ends[2])
    assert torch.equal(ends[0], ends[1])
