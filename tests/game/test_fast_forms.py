"""A game whose networks compute by the CPU's fast forms is the game of torch's own layers."""

import pytest
import torch

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.adversarial_c2f import PairFeed
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.networks import models, models_c2f
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import TorchSource

CASES = {"16px": (16, None), "8px, three branches": (8, None), "c2f": (8, 4)}


def losses(case, fast, dtype):
    """Of three iterations: sums of D's and G's."""
    torch.manual_seed(0)
    size, coarse = CASES[case]
    dims, source = (1, size, size), TorchSource(1)
    networks = models_c2f if coarse else models
    D, G = networks.create_D(dims), networks.create_G(dims)
    data = Dataset(torch.randint(0, 256, (40, *dims), dtype=torch.uint8), "noise")
    for net in (D, G):
        set_random_source(net, source)
        if fast:
            speed_up(net)
        net.to(dtype)
    if coarse:
        feed = PairFeed(data, G, coarse, 8, 40, source, dtype)
    else:
        feed = FaceFeed(data, G, 100, 40, source, dtype)
    game = Game(
        Learner(D, Adam(D.parameters()), Penalty(0, 1e-4), 1.0),
        Learner(G, Adam(G.parameters()), Penalty(), 5.0),
        feed, AccuracyGate(1.01, 8, torch.device("cpu")),
    )  # fmt: skip
    for _ in range(3):
        game.iteration(8)
    return torch.stack([game.figures.sums["D_loss"], game.figures.sums["G_loss"]])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_losses_of_iterations_are_those_of_torchs_own_layers(case, dtype, error):
    """In float32 but for Adam's first steps, which make a whole step of a rounding error."""
    fast, plain = (losses(case, way, dtype) for way in (True, False))
    torch.testing.assert_close(fast, plain, rtol=error, atol=0)
