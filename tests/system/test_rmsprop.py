import pytest
import torch

from eyescream_py.system.rmsprop import TensorFlowRMSProp


@pytest.mark.parametrize("recorded", [False, True])
def test_it_starts_at_one_with_epsilon_inside_the_root(recorded):
    p = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = TensorFlowRMSProp([p], lr=torch.tensor(0.1) if recorded else 0.1)
    mean_square, expected = torch.ones(2), p.detach().clone()
    for gradient in (torch.tensor([0.5, -4.0]), torch.tensor([0.0, 1.0])):
        p.grad = gradient
        optimizer.step()
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected -= 0.1 * gradient / (mean_square + 1e-10).sqrt()
    assert torch.allclose(p, expected)


def test_it_leaves_parameters_without_gradient_alone():
    p = torch.ones(2, requires_grad=True)
    TensorFlowRMSProp([p], lr=0.1).step()
    assert torch.equal(p, torch.ones(2))
