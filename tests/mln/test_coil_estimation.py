from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eyescream_py.mln import coil_estimation
from eyescream_py.mln.__main__ import main
from eyescream_py.mln.coil_estimation import (
    compressed,
    compression_matrix,
    espirit,
    estimated_maps,
    map_difference,
)
from eyescream_py.mln.exchange import from_bart
from eyescream_py.mln.formats.cfl import read_cfl
from eyescream_py.mln.formats.mat import read_mat
from eyescream_py.mln.phantoms import random_ellipses
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol
from eyescream_py.mln.trajectories import density_compensation
from tests.mln.small import SIDE, random_images, spiral_protocol

GOLDEN = Path(__file__).parent / "golden"


def filled(side: int, **setup: object) -> tuple[Protocol, torch.Tensor]:
    """A protocol and the samples (C, M) of an image that fills its disc."""
    protocol, _ = make_protocol(Setup(side=side, coils=6, **setup))  # type: ignore[arg-type]
    image = random_ellipses(side, np.random.default_rng(0), 20) + 0.3
    tensor = torch.from_numpy(image).to(torch.complex64) * protocol.mask[0]
    return protocol, protocol.acquisition.forward(tensor[None, None])[0]


def test_espirit_agrees_with_barts_ecalib() -> None:
    scan = from_bart(str(GOLDEN / "bart_cart"), None, None, 0, "auto")
    maps, mask, _ = estimated_maps(scan.trajectory, scan.signal[0], 24, "espirit", 16)
    bart = torch.from_numpy(read_cfl(GOLDEN / "bart_ecal").squeeze().transpose(2, 0, 1).copy())
    true = torch.from_numpy(read_cfl(GOLDEN / "bart_maps").squeeze().transpose(2, 0, 1).copy())
    inside = mask * (bart.norm(dim=0) > 0.5)
    assert inside.mean() > 0.5
    assert map_difference(maps, bart, inside) < 0.07
    assert map_difference(maps, true, inside) <= map_difference(bart, true, inside)


def test_maps_of_a_dense_spiral_are_found_by_espirit() -> None:
    protocol, signal = filled(48, samples=4000, turns=30.0)
    maps, mask, taken = estimated_maps(protocol.trajectory, signal, 48, width=24)
    assert taken == "espirit"
    truth = protocol.acquisition.coils[0]
    assert map_difference(maps, truth, mask * protocol.mask[0]) < 0.03
    power = maps.abs().square().sum(0)
    torch.testing.assert_close(power, torch.ones_like(power), rtol=1e-4, atol=1e-4)


def test_maps_of_an_undersampled_centre_need_the_joint_estimate() -> None:
    protocol, signal = filled(48, samples=2500, turns=9.0)
    truth, inside = protocol.acquisition.coils[0], protocol.mask[0]
    maps, _, taken = estimated_maps(protocol.trajectory, signal, 48, width=24)
    assert taken == "joint"
    alone, _, _ = estimated_maps(protocol.trajectory, signal, 48, "espirit", 24)
    joint_error, alone_error = (map_difference(m, truth, inside) for m in (maps, alone))
    assert joint_error < 0.6 * alone_error


def test_the_difference_of_maps_is_the_sine_of_their_angle() -> None:
    maps = torch.tensor([3.0, 4.0j]).view(2, 1, 1).expand(2, 1, 3)
    other = torch.tensor([[2j, 1, 9], [0, 4j / 3, 0]]).view(2, 1, 3)  # sines 0.8 and 0
    mask = torch.tensor([[1.0, 1, 0]])
    assert map_difference(maps, other, mask) == pytest.approx(0.8 / 2**0.5, rel=1e-3)


def test_the_gap_of_a_centre_is_looked_for_on_all_its_sides() -> None:
    line = np.arange(-8, 8)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    for corner in ((4, 4), (-4, 4), (4, -4), (-4, -4)):
        left = grid[np.abs(grid - corner).max(1) > 1]
        assert coil_estimation._centre_gap(left.T, 16) == 2
    assert coil_estimation._centre_gap(grid.T, 16) == 0


def test_columns_of_pixels_in_turn_give_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    centre = random_images(3, 8, 8)
    whole = espirit(centre, 12, 4)
    monkeypatch.setattr(coil_estimation, "BLOCK_BYTES", 16 * 3**2 * 12 * 2)  # two columns
    for found, expected in zip(espirit(centre, 12, 4), whole, strict=True):
        torch.testing.assert_close(found.abs(), expected.abs())


def test_a_few_virtual_coils_hold_most_of_the_signal() -> None:
    signal = random_images(2, 300)
    mixed = random_images(6, 2, seed=1) @ signal + 1e-3 * random_images(6, 300, seed=2)
    matrix = compression_matrix(mixed, 2)
    torch.testing.assert_close(matrix.conj().T @ matrix, torch.eye(2) + 0j, rtol=0, atol=1e-5)
    kept = compressed(mixed[None], matrix)[0]
    assert kept.norm() > 0.9999 * mixed.norm()


@pytest.mark.parametrize("kind", ["radial", "random"])
def test_density_weights_make_the_adjoint_an_inverse_of_any_trajectory(kind: str) -> None:
    """Their sums are areas in k-space: over a disc of radius 12, 452 / FOV^2."""
    rng = np.random.default_rng(0)
    if kind == "radial":
        angle, radius = np.meshgrid(np.linspace(0, np.pi, 60), np.linspace(-12, 12, 49))
    else:
        angle, radius = rng.uniform(0, 2 * np.pi, 3000), 12 * np.sqrt(rng.uniform(0, 1, 3000))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(2, -1)
    weights = density_compensation(points, 30)
    assert weights.min() > 0
    assert weights.sum() == pytest.approx(np.pi * 12**2, rel=0.15)
    inner = np.hypot(*points) < 6
    assert weights[inner].sum() == pytest.approx(np.pi * 6**2, rel=0.1)


def test_a_place_that_takes_no_file_is_found_before_the_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyescream_py.mln import b0_estimation, coil_estimation, exchange

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the long work began")

    run = CliRunner().invoke
    size = ("--side", "16", "--coils", "2", "--samples", "300", "--turns", "6", "--noise", "0")
    assert run(main, ["simulate", "--out", str(tmp_path / "sim"), *size]).exit_code == 0
    monkeypatch.setattr(coil_estimation, "estimated_maps", never)
    monkeypatch.setattr(b0_estimation, "estimate_turns", never)
    monkeypatch.setattr(exchange, "estimated_maps", never)
    (tmp_path / "file").touch()
    keys = [f"--params={tmp_path / 'sim' / 'Params.txt'}"]
    keys += [f"--scan={tmp_path / 'sim' / 'Scan_01.mat'}"]
    for command in (["estimate-coils"], ["estimate-b0"], ["export", "--format=ismrmrd"]):
        for out in (tmp_path / "none" / "x.mat", tmp_path / "file" / "x.mat"):
            result = run(main, [*command, *keys, f"--out={out}"])
            assert result.exit_code == 2, result.output
            assert f"Error: --out={out}" in result.output
    source = [str(GOLDEN / "bart_ksp"), f"--trajectory={GOLDEN / 'bart_t'}"]
    result = run(main, ["import", *source, f"--out={tmp_path / 'file' / 'x'}"])
    assert result.exit_code == 2, result.output
    assert f"Error: --out={tmp_path / 'file' / 'x'}: a file stands where" in result.output


def test_the_command_writes_maps_that_training_reads(tmp_path: Path) -> None:
    sim = tmp_path / "sim"
    size = ("--side", 32, "--coils", 4, "--samples", 1800, "--turns", 20, "--noise", 0)
    words = [["simulate", "--out", sim, *size]]
    keys = ("--params", sim / "Params.txt", "--scan", sim / "Scan_01.mat")
    words += [["estimate-coils", *keys, "--out", tmp_path / "SensCC1.mat", "--threads", 1]]
    for line in words:
        result = CliRunner().invoke(main, [str(word) for word in line])
        assert result.exit_code == 0, result.output
    found = read_mat(tmp_path / "SensCC1.mat", ["SensCC", "SensMsk"])
    true = read_mat(sim / "SensCC1.mat", ["SensCC", "SensMsk"])
    head = np.abs(read_mat(sim / "Truth.mat", ["x"])["x"]) > 0.15
    inside = torch.from_numpy(found["SensMsk"] * true["SensMsk"] * head)
    assert inside.sum() > 100
    pair = [torch.from_numpy(m["SensCC"].transpose(2, 0, 1).copy()) for m in (found, true)]
    assert map_difference(pair[0], pair[1], inside) < 0.1


@pytest.mark.parametrize("side", [24, 25])
def test_maps_of_many_pixels_are_made_a_few_columns_at_a_time(side: int, monkeypatch) -> None:
    centre = random_images(3, 12, 12)
    maps, mask = espirit(centre, side, crop=0.5)
    monkeypatch.setattr(coil_estimation, "BLOCK_BYTES", 5 * 16 * 9 * side)  # five columns
    blocks = list(coil_estimation._pixel_matrices(random_images(2, 3, 6, 6), side))
    assert [block.shape[1] for block in blocks[:-1]] == [5] * (len(blocks) - 1)
    some, few = espirit(centre, side, crop=0.5)
    torch.testing.assert_close(some, maps)
    assert torch.equal(few, mask)


def test_the_coils_first_principal_component_is_real_and_positive() -> None:
    centre = random_images(3, 12, 12)
    maps, _ = espirit(centre, 24, crop=0.5)
    main = torch.einsum("c,cxy->xy", compression_matrix(centre.flatten(1), 1)[:, 0].conj(), maps)
    torch.testing.assert_close(main, main.abs() + 0j, atol=1e-5, rtol=0)


def test_a_centre_without_an_object_is_refused() -> None:
    protocol = spiral_protocol(2)
    far = np.abs(protocol.trajectory).max(0) > 5
    signal = torch.from_numpy(far).to(torch.complex64).expand(2, -1)
    with pytest.raises(ValueError, match="all samples within 5 of k = 0 are zero"):
        estimated_maps(protocol.trajectory, signal, SIDE, "espirit", 10)
