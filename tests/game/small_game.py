"""A game of tiny networks as a GPU plays it: counters on the device, weights in one buffer."""

import pytest
import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.averaging import Ema
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout, set_random_source
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


def game(optimizer, capturable, bound=1.01, device="cpu", flat=False):
    """A game whose gate remembers a D that was always right: it is closed, then opens."""
    D, G = (net.to(device) for net in networks())
    source = TorchSource(1, device)
    for net in (D, G):
        set_random_source(net, source)
    pixels = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    data = Dataset(pixels.to(device), "noise")
    players = []
    for net, penalty, clamp in ((D, Penalty(1e-5, 1e-4), 1.0), (G, Penalty(), 5.0)):
        if flat:  # as on a GPU
            net.to(memory_format=torch.channels_last)
        params = Flat(net) if flat else net.parameters()
        players.append(Learner(net, OPTIMIZERS[optimizer](params, capturable), penalty, clamp))
    made = Game(
        *players,
        FaceFeed(data, G, 4, 40, source),
        AccuracyGate(bound, BATCH, torch.device(device)),
        iterations=(2, 1),
        ema=Ema(G, 0.0, 4.0, players[1].optimizer.flat),
    )
    made.gate.accuracies.fill_(1)
    made.gate.count.fill_(len(made.gate.accuracies))
    return made, source


def assert_same_game(a, b, rtol):
    for x, y in ((a.D, b.D), (a.G, b.G)):
        for p, q in zip(x.optimizer.parameters, y.optimizer.parameters, strict=True):
            torch.testing.assert_close(p.detach().cpu(), q.detach().cpu(), rtol=rtol, atol=rtol)
        assert int(x.optimizer.t) == int(y.optimizer.t)
    assert int(a.ema.updates) == int(b.ema.updates)
    for p, q in zip(a.ema.average.parameters(), b.ema.average.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q.cpu(), rtol=rtol, atol=rtol)
    assert torch.equal(a.figures.confusion.counts.cpu(), b.figures.confusion.counts.cpu())
    for name, value in a.figures.sums.items():
        assert float(b.figures.sums[name]) == pytest.approx(float(value), rel=rtol), name
