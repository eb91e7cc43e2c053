"""What lets a CUDA graph capture an iteration: counters on the device, nothing read back."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eyescream_py.game.precision import choose
from eyescream_py.game.taming import DiffAugment, SlopePenalty, SpectralBound, Taming
from eyescream_py.game.working import Working
from eyescream_py.networks.modes import InFull
from tests.game import small_game
from tests.game.small_game import BATCH, OPTIMIZERS, assert_same_game, game


@pytest.mark.parametrize("bound", [1.01, 0.95])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_counters_gate_and_flat_weights_on_the_device_change_nothing(optimizer, bound):
    (plain, _), (capturable, _) = (game(optimizer, on, bound, flat=on) for on in (False, True))
    for n in [BATCH] * 15 + [BATCH - 2]:
        plain.iteration(n)
        capturable.iteration(n)
    trained = int(plain.figures.sums["D_trained"])
    assert trained == 32 if bound > 1 else 0 < trained < 32
    assert isinstance(capturable.D.optimizer.t, torch.Tensor)
    assert_same_game(plain, capturable, 1e-4)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gate_closed_from_the_start_leaves_D_as_it_was(optimizer, flat):
    closed, _ = game(optimizer, True, bound=0.0, flat=flat)
    before = copy.deepcopy(closed.D.network.state_dict())
    closed.iteration(BATCH)
    assert int(closed.D.optimizer.t) == 0
    for name, value in closed.D.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(moment.any() for name in closed.D.optimizer.moments
                   for moment in closed.D.optimizer.moments[name])  # fmt: skip
    assert int(closed.figures.sums["D_trained"]) == 0


def test_the_average_within_an_iteration_is_that_after_it():
    (inside, _), (outside, _) = (game("adam", True, flat=True) for _ in range(2))
    outside.ema, after = None, outside.ema
    for n in [BATCH] * 5 + [BATCH - 2]:
        inside.iteration(n)
        outside.iteration(n)
        after.update()
    for p, q in zip(inside.ema.average.parameters(), after.average.parameters(), strict=True):
        assert torch.equal(p, q)


def callers(event):
    while event is not None:
        yield event.name
        event = event.cpu_parent


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_of_an_iteration_is_read_back(optimizer, rounded):
    """A value that Python or a kernel's host side asks for ends a recording with an error."""
    tried, source = game(optimizer, True, bound=0.95, flat=True)
    kinds = ("colour", "mirror", "translation", "cutout")
    D = tried.D.network
    tried.taming = Taming(DiffAugment(kinds, source), SlopePenalty(1.0, 2), SpectralBound(D, 1.0))
    if rounded:
        tried.autocast = choose("bf16", torch.device("cpu")).autocast
        for player in (tried.D, tried.G):
            player.working = Working(player.network, player.optimizer.flat)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        tried.iteration(BATCH)
    read = [list(callers(event)) for event in seen.events() if "_local_scalar" in event.name]
    # Adam's kernel reads its step size on a processor alone
    assert [names for names in read if "aten::_fused_adam_" not in names] == []


class Devices(TorchDispatchMode):
    """Which operators took or made tensors on which kind of device."""

    def __init__(self):
        super().__init__()
        self.operators = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, made)):
            if isinstance(value, torch.Tensor):
                self.operators.setdefault(value.device.type, set()).add(str(function))
        return made


class Constant:
    """Random numbers of a device that has no generator."""

    def __init__(self, seed, device):
        self.device = device

    def uniform_(self, tensor, low, high):
        return tensor.fill_((low + high) / 2)

    def bernoulli_(self, tensor, p):
        return tensor.fill_(1)

    def indices_(self, tensor, n):
        return tensor.zero_()


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])  # Adam's kernel has no such form
def test_nothing_of_an_iteration_comes_from_the_host(optimizer, monkeypatch):
    """Not a tensor: a recording would keep what it held, or fail."""
    monkeypatch.setattr(InFull, "__call__", lambda self, x: type(self.layer).forward(self.layer, x))
    monkeypatch.setattr(small_game, "TorchSource", Constant)
    tried, source = game(optimizer, True, bound=0.95, device="meta", flat=True)
    kinds = ("colour", "mirror", "translation", "cutout")
    bound = SpectralBound(tried.D.network, 1.0)
    tried.taming = Taming(DiffAugment(kinds, source), SlopePenalty(1.0, 2), bound)
    with Devices() as seen:
        tried.iteration(BATCH)
    assert list(seen.operators) == ["meta"], seen.operators.get("cpu")
    with Devices() as seen:
        tried.gate.count + torch.tensor(1)
    assert set(seen.operators) == {"cpu", "meta"}
