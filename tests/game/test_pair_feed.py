"""Batches of coarse-to-fine pairs."""

import pytest
import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.data.pairs import coarse_and_diff, draw_pairs
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.adversarial_c2f import PairFeed, StalePairFeed
from eyescream_py.networks.models_c2f import PairSequential
from eyescream_py.system import kernels_in_torch
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.tables import CAddTable, JoinTable
from eyescream_py.torch7.optim import SGD
from eyescream_py.torch7.random import TorchSource


def pictures(count=30):
    torch.manual_seed(0)
    return Dataset(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8), "noise")


def feed(kind=PairFeed, kernels=None):
    def generate(noise, coarse):
        return noise + 2 * coarse

    made = kind(pictures(), generate, 4, 6, 20, TorchSource(3), kernels=kernels)
    made.begin_epoch()
    return made


@pytest.mark.parametrize("kernels", [None, kernels_in_torch])
def test_pairs_are_drawn_into_a_batch_with_kernels_and_without(kernels):
    pool = EpochPool(pictures(), 20, kernels=kernels)
    pool.draw(TorchSource(1))
    rows = torch.tensor([3, 3, 19])
    coarse, diff = (torch.full((5, 1, 8, 8), 7.0) for _ in range(2))
    draw_pairs(pool, rows, 4, coarse[1:4], diff[1:4])
    expected = coarse_and_diff(pool.dataset, pool.numbers[rows], 4)
    for found, truth in zip((coarse, diff), expected, strict=True):
        torch.testing.assert_close(found[1:4], truth, rtol=0, atol=1e-6)
        assert (found[[0, 4]] == 7).all()
    draw_pairs(pool, rows, 4, coarse[2:])
    torch.testing.assert_close(coarse[2:], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernels", [None, kernels_in_torch])
def test_half_of_a_batch_is_real_and_the_other_made_of_other_coarse_pictures(kernels):
    batches = feed(kernels=kernels)
    for n in (6, 4, 6):
        (diff, coarse), targets = batches.discriminator_batch(n)
        assert targets.tolist() == [1.0] * (n // 2) + [0.0] * (n // 2)
        fine = 255 * (diff + coarse)[: n // 2]
        torch.testing.assert_close(fine, fine.round(), rtol=0, atol=1e-3)
        assert torch.equal(diff[n // 2 :], batches.noise[n // 2 : n] + 2 * coarse[n // 2 :])
        assert not torch.equal(coarse[: n // 2], coarse[n // 2 :])
        (made, given), targets = batches.generator_batch(n)
        assert targets.tolist() == [1.0] * n
        assert torch.equal(made, batches.noise[:n] + 2 * given)


def test_targets_are_filled_once_and_not_in_each_step():
    batches = feed()
    first = batches.discriminator_batch(6)[1]
    others = [batches.discriminator_batch(n)[1] for n in (4, 6)]
    assert first.data_ptr() == others[1].data_ptr() != others[0].data_ptr()
    assert first.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_replay_keeps_rows_of_the_step_before():
    batches = feed(StalePairFeed)
    batches.discriminator_batch(6)
    before = batches.diff.clone(), batches.coarse.clone()
    (diff, coarse), targets = batches.discriminator_batch(4)
    assert len(diff) == len(coarse) == 6
    assert torch.equal(diff[4:], before[0][4:])
    assert torch.equal(coarse[4:], before[1][4:])
    assert targets.tolist() == [1, 1, 0, 0, 0, 0]
    assert batches.generator_batch(4)[1].tolist() == [1] * 6
    assert torch.equal(batches.diff, diff)
    assert set(batches.state()) >= {"diff", "coarse", "targets"}


def test_rows_of_the_step_before_are_trained_on_and_not_counted():
    """Figures are of a batch's own pictures."""
    torch.manual_seed(1)
    D = PairSequential(CAddTable(), View(64), nn.Linear(64, 1), nn.Sigmoid())
    G = PairSequential(JoinTable(2), nn.Conv2d(2, 1, 3, padding=1))
    players = [Learner(net, SGD(net.parameters(), 0.1), Penalty(), 0.0) for net in (D, G)]
    batches = StalePairFeed(pictures(), G, 4, 6, 20, TorchSource(3))
    batches.begin_epoch()
    judged = []
    D.register_forward_hook(lambda *given: judged.append(len(given[-1])))
    game = Game(*players, batches, AccuracyGate(1.01, 6, torch.device("cpu")))
    for n in (6, 4):
        game.iteration(n)
    assert judged == [6] * 4
    assert int(game.figures.confusion.counts.sum()) == 10
