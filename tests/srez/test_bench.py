import dataclasses

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from eyescream_py.errors import UserError
from eyescream_py.srez.bench import cell_name, grid, main
from eyescream_py.srez.options import Options


def test_grid_is_every_combination_in_folders_of_their_own():
    cells = grid(Options(summary_dir="b"), "gan,wgangp", "resnet,deconv", "batch,none")
    assert len(cells) == 8
    assert len({cell.checkpoint_dir for cell in cells}) == 8
    assert cell_name(cells[-1]) == "wgangp-deconv-none"
    assert cells[-1].train_dir == "b/wgangp-deconv-none/train"
    with pytest.raises(UserError):
        grid(dataclasses.replace(Options(), width=0), "gan", "resnet", "batch")


def test_a_small_study(faces_folder, tmp_path):
    out = tmp_path / "study"
    arguments = [
        "--dataset", str(faces_folder), "--out_dir", str(out), "--objectives", "gan,wgangp",
        "--architectures", "deconv", "--norms", "layer", "--max_batches", "20", "--width", "0.0625",
        "--sample_size", "32", "--batch_size", "4", "--test_vectors", "4", "--summary_period", "10",
        "--gpu", "-1", "--threads", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "gan-deconv-layer",
        "wgangp-deconv-layer",
        "bicubic",
    ]
    assert lines[2].split("|")[2].strip() == "20"
    with Image.open(out / "curves.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(10**6)) > 10
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "not empty" in again.output
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--objectives", "gan,lsgan"],
        ["--architectures", "unet"],
        ["--norms", "spectral"],
        ["--width", "0"],
    ],
)
def test_unknown_names_are_refused_before_any_work(tmp_path, wrong):
    result = CliRunner().invoke(main, ["--out_dir", str(tmp_path / "o"), *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.output
    assert not (tmp_path / "o").exists()
