"""What D's last layer asks of its kernels, which take less than torch's operators do."""

import copy
import types

import pytest
import torch
from torch import nn

from eyescream_py.networks.fused_head import Head, fuse_head
from eyescream_py.networks.fused_layers import Tools
from eyescream_py.networks.modes import InFull, exact_output, plain
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import Lanes


def tools(asked=None):
    """Kernels that refuse what those on a GPU would get wrong; `asked`: for which slopes."""

    def head(x, weight, bias):
        assert x.dim() == 2
        assert x.is_contiguous()
        return kernels_in_torch.head(x, weight, bias)

    def head_backward(g, x, weight, sums):
        assert g.shape == (len(x), 1)
        assert g.is_contiguous()
        asked.append(sums)
        return kernels_in_torch.head_backward(g, x, weight, sums)

    return Tools(types.SimpleNamespace(head=head, head_backward=head_backward),
                 Lanes(torch.device("cpu")))  # fmt: skip


def network(last, asked=None):
    made = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4), last)
    exact_output(made)
    fuse_head(made, tools(asked))
    return made


@pytest.mark.parametrize(
    ("last", "taken"),
    [(nn.Linear(4, 1), True), (nn.Linear(4, 2), False), (nn.Linear(4, 1, bias=False), False)],
)
def test_a_last_linear_to_one_number_is_taken_alone(last, taken):
    forwards = [layer.__dict__.get("forward") for layer in network(last)]
    assert [isinstance(forward, Head) for forward in forwards] == [False, False, taken]


@pytest.mark.parametrize("learns", [True, False])
def test_rows_lie_as_a_kernel_reads_them(learns):
    asked = []
    last = network(nn.Linear(4, 1), asked)[2].requires_grad_(learns)
    rows = torch.rand(4, 3).requires_grad_()
    y, (alone,) = last(rows.t()), last(rows[:, 0])
    torch.testing.assert_close(alone, y[0, 0])
    y.sum().backward()
    torch.testing.assert_close(rows.grad, last.weight.detach().t().expand(4, 3))
    assert asked == [learns]


def test_a_copy_that_is_differentiated_twice_goes_by_its_own_weights():
    made, x = network(nn.Linear(4, 1)), torch.rand(2, 4)
    twin, before = copy.deepcopy(made), made(x)
    with torch.no_grad():
        made[2].bias.add_(1)
    with plain(twin):
        torch.testing.assert_close(twin(x), before)
        assert isinstance(twin[2].forward, InFull)
    assert all(isinstance(net[2].forward, Head) for net in (made, twin))
