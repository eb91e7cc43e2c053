from dataclasses import replace

import numpy as np
import pytest
import torch

from eyescream_py.mln.analytic import (
    channel_maps,
    check_start,
    grid_spectra,
    grid_times,
    normal_factors,
    refine_k_layer,
    ridge_regression,
    set_regression_weights,
    turns_per_readout,
)
from eyescream_py.mln.baselines import adjoint_image
from eyescream_py.mln.data import Examples
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.networks import Shape, build_network
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import cartesian, density_compensation
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol


def error(output: torch.Tensor, label: torch.Tensor) -> float:
    return ((output - label).norm() / label.norm()).item()


def test_analytic_weights_invert_full_cartesian_data() -> None:
    """R = 1/N, L = 1: exact for one uniform coil, n = T = 1 and the matched k-grid."""
    trajectory = cartesian(np.ones((SIDE, SIDE), bool))
    acquisition = Acquisition(
        choose_operator(trajectory, SIDE), torch.ones(1, 1, SIDE, SIDE, dtype=torch.complex64)
    )
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 1, 1, 1, k_grid="matched"), trajectory)
    torch.nn.init.constant_(net.k_layer.weight, 1 / SIDE)
    torch.nn.init.ones_(net.i_layer.weight)
    images = random_images(2, 1, SIDE, SIDE)
    with torch.no_grad():
        assert error(net(acquisition.forward(images)), images) < 1e-5


@pytest.mark.parametrize("grid", ["matched", "legacy"])
def test_fourier_layers_invert_the_grid_spectra(grid: str) -> None:
    """Exactly on the matched grid; on the legacy one up to its oversampled rim."""
    protocol = spiral_protocol()
    params = small_params()
    shape = Shape(SIDE, SIDE, 8.0 if grid == "matched" else 7.0, 3, 4, 1, k_grid=grid)
    net = build_network(shape, protocol.trajectory)
    images = Examples(params, protocol, phantoms()).simulate([0, 1]).label[:, 0]
    spectra = grid_spectra(net, protocol.acquisition, images, None)  # [K*K,E]
    matrix = net.rows.matrix
    back = torch.einsum("ih,ile,lw->ehw", matrix, spectra.unflatten(0, (SIDE, SIDE)), matrix)
    assert error(back, images) < (1e-5 if grid == "matched" else 0.3)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_combine_to_the_image_inside_the_mask_and_to_nothing_outside(
    channels: int,
) -> None:
    made = spiral_protocol()
    acquisition = Acquisition(made.acquisition.operator, random_images(1, 3, SIDE, SIDE))
    protocol = Protocol(made.trajectory, acquisition, made.mask)  # whose maps go on beyond it
    maps, combination = channel_maps(protocol, channels)
    assert len(maps) == channels
    torch.testing.assert_close((maps * combination).sum(0), made.mask[0] + 0j)


def test_ridge_regression_is_the_least_squares_solution() -> None:
    protocol = spiral_protocol()
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 3, 4, 1), protocol.trajectory)
    signal = random_images(40, 3, protocol.trajectory.shape[1])
    target = random_images(SIDE**2, 2, 40, seed=1)
    factors = normal_factors(net, signal, 1e-6, chunk=50)
    weight = ridge_regression(net, signal, target, factors, chunk=100)
    row = 37
    taps = signal[:, :, net.k_layer.index[row]].permute(0, 2, 1).flatten(1).numpy()
    expected = np.linalg.lstsq(taps, target[row].T.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight[row].numpy(), expected, atol=1e-4)


def test_regression_start_beats_the_adjoint_at_once_and_more_channels_help() -> None:
    protocol = spiral_protocol(coils=4)
    test = Examples(small_params(), protocol, phantoms(), seed=9).simulate(list(range(6)))
    errors = {}
    for channels in (1, 4):
        params = small_params(nTimeSegments=channels, nNeighbors=8)
        examples = Examples(params, protocol, phantoms())
        shape = Shape(SIDE, SIDE, SIDE / 2, 4, 8, channels, k_grid="matched")
        net = build_network(shape, protocol.trajectory)
        set_regression_weights(net, protocol, examples, 80, 1e-5, channels)
        with torch.no_grad():
            errors[channels] = error(net(test.signal), test.label)
    weights = torch.from_numpy(density_compensation(protocol.trajectory))
    adjoint = error(adjoint_image(protocol.acquisition, test.signal, weights), test.label)
    assert errors[4] < 0.7 * adjoint
    assert errors[4] < errors[1]


def test_sweeps_lower_the_error_and_time_parts_help_under_strong_off_resonance() -> None:
    protocol, b0 = make_protocol(Setup(side=SIDE, coils=3, samples=500, turns=6, b0_hz=150))
    turns = turns_per_readout(protocol.acquisition)
    torch.testing.assert_close(turns, b0 * 0.01, atol=1e-4, rtol=1e-4)
    test = Examples(small_params(), protocol, phantoms(), seed=9).simulate(list(range(6)))
    errors = []
    for parts in (1, 3):
        shape = Shape(SIDE, SIDE, SIDE / 2, 3, 6, parts, k_grid="matched")
        net = build_network(shape, protocol.trajectory)
        examples = Examples(small_params(), protocol, phantoms())
        history = set_regression_weights(net, protocol, examples, 120, 1e-4, 1, 3)
        assert history == sorted(history, reverse=True)
        with torch.no_grad():
            errors.append(error(net(test.signal), test.label))
    assert errors[1] < 0.8 * errors[0]
    times = grid_times(net, protocol.acquisition)
    assert 0 <= times.min() < 0.1 < 0.9 < times.max() <= 1


def test_each_grid_point_sees_the_phase_of_its_own_time() -> None:
    protocol, _ = make_protocol(Setup(side=SIDE, coils=3, samples=500, turns=6, b0_hz=150))
    acquisition = protocol.acquisition
    shape = Shape(SIDE, SIDE, SIDE / 2, 3, 6, 3, k_grid="matched")
    net, images = build_network(shape, protocol.trajectory), random_images(2, SIDE, SIDE)
    at_first = torch.arange(SIDE**2) % 2 == 0
    found = grid_spectra(net, acquisition, images, 1.0 - at_first.float())
    for part, phase in ((at_first, 1.0), (~at_first, acquisition.phases[0, -1])):
        expected = grid_spectra(net, acquisition, images * phase, None)
        torch.testing.assert_close(found[part], expected[part])


def test_sweeps_end_at_the_kernels_of_least_error_under_the_noise() -> None:
    """Where the slope of |A R - label|^2 + noise mean|L|^2 N^2 |R|^2 is zero; more sweeps than that
    takes leave them there (rounding, amplified, made 1e12 of them).
    """
    torch.manual_seed(0)
    protocol, noise = spiral_protocol(), 0.2
    batch = Examples(small_params(), protocol, phantoms()).simulate(list(range(12)))
    shape = Shape(SIDE, SIDE, SIDE / 2, 3, 2, 1, k_grid="matched")
    net = build_network(shape, protocol.trajectory)
    errors = refine_k_layer(net, batch, noise, normal_factors(net, batch.signal, noise), 150)
    assert errors[-1] == pytest.approx(min(errors), rel=1e-3)
    damping = noise * net.i_layer.weight.detach().abs().square().mean() * SIDE**2
    weight = net.k_layer.weight
    error = (net(batch.signal) - batch.label).abs().square().sum()
    (slope,) = torch.autograd.grad(error + damping * weight.abs().square().sum(), weight)
    assert slope.norm() < 0.02 * (2 * damping * weight.detach()).norm()


def test_wrong_shapes_are_refused() -> None:
    protocol = spiral_protocol()
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 3, 4, 3), protocol.trajectory)
    examples = Examples(small_params(), protocol, phantoms())
    with pytest.raises(ValueError, match="2 channels do not divide 3 segments"):
        set_regression_weights(net, protocol, examples, 8, 1e-3, 2)
    relaxed = Shape(SIDE, SIDE, SIDE / 2, 3, 4, 3, trainable_fourier=True)
    check_start(build_network(relaxed, protocol.trajectory), protocol, 3)
    mixing = build_network(replace(relaxed, shared_fourier=False), protocol.trajectory)
    with pytest.raises(ValueError, match="with Fourier layers only"):
        check_start(mixing, protocol, 3)
