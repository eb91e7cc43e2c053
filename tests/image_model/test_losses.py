import math

import pytest
import torch

from eyescream_py.image_model.losses import (
    build_optimizer,
    clip_weights,
    discriminator_loss,
    generator_loss,
    separation,
)

EVEN = torch.zeros(4, 1)  # logits of one half


def test_log_losses_at_one_half() -> None:
    assert discriminator_loss("log", EVEN, EVEN).item() == pytest.approx(2 * math.log(2), abs=1e-5)
    assert generator_loss("log", EVEN).item() == pytest.approx(math.log(2), abs=1e-5)
    assert separation("log", EVEN + 100, EVEN - 100).item() == pytest.approx(1)
    assert separation("l2", EVEN + 3, EVEN + 1).item() == pytest.approx(2)


@pytest.mark.parametrize("logit", [7.0, 9.0, 12.0, 20.0, 50.0])
def test_log_losses_keep_their_slope_where_d_is_certain_and_wrong(logit: float) -> None:
    """With a Sigmoid and a small number under the logarithm it was gone at 20."""
    wrong = torch.full((2, 1), -logit, requires_grad=True)
    generator_loss("log", wrong).backward()
    torch.testing.assert_close(wrong.grad, torch.full((2, 1), -0.5 / (1 + math.exp(-logit))))
    real, fake = (torch.full((2, 1), s * logit, requires_grad=True) for s in (-1, 1))
    loss = discriminator_loss("log", real, fake)
    assert loss.item() == pytest.approx(2 * logit, rel=1e-3)
    loss.backward()
    assert (real.grad < -0.49).all()
    assert (fake.grad > 0.49).all()


def test_least_squares_losses() -> None:
    real, fake = torch.tensor([[0.5], [1.5]]), torch.tensor([[0.2], [-0.4]])
    assert discriminator_loss("l2", real, fake).item() == pytest.approx(0.25 + (0.04 + 0.16) / 2)
    assert generator_loss("l2", fake).item() == pytest.approx((0.64 + 1.96) / 2)


def test_wasserstein_losses_fall_where_the_players_gain() -> None:
    real, fake = torch.tensor([[3.0], [1.0]]), torch.tensor([[0.5], [-0.5]])
    assert discriminator_loss("wgan", real, fake).item() == pytest.approx(-2.0)
    assert generator_loss("wgan", fake).item() == pytest.approx(0.0)
    assert generator_loss("wgan", fake + 1).item() < generator_loss("wgan", fake).item()


def test_clip_bounds_every_weight_and_leaves_small_ones() -> None:
    weights = [torch.tensor([-3.0, 0.005, 0.2]), torch.tensor([0.0])]
    clip_weights(weights)
    torch.testing.assert_close(weights[0], torch.tensor([-0.01, 0.005, 0.01]))
    assert weights[1].item() == 0


def test_parameters_without_gradient_stay() -> None:
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = build_optimizer("RMSP", [moved, still], 0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2))
    assert (moved < 1).all()


def test_adam_moves_by_its_rate_at_first() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = build_optimizer("ADAM", [parameter], 0.01)
    parameter.grad = torch.tensor([5.0, -0.1])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.99, 1.01]))


def test_adam_has_tensorflows_settings() -> None:
    (group,) = build_optimizer("ADAM", [torch.nn.Parameter(torch.ones(1))], 0.02).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.9, 0.999), 1e-8)
