"""Rates that fall, an average whose memory grows, and one pass of G for both steps."""

import pytest
import torch
from torch import nn

from eyescream_py.game.averaging import Ema
from eyescream_py.training.game import LAST_RATE, falling


@pytest.mark.parametrize(
    ("epoch", "epochs", "start", "factor"),
    [(1, 10, 0.5, 1.0), (5, 10, 0.5, 1.0), (10, 10, 0.5, LAST_RATE), (7, 0, 0.5, 1.0),
     (10, 10, 1.0, 1.0), (12, 10, 0.5, LAST_RATE), (9, 12, 0.5, 1 - 0.98 / 2), (1, 1, 0.5, 1.0)],
)  # fmt: skip
def test_rates_fall_in_the_last_part(epoch, epochs, start, factor):
    assert falling(epoch, epochs, start) == pytest.approx(factor)


def test_the_power_average_weighs_step_k_by_its_time():
    """After n steps the weights of the k-th are those of the product formula, in double."""
    network = nn.Linear(1, 1, bias=False).double()
    ema = Ema(network, 0.0, power=3.0)
    expected, values = 0.0, [5.0, -1.0, 2.0, 7.0]
    for n, value in enumerate(values, 1):
        nn.init.constant_(network.weight, value)
        ema.update()
        decay = (1 - 1 / n) ** 3
        expected = decay * expected + (1 - decay) * value
    assert float(ema.average.weight) == pytest.approx(expected, abs=1e-12)


def test_settled_statistics_are_those_of_the_averaged_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    ema = Ema(network, 0.5)
    ema.update()
    x = torch.rand(50, 1, 4, 4, dtype=torch.float64)
    before = network[1].running_mean.clone()
    ema.settle([x])
    planes = ema.average[0](x)
    torch.testing.assert_close(ema.average[1].running_mean, planes.mean((0, 2, 3)))
    torch.testing.assert_close(ema.average[1].running_var, planes.transpose(0, 1).flatten(1).var(1))
    assert torch.equal(network[1].running_mean, before)
    ema.settle([])  # nothing changed since: not measured again
    torch.testing.assert_close(ema.average[1].running_mean, planes.mean((0, 2, 3)))
