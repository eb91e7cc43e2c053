"""What processes share; two of them meet in tests/training/test_distributed.py."""

import torch
from torch import nn

from eyescream_py.game import group as sharing
from eyescream_py.torch7.random import TorchSource


def made_of_batches(group):
    """What a group makes of a batch that two processes share and of one that they cannot."""
    norm = nn.BatchNorm1d(3, momentum=0.3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 1.0]))
    group.share_statistics(norm)
    own = TorchSource(3)
    source = group.source(own)
    wholes = [torch.rand(n, 3, dtype=torch.float64, generator=seeded(n)) for n in (6, 8)]
    made = {}
    for whole in wholes:
        with group.sharing(n := len(whole)) as ours:
            mine = group.rows(whole).requires_grad_()
            made[f"of {n}"] = of_rows(group, norm, source, mine, ours / n)
    made["outside"] = group.gather(group.rows(wholes[1]))
    made["statistics"] = [value.clone() for value in norm.buffers()]
    made["order"], made["drawn"] = source.permutation(9), source.state()["torch"]
    made["recorded"] = source.generator is own.generator  # which a CUDA graph has to know
    made["evaluated"] = norm.eval()(wholes[0])
    assert source.set_state(TorchSource(4).state())
    made["again"] = source.permutation(9)
    return made


def of_rows(group, norm, source, x, share):
    """Rows that all processes have in the end, in an order that does not hang on their number, and
    means over them."""
    y = norm(x)
    slopes = torch.autograd.grad((y**3 * x.detach()).mean(), [x, norm.weight, norm.bias])
    empty = torch.empty_like(x)
    drawn = (
        source.uniform_(empty.clone(), -1, 2), source.normal_(empty.clone(), 3, 2),
        source.bernoulli_(empty.clone(), 0.3), source.indices_(empty.clone().long(), 9),
    )  # fmt: skip
    rows = torch.cat([x.detach(), y.detach(), slopes[0] * share, *drawn], 1)
    rows = group.gather(rows.T.contiguous().T)  # however they lie in memory
    flat, across = x.detach().mean(0), torch.stack([y.detach().mean(0)] * 2, 1).T
    pair = [slopes[1].clone(), torch.stack([slopes[2], flat])]
    for tensors in ([flat], [across], pair):
        group.average_(tensors)
    return {"rows": rows[rows[:, 0].argsort()], "means": [flat, across, *pair]}


def seeded(number):
    return torch.Generator().manual_seed(number)


def test_alone_nothing_is_shared():
    group = sharing.Alone()
    x = torch.arange(6.0)
    with group.sharing(6) as n:
        assert n == 6
        assert group.rows(x) is x
        assert group.gather(x) is x
        group.average_([x])
    assert x.tolist() == [0, 1, 2, 3, 4, 5]
