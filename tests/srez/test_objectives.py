import math

import pytest
import torch
from torch import nn

from eyescream_py.srez.objectives import (
    adversarial_loss,
    box_reduce,
    critic_parts,
    gradient_penalty,
    pixel_loss,
    tie_loss,
    wasserstein_estimate,
)


def test_gan_losses_of_an_undecided_critic():
    zero = torch.zeros(5)
    on_real, on_fake = critic_parts("gan", zero, zero)
    assert float(on_real + on_fake) == pytest.approx(2 * math.log(2))
    assert float(adversarial_loss("gan", zero)) == pytest.approx(math.log(2))


def test_wasserstein_losses_reward_high_scores_of_real_pictures():
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.0])
    for objective in ("wgan", "wgangp"):
        assert float(sum(critic_parts(objective, real, fake))) == -3.5
        assert float(adversarial_loss(objective, fake)) == -0.5
    assert float(wasserstein_estimate(real, fake)) == 3.5


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic_is_the_squared_excess_of_its_slope(length):
    weights = torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0))
    weights *= length / weights.norm()

    class Linear(nn.Module):
        def forward(self, x):
            return x.flatten(1) @ weights

    real, fake, alpha = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.rand(2)
    penalty = gradient_penalty(Linear(), real, fake, alpha)
    assert float(penalty.detach()) == pytest.approx((length - 1) ** 2, abs=1e-5)


def test_penalty_is_taken_between_real_and_generated_and_not_through_the_generator():
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x.square().sum((1, 2, 3))

    real, fake = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2, requires_grad=True)
    penalty = gradient_penalty(Recorder(), real, fake, torch.tensor([0.25, 1.0]))
    assert torch.equal(seen[0][:, 0, 0, 0], torch.tensor([0.25, 1.0]))
    # |2x| over 12 values: 0.5*sqrt(12) and 2*sqrt(12)
    wanted = ((0.5 * 12**0.5 - 1) ** 2 + (2 * 12**0.5 - 1) ** 2) / 2
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-5)
    assert torch.autograd.grad(penalty, fake, allow_unused=True)[0] is None


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_box_reduce_is_the_mean_of_boxes(factor):
    pictures = torch.rand(2, 3, 16, 16)
    side = 16 // factor
    by_hand = pictures.view(2, 3, side, factor, side, factor).mean((3, 5))
    assert torch.allclose(box_reduce(pictures, side), by_hand, atol=1e-6)


@pytest.mark.parametrize("side", [16, 1, 5])
def test_other_reductions_are_refused(side):
    with pytest.raises(ValueError, match="no reduction"):
        box_reduce(torch.rand(1, 3, 16, 16), side)


def test_tie_and_pixel_terms():
    label = torch.rand(2, 3, 16, 16)
    small = box_reduce(label, 4)
    assert float(tie_loss(label + 0.125, small)) == pytest.approx(0.125, abs=1e-6)
    assert float(pixel_loss(label - 0.25, label)) == pytest.approx(0.25, abs=1e-6)
