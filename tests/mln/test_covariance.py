from dataclasses import replace

import numpy as np
import pytest
import torch

from eyescream_py.mln import covariance
from eyescream_py.mln.analytic import grid_times, noise_power, turns_per_readout
from eyescream_py.mln.covariance import covariance_start, set_covariance_weights
from eyescream_py.mln.data import Examples
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.networks import Shape, build_network
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import cartesian
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol


def error(output: torch.Tensor, label: torch.Tensor) -> float:
    return ((output - label).norm() / label.norm()).item()


def mask_protocol(kept: int = 2) -> Protocol:
    """Every `kept`-th row and column of k-space, four coils."""
    chosen = np.zeros((SIDE, SIDE), bool)
    chosen[::kept, ::kept] = True
    setup = make_protocol(Setup(side=SIDE, coils=4, samples=64))[0]
    trajectory = cartesian(chosen)
    acquisition = Acquisition(choose_operator(trajectory, SIDE), setup.acquisition.coils)
    return Protocol(trajectory, acquisition, setup.mask)


def white_images(protocol: Protocol, count: int, seed: int = 0) -> torch.Tensor:
    return random_images(count, 1, SIDE, SIDE, seed=seed) * protocol.mask


@pytest.mark.parametrize("side", [SIDE, 9])
def test_one_coil_and_all_samples_are_inverted_exactly(side: int) -> None:
    trajectory = cartesian(np.ones((side, side), bool))
    coils = torch.ones(1, 1, side, side, dtype=torch.complex64)
    acquisition = Acquisition(choose_operator(trajectory, side), coils)
    protocol = Protocol(trajectory, acquisition, torch.ones(1, side, side))
    net = build_network(Shape(side, side, side / 2, 1, 1, 1, k_grid="matched"), trajectory)
    set_covariance_weights(net, protocol, 1e-7)
    images = random_images(2, 1, side, side)
    with torch.no_grad():
        assert error(net(acquisition.forward(images)), images) < 1e-5


def least_squares(
    protocol: Protocol, index: torch.Tensor, k: tuple[int, int], maps: torch.Tensor, count: int
) -> torch.Tensor:
    """(P, channels): from samples `index` (K*K, n) of white images to those times `maps` at k."""
    images = white_images(protocol, count)
    signal = protocol.acquisition.forward(images)
    near = index[(k[0] + 8) * SIDE + k[1] + 8]
    taps = signal[:, :, near].permute(0, 2, 1).flatten(1)  # [E,P]
    line = torch.arange(SIDE) - 8
    place = torch.exp(2j * torch.pi / SIDE * (k[0] * line[:, None] + k[1] * line))
    wanted = ((images * maps) * place.conj()).sum((2, 3)) / SIDE**2  # [E,channels]
    noise = 1e-2 * taps.abs().square().sum() / taps.shape[1] * torch.eye(taps.shape[1])
    return torch.linalg.solve(taps.mH @ taps + noise, taps.mH @ wanted)


def test_kernels_know_when_each_sample_was_taken() -> None:
    """At k = (5, -5), whose neighbours' times are a third of the readout apart."""
    protocol, _ = make_protocol(Setup(side=SIDE, coils=4, samples=500, turns=6, b0_hz=150))
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 4, 4, 3, k_grid="matched"), protocol.trajectory)
    set_covariance_weights(net, protocol, 1e-2)
    row, acquisition = 13 * SIDE + 3, protocol.acquisition
    turns = turns_per_readout(acquisition) * grid_times(net, acquisition)[row]
    maps = protocol.mask * torch.exp(-2j * torch.pi * turns)
    expected = least_squares(protocol, net.k_layer.index, (5, -5), maps, 800)
    found = net.k_layer.weight.detach()[row].sum(1, keepdim=True)  # over the parts of the readout
    assert error(found, expected) < 0.15  # 0.45 where the field has the other sign


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("kind", ["mask", "spiral"])
def test_kernels_are_the_least_squares_ones_of_many_white_images(kind: str, channels: int) -> None:
    protocol = mask_protocol() if kind == "mask" else spiral_protocol(coils=4)
    net = build_network(
        Shape(SIDE, SIDE, SIDE / 2, 4, 4, channels, k_grid="matched"), protocol.trajectory
    )
    set_covariance_weights(net, protocol, 1e-2, channels)
    maps = protocol.acquisition.coils[0] if channels > 1 else protocol.mask
    expected = least_squares(protocol, net.k_layer.index, (-3, 1), maps, 2500)
    assert error(net.k_layer.weight.detach()[5 * SIDE + 9], expected) < 0.1


def test_it_beats_few_examples_on_unseen_images_and_sweeps_help_further() -> None:
    protocol = spiral_protocol(coils=4)
    test = Examples(small_params(), protocol, phantoms(), seed=9).simulate(list(range(6)))
    shape = Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4, k_grid="matched")
    errors = []
    for sweeps in (0, 2):
        net = build_network(shape, protocol.trajectory)
        examples = Examples(small_params(), protocol, phantoms())
        history = covariance_start(net, protocol, examples, 80, 1e-3, 4, sweeps)
        assert history == sorted(history, reverse=True)
        # 0.62; 0.77 where the preconditioner is not of the power at each grid point
        assert not history or history[-1] < 0.7 * history[0]
        with torch.no_grad():
            errors.append(error(net(test.signal), test.label))
    assert errors[0] < 0.15
    assert errors[1] < errors[0]


def test_a_start_that_knows_the_noise_does_better_on_noisy_samples() -> None:
    protocol = spiral_protocol(coils=4)
    noisy = small_params(noise_level=0.05)
    test = Examples(noisy, protocol, phantoms(), seed=9).batch(0, 6)
    errors = []
    for noise in (0.0, 0.05):
        net = build_network(
            Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4, k_grid="matched"), protocol.trajectory
        )
        examples = Examples(small_params(), protocol, phantoms())
        assert covariance_start(net, protocol, examples, 8, 1e-3, 4, noise=noise) == []
        with torch.no_grad():
            errors.append(error(net(test.signal), test.label))
    assert errors[1] < 0.8 * errors[0]


def test_noise_counts_in_both_parts_of_a_number() -> None:
    protocol = spiral_protocol(coils=4)
    shape = Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4, k_grid="matched")
    found, wanted = (build_network(shape, protocol.trajectory) for _ in range(2))
    examples = Examples(small_params(), protocol, phantoms())
    covariance_start(found, protocol, examples, 8, 1e-3, 4, noise=0.05)
    squares = examples.simulate(list(range(8))).signal.abs().square()
    power = squares.mean((0, 1))[found.k_layer.index].mean(1)
    set_covariance_weights(wanted, protocol, 1e-3 + 2 * 0.05**2 / power, 4)
    torch.testing.assert_close(found.k_layer.weight, wanted.k_layer.weight)
    assert noise_power(squares.sqrt(), 0.1, 0.05) == pytest.approx(
        8 * (0.1 * float(squares.mean()) + 2 * 0.05**2)
    )


@pytest.mark.parametrize("grid", ["matched", "legacy"])
@pytest.mark.parametrize("side", [SIDE, 19])
def test_both_grids_are_served(side: int, grid: str) -> None:
    protocol = spiral_protocol(coils=4, side=side)
    net = build_network(Shape(side, side, side / 2, 4, 8, 4, k_grid=grid), protocol.trajectory)
    set_covariance_weights(net, protocol, 1e-3, 4)
    sizes = dict.fromkeys(("LabelsH", "LabelsW", "aDataH", "aDataW"), side)
    params = small_params(**sizes, kMax=side / 2)
    test = Examples(params, protocol, phantoms(), seed=9).simulate(list(range(4)))
    with torch.no_grad():
        assert error(net(test.signal), test.label) < 0.2


def test_places_are_rounded_to_quarters_at_the_coarsest(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = spiral_protocol(coils=4)
    fine, coarse = (
        build_network(Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4, k_grid="matched"), protocol.trajectory)
        for _ in range(2)
    )
    set_covariance_weights(fine, protocol, 1e-2, 4)
    monkeypatch.setattr(covariance, "TABLE_BYTES", 0)
    set_covariance_weights(coarse, protocol, 1e-2, 4)
    assert 0.01 < error(coarse.k_layer.weight, fine.k_layer.weight) < 0.5


def test_times_are_as_fine_for_fields_below_as_above_the_scanner_s() -> None:
    protocol, _ = make_protocol(Setup(side=SIDE, coils=4, samples=500, turns=6, b0_hz=150))
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4, k_grid="matched"), protocol.trajectory)
    phases, steps = protocol.acquisition.phases, []
    for turned in (phases, phases.conj()):
        acquisition = replace(protocol.acquisition, phases=turned)
        steps.append(covariance._places(net, replace(protocol, acquisition=acquisition), None)[2])
    assert steps[0] == steps[1]
    assert steps[0][1] == pytest.approx(1 / 48)  # 1.5 turns at most, 32 steps a turn


def test_off_resonance_is_undone() -> None:
    protocol, _ = make_protocol(Setup(side=SIDE, coils=4, samples=500, turns=6, b0_hz=150))
    test = Examples(small_params(), protocol, phantoms(), seed=9).simulate(list(range(4)))
    blind = Protocol(
        protocol.trajectory,
        Acquisition(protocol.acquisition.operator, protocol.acquisition.coils),
        protocol.mask,
    )
    errors = []
    for known, parts in ((blind, 1), (protocol, 3)):
        net = build_network(
            Shape(SIDE, SIDE, SIDE / 2, 4, 8, 4 * parts, k_grid="matched"), protocol.trajectory
        )
        set_covariance_weights(net, known, 1e-3, 4)
        with torch.no_grad():
            errors.append(error(net(test.signal), test.label))
    assert errors[1] < 0.65 * errors[0]


def test_networks_it_does_not_serve_are_refused() -> None:
    protocol = spiral_protocol()
    net = build_network(Shape(SIDE, SIDE, SIDE / 2, 3, 4, 3), protocol.trajectory)
    with pytest.raises(ValueError, match="2 channels do not divide 3 segments"):
        set_covariance_weights(net, protocol, 1e-3, 2)
