import json

import pytest
import torch
from PIL import Image

from eyescream_py.srez.evaluation import psnr, ssim
from eyescream_py.srez.folders import run_compare
from eyescream_py.srez.pictures import save_png
from eyescream_py.system.errors import UserError


@pytest.fixture
def folders(tmp_path):
    """Five truths of two sizes and, named as upscale names them, the same a little darker."""
    rng = torch.Generator().manual_seed(0)
    for i in range(5):
        truth = torch.rand(3, 24, 32 if i else 40, generator=rng)
        for folder, picture in (("true", truth), ("made", 0.9 * truth)):
            (tmp_path / folder / "sub").mkdir(parents=True, exist_ok=True)
            name = f"sub/{i}.png" if folder == "true" else f"sub/{i}_x4.png"
            save_png(tmp_path / folder / name, picture)
    return str(tmp_path / "made"), str(tmp_path / "true")


def compare(folders, tmp_path, judge="none"):
    lines = []
    figures = run_compare(folders, str(tmp_path / "summary"), lines.append, judge)
    return figures["made"], lines


def test_pairs_are_found_by_name_and_measured(folders, tmp_path):
    figures, lines = compare(folders, tmp_path)
    rng = torch.Generator().manual_seed(0)
    truths = [torch.rand(1, 3, 24, 32 if i else 40, generator=rng) for i in range(5)]
    expected = sum(psnr(0.9 * t, t) for t in truths) / 5
    assert figures["psnr"] == pytest.approx(expected, abs=0.05)
    assert figures["ssim"] == pytest.approx(sum(ssim(0.9 * t, t) for t in truths) / 5, abs=0.005)
    assert lines[0] == "5 pairs of pictures"
    written = json.loads((tmp_path / "summary" / "evaluation_folders.json").read_text())
    assert written["pairs"] == 5
    assert written["made"] == figures
    same, _ = compare((folders[1], folders[1]), tmp_path)
    assert same["ssim"] == pytest.approx(1)
    assert same["detail_swd"] < figures["detail_swd"]


def test_feature_distances_are_zero_for_the_same_and_say_who_looked(folders, tmp_path):
    same, lines = compare((folders[1], folders[1]), tmp_path, "random")
    assert same["frechet"] == pytest.approx(0, abs=1e-3)
    darker, _ = compare(folders, tmp_path, "random")
    assert darker["frechet"] > same["frechet"]
    assert "seen at" in lines[-1]


def test_what_does_not_pair_is_named(folders, tmp_path):
    made, _ = folders
    with pytest.raises(UserError, match="two folders"):
        run_compare((made,), str(tmp_path))
    Image.new("RGB", (30, 24)).save(tmp_path / "made" / "sub" / "0_x4.png")
    with pytest.raises(UserError, match=r"0_x4\.png: 30x24, but .*0\.png has 40x24"):
        run_compare(folders, str(tmp_path))
    Image.new("RGB", (30, 24)).save(tmp_path / "made" / "extra.png")
    with pytest.raises(UserError, match=r"extra\.png: .* holds no picture of that name"):
        run_compare(folders, str(tmp_path))


@pytest.mark.parametrize("name", ["face_xmas.png", "face_x.png", "face_x4b.png"])
def test_only_an_enlargement_s_ending_is_passed_over(name, tmp_path):
    for path in ("made/" + name, "true/face.png"):
        (tmp_path / path).parent.mkdir()
        Image.new("RGB", (30, 24)).save(tmp_path / path)
    with pytest.raises(UserError, match="holds no picture of that name"):
        run_compare((str(tmp_path / "made"), str(tmp_path / "true")), str(tmp_path))


def test_two_truths_of_one_name_are_refused(folders, tmp_path):
    Image.new("RGB", (40, 24)).save(tmp_path / "true" / "sub" / "0.jpg")
    with pytest.raises(UserError, match=r"0\.png: sub/0\.jpg has that name too; remove one"):
        run_compare(folders, str(tmp_path))
