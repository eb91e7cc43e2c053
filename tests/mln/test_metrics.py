"""Figures of images, and what stands where there are none."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eyescream_py.mln.__main__ import main
from eyescream_py.mln.data import Batch
from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.metrics import magnitude_correlation, mean, nrmse, ssim, written
from eyescream_py.mln.reconstruction import Score, best_cg_steps, score_records, score_table
from eyescream_py.mln.report import outcome, read_reference, table, write_report
from eyescream_py.system.errors import UserError
from tests.mln.small import random_images, spiral_protocol


def test_figures_beside_nothing_are_undefined_without_a_warning() -> None:
    image, nothing = random_images(16, 16).numpy(), np.zeros((16, 16))
    one_pixel = np.eye(16) * (np.arange(16) == 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(nrmse(image, nothing))
        assert math.isnan(nrmse(image, image, nothing))
        assert math.isnan(ssim(image, nothing))
        assert math.isnan(ssim(image, nothing + 1))
        assert math.isnan(magnitude_correlation(image, nothing, nothing + 1))
        assert math.isnan(magnitude_correlation(image, image, one_pixel))
        assert nrmse(2 * image, image, one_pixel) == pytest.approx(1)
        assert math.isnan(mean([math.nan]))
    assert mean([1, math.nan, 2]) == 1.5
    assert [written(value) for value in (0.25, None, math.nan)] == ["0.2500", "-", "-"]


@pytest.mark.parametrize("side", [3, 5, 6])
def test_images_smaller_than_the_window_are_alike_to_themselves(side: int) -> None:
    image = random_images(side, side).numpy()
    assert ssim(image, image) == pytest.approx(1)


def test_undefined_figures_are_dashes_and_null() -> None:
    scores = [Score("MLN", math.nan, 0.5, 1.0)]
    assert "| MLN | - | 0.5000 | 1.0 |" in score_table(scores)
    assert score_records(scores)[0]["nrmse"] is None


def test_a_report_on_one_pixel_is_json(tmp_path: Path) -> None:
    image, mask = random_images(8, 8).numpy(), np.zeros((8, 8))
    mask[3, 3] = 1
    found = outcome("one", 1, 1.0, image, image, mask)
    assert table([found]).endswith(" - |")
    write_report(tmp_path, [found], [image])
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)[0]["correlation"] is None


def test_a_reference_of_zeros_is_refused(tmp_path: Path) -> None:
    write_mat(tmp_path / "x.mat", {"x": np.zeros((8, 8))})
    with pytest.raises(UserError, match=r"^--reference .*x\.mat: x is zero everywhere"):
        read_reference(str(tmp_path / "x.mat"), 8)
    with pytest.raises(UserError, match="x is 8 x 8, the images are 9 x 9"):
        read_reference(str(tmp_path / "x.mat"), 9)


def test_without_anything_to_judge_cg_keeps_its_usual_steps() -> None:
    protocol = spiral_protocol()
    label = torch.zeros(1, 1, 16, 16, dtype=torch.complex64)
    batch = Batch(protocol.acquisition.forward(label), label)
    assert best_cg_steps(protocol, batch) == 12


@pytest.mark.parametrize(("place", "init"), [((0, 0), "random"), ((8, 8), "covariance")])
def test_training_for_a_single_pixel_ends_with_figures_or_says_why(
    tmp_path: Path, place: tuple[int, int], init: str
) -> None:
    def run(*words: object, code: int = 0) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            told = CliRunner().invoke(main, [str(word) for word in words])
        assert told.exit_code == code, told.output
        return told.output

    sim = tmp_path / "sim"
    run("simulate", "--out", sim, "--side", 16, "--samples", 300, "--turns", 5, "--coils", 3)
    maps = read_mat(sim / "SensCC1.mat", ["SensCC", "SensMsk"])
    maps["SensMsk"] = np.zeros((16, 16))
    maps["SensMsk"][place] = 1
    write_mat(sim / "SensCC1.mat", maps)
    train = (
        "train", "--params", sim / "Params.txt", "--out", tmp_path, "--batches", 1,
        "--InitExamples", 20, "--nToLoad", 8, "--gpu", -1, "--threads", 1,
    )  # fmt: skip
    if init == "random":
        assert "Init covariance: the training images or SensCC are zero wherever" in run(
            *train, code=2
        )
    said = run(*train, "--Init", init)
    (path,) = tmp_path.glob("*_train/comparison.json")
    records = json.loads(path.read_text(), parse_constant=pytest.fail)
    known = [record["nrmse"] is not None for record in records]
    assert all(known) or not (any(known) or init == "covariance")
    assert any(known) != ("No method was judged: the test images are zero" in said)
    assert not {"nan", "inf"} & set(said.split())
