"""The averaged generator of --G_ema."""

import torch
from torch import nn

from eyescream_py.game.averaging import Ema


def test_the_average_follows_its_formula():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = Ema(network, 0.3)
    expected = [p.detach().clone() for p in network.parameters()]
    generator = torch.Generator().manual_seed(1)
    for decay in (2 / 11, 3 / 12, 0.3, 0.3, 0.3):  # the ramp is (1+n)/(10+n)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        network[1].running_mean.add_(1)
        ema.update()
        pairs = zip(expected, network.parameters(), strict=True)
        expected = [decay * a + (1 - decay) * p.detach() for a, p in pairs]
    for a, b in zip(ema.average.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b)
        assert not a.requires_grad
    assert torch.equal(ema.average[1].running_mean, network[1].running_mean)


def test_the_average_shares_nothing_with_the_network():
    network = nn.Linear(2, 2)
    ema = Ema(network, 0.5)
    before = ema.average.weight.clone()
    network.weight.data.fill_(7)
    assert torch.equal(ema.average.weight, before)
