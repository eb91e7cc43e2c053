from dataclasses import replace

import pytest
import torch

from eyescream_py.mln import steps
from eyescream_py.mln.data import Batch, Examples
from eyescream_py.mln.networks import Shape, build_network
from eyescream_py.mln.params import Params
from eyescream_py.mln.protocol import Protocol
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol


def test_learning_rate_halves_in_minutes_or_batches() -> None:
    minutes = small_params(learning_rate_half_life=30, learning_rate_start=0.002)
    assert steps.learning_rate(minutes, 500, 1800) == pytest.approx(0.001)
    batches = replace(minutes, half_life=1000)
    assert steps.learning_rate(batches, 3000, 60) == pytest.approx(0.00025)


def test_loss_is_the_mean_over_both_parts() -> None:
    output, label = torch.tensor([[1 + 2j, 0]]), torch.tensor([[0, 0.5j]])
    assert steps.reconstruction_loss(output, label).item() == pytest.approx((1 + 2 + 0.5) / 4)


def test_weight_penalties() -> None:
    net = build_network(
        Shape(SIDE, SIDE, 8, 3, 4, 1, trainable_fourier=True), spiral_protocol().trajectory
    )
    zero = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.complex64)
    squares = sum(weight.abs().square().sum().item() for weight in net.parameters())
    loss = steps.total_loss(net, zero, zero, replace(Params(), l2_weight=0.1))
    assert loss.item() == pytest.approx(0.05 * squares, rel=1e-4)
    with torch.no_grad():
        net.rows.matrix.mul_(2)
    loss = steps.total_loss(net, zero, zero, replace(Params(), phase_only_weight=3.0))
    assert loss.item() == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("bands", [1, 2])
def test_one_step_for_bands_and_trained_fourier(bands: int) -> None:
    protocol = spiral_protocol()
    coils = torch.cat([protocol.acquisition.coils.roll(3 * band, -1) for band in range(bands)])
    protocol = Protocol(
        protocol.trajectory,
        replace(protocol.acquisition, coils=coils), protocol.mask.expand(bands, -1, -1),
    )  # fmt: skip
    params = small_params(RelaxedFT=1, WPhaseOnly=0.1)
    shape = Shape(SIDE, SIDE, 8, 3, 4, 2, bands, trainable_fourier=True)
    torch.manual_seed(0)
    net = build_network(shape, protocol.trajectory)
    batch = Examples(params, protocol, phantoms()).batch(0, 4)
    assert batch.label.shape == (4, bands, SIDE, SIDE)
    optimizer = steps.adam(net, params)
    losses = [steps.train_step(net, optimizer, batch, params, 0.01)[0] for _ in range(8)]
    assert losses[-1] < losses[0]


def test_adam_has_the_originals_settings() -> None:
    params = small_params(learning_rate_start=0.003)
    (group,) = steps.adam(torch.nn.Linear(1, 1), params).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.003, (0.9, 0.999), 1e-8)


def test_adam_moves_real_and_imaginary_parts_on_their_own() -> None:
    net = build_network(Shape(SIDE, SIDE, 8, 3, 4, 1), spiral_protocol().trajectory)
    before = net.k_layer.weight.detach().clone()
    batch = Batch(random_images(2, 3, 320), random_images(2, 1, SIDE, SIDE))
    params = small_params()
    steps.train_step(net, steps.adam(net, params), batch, params, 0.01)
    moved = torch.view_as_real(net.k_layer.weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0.05, atol=1e-6)


def test_steps_after_a_linear_start_are_shares_of_each_kernels_size() -> None:
    """A kernel a thousand times smaller moves a thousand times less."""
    protocol = spiral_protocol()
    net = build_network(Shape(SIDE, SIDE, 8, 3, 4, 1, k_grid="matched"), protocol.trajectory)
    with torch.no_grad():
        net.k_layer.weight[: SIDE**2 // 2] *= 1e-3
    before = net.k_layer.weight.detach().clone()
    params = small_params(Init="covariance")
    batch = Examples(params, protocol, phantoms()).batch(0, 4)
    steps.train_step(net, steps.adam(net, params), batch, params, 0.01)
    moved = torch.view_as_real(net.k_layer.weight.detach() - before).abs().amax((1, 2, 3))
    size = before.abs().square().mean((1, 2)).sqrt()
    torch.testing.assert_close(moved / size, torch.full_like(size, 0.01), rtol=0.1, atol=1e-4)
