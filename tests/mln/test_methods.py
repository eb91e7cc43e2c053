"""TV and the linear optimum against independent computations, and what the comparison says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.mln.baselines import (
    adjoint_image,
    cg_sense,
    largest_eigenvalue,
    linear_optimum,
    radial_power,
    wavelet_l1,
)
from eyescream_py.mln.data import Batch, Examples
from eyescream_py.mln.methods import Settings, model_methods
from eyescream_py.mln.networks import Shape, build_network
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.reconstruction import (
    CG_STEPS,
    Score,
    best_cg_steps,
    compare,
    verdict,
)
from eyescream_py.mln.report import Outcome, outcome, table, write_report
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.total_variation import differences, differences_adjoint, total_variation
from eyescream_py.mln.trajectories import density_compensation
from tests.mln.small import SIDE, phantoms, random_images, small_params, spiral_protocol


def dense_matrix(protocol) -> torch.Tensor:
    """The acquisition as a matrix (C M, N^2), complex128."""
    pixels = torch.eye(SIDE**2, dtype=torch.complex64).reshape(-1, 1, SIDE, SIDE)
    return protocol.acquisition.forward(pixels).flatten(1).T.to(torch.complex128)


def test_differences_and_their_adjoint() -> None:
    images, pairs = random_images(2, 1, 5, 5), random_images(2, 1, 2, 5, 5)
    left = (differences(images).conj() * pairs).sum()
    right = (images.conj() * differences_adjoint(pairs)).sum()
    torch.testing.assert_close(left, right)
    assert differences(torch.ones(1, 4, 4)).abs().max() == 0


def objective(protocol, signal: torch.Tensor, image: torch.Tensor, weight: float) -> float:
    misfit = (protocol.acquisition.forward(image) - signal).abs().square().sum() / 2
    return float(misfit + weight * differences(image).abs().square().sum(-3).sqrt().sum())


def test_tv_reaches_the_minimum_of_its_objective() -> None:
    """No small step in any of many random directions lowers it, and 0 and the truth are higher."""
    protocol = spiral_protocol()
    examples = Examples(small_params(noise_level=0.02), protocol, phantoms())
    batch = examples.batch(0, 1)
    weight = 0.01
    absolute = weight * float(protocol.acquisition.adjoint(batch.signal).abs().max())
    found = total_variation(protocol.acquisition, batch.signal, weight, 400)
    least = objective(protocol, batch.signal, found, absolute)
    assert least < objective(protocol, batch.signal, batch.label, absolute)
    assert least < objective(protocol, batch.signal, 0 * found, absolute)
    for seed in range(20):
        step = 1e-2 * random_images(1, 1, SIDE, SIDE, seed=seed)
        assert objective(protocol, batch.signal, found + step, absolute) > least


def test_the_largest_eigenvalue_is_the_matrix_s() -> None:
    protocol = spiral_protocol()
    truth = torch.linalg.matrix_norm(dense_matrix(protocol), 2).item() ** 2
    like = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.complex64)
    found = largest_eigenvalue(protocol.acquisition, like)
    assert 0.98 * truth < found < 1.15 * truth


def test_the_linear_optimum_is_the_wiener_solution() -> None:
    protocol, noise = spiral_protocol(), 0.05
    examples = Examples(small_params(noise_level=noise), protocol, phantoms())
    batch = examples.batch(0, 4)
    power = radial_power(batch.label[:, 0])
    ours = linear_optimum(protocol.acquisition, batch.signal, power, noise, 300)
    matrix = dense_matrix(protocol)
    basis = torch.fft.ifft2(
        torch.eye(SIDE**2, dtype=torch.complex128).reshape(-1, SIDE, SIDE), norm="ortho"
    ).reshape(SIDE**2, -1)  # rows: waves
    covariance = basis.T @ torch.diag(power.flatten().to(torch.complex128)) @ basis.conj()
    middle = matrix @ covariance @ matrix.conj().T
    middle += 2 * noise**2 * torch.eye(len(middle))
    answer = torch.linalg.solve(middle, batch.signal.flatten(1).T.to(torch.complex128))
    exact = (covariance @ matrix.conj().T @ answer).T.reshape(-1, 1, SIDE, SIDE)
    assert (ours - exact).norm() < 2e-3 * exact.norm()


def test_methods_follow_their_settings_and_the_adjoint_its_densities() -> None:
    protocol, signal = spiral_protocol(), random_images(2, 3, 320)
    acquisition, trajectory = protocol.acquisition, protocol.trajectory
    weights = torch.from_numpy(density_compensation(trajectory))
    expected = {
        "adjoint": adjoint_image(acquisition, signal, weights),
        "cg": cg_sense(acquisition, signal, 2),
        "wavelet": wavelet_l1(acquisition, signal, 3, 0.02),
        "tv": total_variation(acquisition, signal, 0.03, 4),
    }
    methods = model_methods(protocol, Settings(2, 3, 0.02, 4, 0.03))
    assert methods.keys() == expected.keys()
    for name, method in methods.items():
        torch.testing.assert_close(method(signal), expected[name])
    grid = make_protocol(Setup(side=SIDE, coils=2, kind="mask", acceleration=3))[0]
    signal = random_images(1, 2, grid.samples)
    zero_filled = model_methods(grid)["adjoint"](signal)
    torch.testing.assert_close(zero_filled, grid.acquisition.adjoint(signal))


def test_no_other_linear_method_does_better_inside_the_object() -> None:
    protocol, noise = spiral_protocol(), 0.05
    examples = Examples(small_params(noise_level=noise), protocol, phantoms(16))
    batch = examples.batch(0, 32)
    power = radial_power(batch.label[:, 0])
    best = linear_optimum(protocol.acquisition, batch.signal, power, noise)
    error = ((best - batch.label) * protocol.mask).norm()
    for name in ("adjoint", "cg"):
        image = model_methods(protocol)[name](batch.signal)
        assert ((image - batch.label) * protocol.mask).norm() > error


def scores(mln: float, adjoint: float, cg: float) -> list[Score]:
    names = ("MLN", "adjoint", "CG-SENSE, 12 steps")
    return [Score(n, v, 0.5, 2.0 + i) for i, (n, v) in enumerate(zip(names, (mln, adjoint, cg)))]  # noqa: B905


def test_a_network_worse_than_the_adjoint_is_told() -> None:
    line, lost = verdict(scores(0.9, 0.5, 0.04))
    assert lost
    assert "do not use this network; take CG-SENSE, 12 steps (0.0400)" in line
    assert line.endswith("or train with Init covariance, InitChannels = number of coils")
    line, lost = verdict(scores(0.9, 0.5, 0.04), outputs=2)  # which start from random weights only
    assert line.endswith("or train longer")
    assert lost


def test_the_best_method_is_named() -> None:
    line, lost = verdict(scores(0.2, 0.5, 0.1))
    assert (line, lost) == (
        "CG-SENSE, 12 steps has the least error (0.1000; MLN 0.2000) at 2.0 times MLN's time per "
        "image; wavelet-L1 and TV were not compared (--wavelet)",
        False,
    )
    assert verdict(scores(0.05, 0.5, 0.1))[0] == (
        "MLN has the least error (0.0500; next CG-SENSE, 12 steps 0.1000); wavelet-L1 and TV were "
        "not compared (--wavelet)"
    )


def test_nothing_is_missing_from_a_whole_comparison() -> None:
    whole = [*scores(0.05, 0.5, 0.1), Score("wavelet-L1", 0.2, 0.5, 9), Score("TV", 0.3, 0.5, 9)]
    assert verdict(whole)[0].endswith("next CG-SENSE, 12 steps 0.1000)")


def cg_error(protocol: Protocol, batch: Batch, steps: int) -> float:
    """Mean NRMSE of CG-SENSE inside the mask."""
    found = cg_sense(protocol.acquisition, batch.signal, steps)
    wrong, truth = (
        (images * protocol.mask).flatten(1).norm(dim=1)
        for images in (found - batch.label, batch.label)
    )
    return float((wrong / truth).mean())


def test_the_comparison_tunes_cg_on_other_examples_and_can_add_wavelets_and_tv() -> None:
    protocol, best = spiral_protocol(), []
    network = build_network(Shape(SIDE, SIDE, 8, 3, 4, 1, k_grid="matched"), protocol.trajectory)
    for noise in (0.02, 0.1):
        examples = Examples(small_params(noise_level=noise), protocol, phantoms())
        test, choose = examples.batch(0, 2), examples.batch(8, 2)
        best.append(best_cg_steps(protocol, choose))
        assert best[-1] == min(CG_STEPS, key=lambda steps: cg_error(protocol, choose, steps))
    assert best[1] < best[0] < 12  # the more noise
    found = compare(network, protocol, test, choose, wavelet=True)
    names = ["MLN", "adjoint", "CG-SENSE, 12 steps", f"CG-SENSE, best: {best[1]} steps"]
    assert [score.method for score in found] == [*names, "wavelet-L1", "TV"]
    for score, steps in zip(found[2:4], (12, best[1]), strict=True):
        assert score.nrmse == pytest.approx(cg_error(protocol, test, steps), rel=1e-4)


def test_methods_are_judged_inside_the_mask_alone() -> None:
    """What a network makes outside of the object, where there is no truth, changes no figure."""
    protocol = spiral_protocol()
    batch = Examples(small_params(), protocol, phantoms()).batch(0, 2)
    outside = 9 * (1 - protocol.mask)
    perfect, noisy = (
        compare(lambda signal, more=more: batch.label[: len(signal)] + more, protocol, batch)[0]
        for more in (0, outside)
    )
    assert (perfect.nrmse, perfect.ssim) == (0, pytest.approx(1))
    assert (noisy.nrmse, noisy.ssim) == (perfect.nrmse, perfect.ssim)


def test_a_report_has_errors_only_with_a_reference(tmp_path: Path) -> None:
    truth = random_images(8, 8).numpy()
    same = outcome("one", 2, 0.5, 2j * truth, truth, np.ones((8, 8)))
    assert same.milliseconds == 250
    assert same.nrmse == pytest.approx(0, abs=1e-6)  # up to one complex factor
    assert same.correlation == pytest.approx(1)
    alone = Outcome("two", 1, 4.0)
    assert "NRMSE" in table([same])
    assert "NRMSE" not in table([alone])
    write_report(tmp_path, [same], [truth, truth])
    assert json.loads((tmp_path / "report.json").read_text())[0]["frames"] == 2
    assert "one, reference" in (tmp_path / "report.md").read_text()
