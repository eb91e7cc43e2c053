"""D's answers as logits: slopes where a sigmoid has none, and the way out of saturation."""

import copy
import math
import statistics

import pytest
import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.answers import Logits, Probabilities
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.precision import choose
from eyescream_py.game.taming import SlopePenalty
from eyescream_py.networks import models, models_c2f
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import TorchSource

CPU = torch.device("cpu")
LEVELS = (7.0, 9.0, 12.0, 20.0, 50.0)


def linear_D(bias, width=4):
    """D(x) = sigmoid(0.01 * sum(x) + bias)."""
    D = nn.Sequential(View(width), nn.Linear(width, 1), nn.Sigmoid())
    nn.init.constant_(D[1].weight, 0.01)
    nn.init.constant_(D[1].bias, bias)
    return D


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("target", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("level", [sign * level for level in LEVELS for sign in (1, -1)])
def test_slopes_at_large_logits_are_the_true_ones(level, target, precision):
    answers = Logits(linear_D(level))
    with choose(precision, CPU).autocast():
        logits = answers(torch.zeros(3, 1, 2, 2))
    answers.loss(logits, torch.full((3,), target)).backward()
    # sigmoid(level) - target, written so that it keeps its digits on both sides
    below, above = 1 / (1 + math.exp(level)), 1 / (1 + math.exp(-level))
    expected = (1 - target) * above - target * below
    assert float(answers.network[1].bias.grad) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("level", LEVELS)
def test_gs_gradient_passes_through_a_certain_D(level, precision):
    pictures = torch.zeros(3, 1, 2, 2, requires_grad=True)
    answers = Logits(linear_D(-level))
    with choose(precision, CPU).autocast():
        logits = answers(pictures)
    answers.loss(logits, torch.ones(3)).backward()
    expected = -0.01 / 3 / (1 + math.exp(-level))
    torch.testing.assert_close(
        pictures.grad, torch.full_like(pictures, expected), rtol=0.01, atol=0
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("level", [-50.0, *LEVELS])
def test_r1_sees_the_slope_at_every_level(level, precision):
    with choose(precision, CPU).autocast():
        penalty = SlopePenalty(2.0)(Logits(linear_D(level)), torch.zeros(3, 1, 2, 2))
    assert float(penalty.detach()) == pytest.approx(4 * 0.01**2, rel=0.01)


def discriminators():
    c2f = models_c2f.create_D((3, 8, 8))
    return {
        "16": (models.create_D((1, 16, 16)), (1, 16, 16), 1),
        "8": (models.create_D((3, 8, 8)), (3, 8, 8), 1),
        "b": (models.create_D((3, 16, 16), "b"), (3, 16, 16), 1),
        "c2f": (c2f, (3, 8, 8), 2),
    }


@pytest.mark.parametrize("name", ["16", "8", "b", "c2f"])
def test_logits_are_those_of_the_networks_own_answer(name):
    D, shape, count = discriminators()[name]
    D.eval().double()
    speed_up(D)
    generator = torch.Generator().manual_seed(2)
    inputs = [torch.rand(5, *shape, generator=generator).double() for _ in range(count)]
    logits = Logits(D)(*inputs)
    torch.testing.assert_close(torch.sigmoid(logits), D(*inputs).reshape(-1))
    assert copy.deepcopy(D)(*inputs).min() > 0  # a copy works and ends in its Sigmoid


def test_what_an_answer_means():
    D = linear_D(0.0)
    logits = torch.tensor([-14.0, -13.0, -0.1, 0.1, 13.0, 14.0])
    for answers, given in ((Logits(D), logits), (Probabilities(D), torch.sigmoid(logits.double()))):
        assert answers.real(given).tolist() == [0, 0, 0, 1, 1, 1]
        assert answers.certain(given).tolist() == [True, *[False] * 4, True]


def test_a_network_that_ends_in_something_else_is_refused():
    with pytest.raises(ValueError, match="Sigmoid"):
        Logits(nn.Sequential(nn.Linear(2, 1), nn.Tanh()))


def test_the_sigmoid_is_back_after_an_error():
    D = linear_D(0.0)
    with pytest.raises(ValueError, match="View"):
        Logits(D)(torch.zeros(1, 3))
    assert float(D(torch.zeros(1, 1, 2, 2)).detach()) == 0.5


def stuck_game(precision):
    """Noise for faces, the program's own networks at 8 px, and a D that says 1 of everything."""
    torch.manual_seed(1)
    D, G = models.create_D((1, 8, 8)), models.create_G((1, 8, 8), 10)
    with torch.no_grad():
        D[-2].bias.fill_(20.0)
    pixels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    feed = FaceFeed(Dataset(pixels, "noise"), G, 10, 64, TorchSource(1))
    players = [
        Learner(net, Adam(net.parameters()), Penalty(0.0, l2), clamp)
        for net, l2, clamp in ((D, 1e-4, 1.0), (G, 0.0, 5.0))
    ]
    autocast = choose(precision, CPU).autocast
    return Game(*players, feed, AccuracyGate(1.01, 4, CPU), autocast=autocast)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_D_that_is_certain_of_everything_recovers(precision):
    game = stuck_game(precision)
    losses = []
    for _ in range(80):
        game.figures.zero()
        game.iteration(4)
        losses.append(float(game.figures.sums["D_loss"]))
    assert losses[0] == pytest.approx(10, abs=0.5)
    assert statistics.median(losses[-20:]) < 1
