"""The path that a CUDA graph captures: gates and step counters on the device."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.capture import CapturedIteration
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.torch7.layers import Dropout, SpatialDropout, View, set_random_source
from eyescream_py.torch7.optim import SGD, Adagrad, Adam
from eyescream_py.torch7.random import TorchSource

BATCH = 8
OPTIMIZERS = {
    "adam": lambda p, capturable: Adam(p, 3e-3, capturable=capturable),
    "adagrad": lambda p, capturable: Adagrad(p, 1e-2, capturable),
    "sgd": lambda p, capturable: SGD(p, 0.05, 0.5, capturable),
}


def networks():
    torch.manual_seed(0)
    D = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.PReLU(), SpatialDropout(), View(128),
        nn.Linear(128, 16), nn.PReLU(), Dropout(), nn.Linear(16, 1), nn.Sigmoid(),
    )  # fmt: skip
    G = nn.Sequential(nn.Linear(4, 32), nn.PReLU(), nn.Linear(32, 16), nn.Sigmoid(), View(1, 4, 4))
    return D, G


def game(optimizer, capturable, bound=1.01, device="cpu"):
    """A game whose gate remembers a D that was always right: it is closed, then opens."""
    D, G = (net.to(device) for net in networks())
    source = TorchSource(1, device)
    for net in (D, G):
        set_random_source(net, source)
    pixels = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    data = Dataset(pixels.to(device), "noise")
    make = OPTIMIZERS[optimizer]
    made = Game(
        Learner(D, make(D.parameters(), capturable), Penalty(1e-5, 1e-4), 1.0),
        Learner(G, make(G.parameters(), capturable), Penalty(), 5.0),
        FaceFeed(data, G, 4, 40, source),
        AccuracyGate(bound, BATCH, torch.device(device)),
        iterations=(2, 1),
    )
    made.gate.accuracies.fill_(1)
    made.gate.count.fill_(len(made.gate.accuracies))
    return made, source


def assert_same_game(a, b, rtol):
    for x, y in ((a.D, b.D), (a.G, b.G)):
        for p, q in zip(x.optimizer.parameters, y.optimizer.parameters, strict=True):
            torch.testing.assert_close(p.detach().cpu(), q.detach().cpu(), rtol=rtol, atol=rtol)
        assert int(x.optimizer.t) == int(y.optimizer.t)
    assert torch.equal(a.figures.confusion.counts.cpu(), b.figures.confusion.counts.cpu())
    for name, value in a.figures.sums.items():
        assert float(b.figures.sums[name]) == pytest.approx(float(value), rel=rtol), name


@pytest.mark.parametrize("bound", [1.01, 0.95])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_counters_and_gate_on_the_device_change_nothing(optimizer, bound):
    (plain, _), (capturable, _) = (game(optimizer, on_device, bound) for on_device in (False, True))
    for n in [BATCH] * 15 + [BATCH - 2]:
        plain.iteration(n)
        capturable.iteration(n)
    trained = int(plain.figures.sums["D_trained"])
    assert trained == 32 if bound > 1 else 0 < trained < 32
    assert isinstance(capturable.D.optimizer.t, torch.Tensor)
    assert_same_game(plain, capturable, 1e-4)


def test_a_gate_closed_from_the_start_leaves_D_as_it_was():
    closed, _ = game("adam", True, bound=0.0)
    before = copy.deepcopy(closed.D.network.state_dict())
    closed.iteration(BATCH)
    assert int(closed.D.optimizer.t) == 0
    for name, value in closed.D.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert int(closed.figures.sums["D_trained"]) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device to capture on")
@pytest.mark.parametrize("bound", [1.01, 0.95])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_captured_iteration_is_the_eager_one(optimizer, bound):
    (eager, _), (captured, source) = (game(optimizer, True, bound, "cuda") for _ in range(2))
    step = CapturedIteration(captured, BATCH, source)
    for n in [BATCH] * 15 + [BATCH - 2] + [BATCH] * 4:
        eager.iteration(n)
        step(n)
    assert step.graphs
    assert_same_game(eager, captured, 1e-4)
