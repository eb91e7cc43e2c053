"""The two steps of the game: loss, penalties, clamps, the gate, the feeds."""

import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import (
    AccuracyGate,
    FaultyPenalty,
    Game,
    Learner,
    Penalty,
)
from eyescream_py.game.answers import bce_loss
from eyescream_py.game.averaging import Ema
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.group import Alone
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.optim import SGD, ConfusionMatrix
from eyescream_py.torch7.random import TorchSource


def test_bce_equals_autograds():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(32, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    targets = torch.bernoulli(torch.full((32,), 0.5), generator=generator).double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss, expected = bce_loss(ours, targets), nn.functional.binary_cross_entropy(theirs, targets)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=0)


def test_bce_at_certainty_is_finite_as_in_lua():
    """-log(1e-12) where torch would clamp at 100; the slope is 1e12/N, not infinite."""
    x = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    loss = bce_loss(x, torch.tensor([1.0, 0.0], dtype=torch.float64))
    loss.backward()
    assert float(loss) == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert x.grad.isfinite().all()
    assert float(x.grad[0]) == pytest.approx(-0.5e12, rel=1e-4)


def test_penalties_value_and_gradient():
    weights = torch.tensor([[1.0, -2.0], [0.0, 4.0]])
    penalty = Penalty(l1=0.1, l2=0.01)
    assert float(penalty.value([weights])) == pytest.approx(0.1 * 7 + 0.01 / 2 * 21)
    gradient = torch.zeros(2, 2)
    penalty.add_gradients([weights], [gradient])
    torch.testing.assert_close(gradient, 0.1 * weights.sign() + 0.01 * weights)
    assert Penalty().value([weights]) == 0


def test_the_penalty_that_a_replay_keeps():
    weights, gradient = torch.tensor([2.0, -3.0]), torch.zeros(2)
    FaultyPenalty(l1=5.0, l2=0.1).add_gradients([weights], [gradient])
    torch.testing.assert_close(gradient, 0.1 * (weights.sign() + weights))


def player(network, clamp=0.0, penalty=None, lr=1.0):
    return Learner(network, SGD(network.parameters(), lr), penalty or Penalty(), clamp)


def test_gradients_are_clamped_after_the_penalty():
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[100.0, -100.0]])
    made = player(network, clamp=0.5, penalty=Penalty(l2=1.0))
    made.backward(network(torch.tensor([[0.1, 0.1]])).sum(), Alone())
    assert network.weight.grad.tolist() == [[0.5, -0.5]]
    made.clamp = 0.0
    made.backward(network(torch.tensor([[0.1, 0.1]])).sum(), Alone())
    torch.testing.assert_close(network.weight.grad, torch.tensor([[100.1, -99.9]]))


@pytest.mark.parametrize("flat", [False, True])
def test_bounds_hold_for_every_parameter_and_nan_stays(flat):
    network = nn.Linear(3, 1)
    params = Flat(network) if flat else network.parameters()
    learner = Learner(network, SGD(params, 1.0), Penalty(), 0.5)
    loss = (network.weight * torch.tensor([-3.0, 0.25, math.nan])).sum() + 7 * network.bias.sum()
    learner.backward(loss, Alone())
    (slopes,), (last,) = network.weight.grad.tolist(), network.bias.grad.tolist()
    assert slopes[:2] == [-0.5, 0.25]
    assert math.isnan(slopes[2])
    assert last == 0.5


def test_the_objective_is_the_loss_with_its_penalty():
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[3.0, 4.0]])
    made = player(network, penalty=Penalty(l1=1.0, l2=2.0))
    assert made.objective(torch.tensor(0.5)) == pytest.approx(0.5 + 7 + 25)


@pytest.mark.parametrize(("batch", "window"), [(4, 250), (16, 62), (32, 31), (100, 20)])
def test_the_gates_window_follows_the_batch(batch, window):
    gate = AccuracyGate(0.5, batch, torch.device("cpu"))
    assert len(gate.accuracies) == window


def test_the_gate_closes_on_the_mean_of_its_last_batches():
    gate = AccuracyGate(0.75, 100, torch.device("cpu"))
    right, wrong = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    targets = torch.tensor([1.0, 0.0])
    history = []
    for step in range(60):
        predictions = right if step < 30 else wrong
        history.append(1.0 if step < 30 else 0.0)
        mean = sum(history[-20:]) / len(history[-20:])
        assert bool(gate.update(predictions, targets)) == (mean < 0.75), step
    assert gate.can_close
    assert AccuracyGate(1.0, 16, torch.device("cpu")).can_close  # on a D that is always right
    assert not AccuracyGate(1.01, 16, torch.device("cpu")).can_close


def faces(count=12, size=4):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return Dataset(images, "test")


def game(bound=1.01, iterations=(1, 1)):
    torch.manual_seed(3)
    D = nn.Sequential(View(16), nn.Linear(16, 1), nn.Sigmoid())
    G = nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), View(1, 4, 4))
    feed = FaceFeed(faces(), G, 3, 8, TorchSource(1))
    gate = AccuracyGate(bound, 4, torch.device("cpu"))
    return Game(player(D, lr=0.1), player(G, lr=0.1), feed, gate, iterations)


def weights(network):
    return torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])


def test_each_step_changes_its_own_player_only():
    made = game()
    D, G = weights(made.D.network), weights(made.G.network)
    made.discriminator_step(4)
    assert not torch.equal(weights(made.D.network), D)
    assert torch.equal(weights(made.G.network), G)
    D = weights(made.D.network)
    made.generator_step(4)
    assert torch.equal(weights(made.D.network), D)
    assert not torch.equal(weights(made.G.network), G)


class Watched(torch.autograd.Function):
    """A product that notes in which backward passes the slope of its weight was asked for."""

    asked: ClassVar = []

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, g):
        Watched.asked.append(ctx.needs_input_grad)
        x, weight = ctx.saved_tensors
        return g @ weight, g.T @ x if ctx.needs_input_grad[1] else None


def test_no_slopes_of_Ds_weights_are_computed_in_Gs_step(monkeypatch):
    made = game()
    layer = next(m for m in made.D.network.modules() if isinstance(m, nn.Linear))
    layer.forward = lambda x: Watched.apply(x, layer.weight) + layer.bias
    monkeypatch.setattr(Watched, "asked", [])
    made.feed.begin_epoch()
    made.iteration(8)
    assert Watched.asked == [(False, True), (True, False)]
    assert all(p.requires_grad for p in made.D.network.parameters())


def test_a_closed_gate_withholds_the_step_and_says_so():
    made, log = game(bound=0.0, iterations=(2, 1)), []
    D = weights(made.D.network)
    made.iteration(4, lambda network, loss: log.append((network, loss)))
    assert torch.equal(weights(made.D.network), D)
    assert [(network, loss is None) for network, loss in log] == [
        ("D", True), ("D", True), ("G", False)
    ]  # fmt: skip
    assert int(made.figures.sums["D_trained"]) == 0
    assert int(made.figures.confusion.counts.sum()) == 8


def test_each_player_takes_its_steps_in_turn_and_the_average_one_an_iteration():
    made, turns = game(iterations=(2, 3)), []
    made.ema = Ema(made.G.network, 0.9)
    made.iteration(4, lambda network, loss: turns.append(network))
    assert turns == list("DDGGG")
    assert int(made.ema.updates) == 1


def test_only_a_D_that_is_certain_of_everything_is_stuck():
    made = game()
    made.iteration(4)
    assert made.is_stuck() == ""
    certain = made.figures.sums["D_certain"]
    certain.fill_(3)
    assert made.is_stuck() == ""
    certain.fill_(4)
    assert "certain of every picture" in made.is_stuck()
    made.figures.zero()
    assert made.is_stuck() == ""  # of no picture at all


def test_figures_begin_an_epoch_at_nothing():
    made = game()
    made.iteration(4)
    assert made.figures.sums["D_loss"] > 0 < made.figures.sums["G_loss"]
    assert int(made.figures.confusion.counts.sum()) == 4
    made.figures.zero()
    assert not any(value.any() for value in made.figures.sums.values())
    assert int(made.figures.confusion.counts.sum()) == 0


def test_d_learns_to_tell_a_fixed_generator():
    made = game()
    losses = []
    for _ in range(60):
        made.discriminator_step(8, lambda network, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_batches_are_half_real_and_drawn_from_the_pool():
    made = game()
    made.feed.begin_epoch()
    pool = made.feed.pool.numbers.tolist()
    assert len(set(pool)) == 8
    (images,), targets = made.feed.discriminator_batch(6)
    assert targets.tolist() == [1, 1, 1, 0, 0, 0]
    real = made.feed.dataset.floats(torch.tensor(pool))
    for image in images[:3]:
        assert any(torch.equal(image, face) for face in real)
    (generated,), ones = made.feed.generator_batch(6)
    assert ones.tolist() == [1] * 6
    assert generated.requires_grad


@pytest.mark.parametrize(
    ("counts", "texts"),
    [
        ([631, 365, 357, 639],
         ["63.353% ", "64.157% ", "row correct: 63.755020499229% ", "global correct: 63.7550"]),
        ([870, 126, 249, 747],
         ["87.349% ", "75.000% ", "row correct: 81.174698472023% ", "measure): 68.228530883789% "]),
        ([782, 214, 296, 700],
         ["78.514% ", "70.281% ", "row correct: 74.397590756416% ", "measure): 59.188777208328% "]),
    ],
)  # fmt: skip
def test_the_confusion_is_printed_as_the_lua_program_printed_it(counts, texts):
    confusion = ConfusionMatrix()
    confusion.counts.copy_(torch.tensor(counts))
    for text in texts:
        assert text in str(confusion)
