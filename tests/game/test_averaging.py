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


def test_statistics_are_measured_where_the_weights_have_changed_and_only_there():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    seen = []

    def inputs():
        for batch in torch.randn(3, 8, 1, 2, 2, generator=torch.Generator().manual_seed(1)) + 5:
            seen.append(batch)
            yield batch

    ema = Ema(network, 0.5)
    ema.settle(inputs())
    assert seen == []  # a copy, with the statistics that belong to it
    ema.update()
    for _ in range(2):
        ema.settle(inputs())
    assert len(seen) == 3
    expected = ema.average[0](torch.cat(seen)).mean((0, 2, 3))
    torch.testing.assert_close(ema.average[1].running_mean, expected)
    resumed = Ema(network, 0.5)
    resumed.resume(ema.updates)
    resumed.settle(inputs())
    assert len(seen) == 3  # a file holds them measured
    resumed.update()
    resumed.settle(inputs())
    assert len(seen) == 6
