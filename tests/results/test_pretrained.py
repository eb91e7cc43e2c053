"""The faces in the package: opened without a path, small, of half precision, and trained on."""

import subprocess
import sys

import pytest
import torch

from eyescream_py import load_generator, torch7
from eyescream_py.networks import checkpoints
from eyescream_py.system.errors import UserError
from tests.commands import ROOT, run

NAMES = {"faces16": (1, 16, 16), "faces32": (1, 32, 32)}


@pytest.mark.parametrize("name", NAMES)
def test_they_open_as_faces_of_their_size(name):
    G = load_generator(f"pretrained:{name}")
    assert G.dims == NAMES[name]
    faces = G.sample(200)
    spread = faces.std(0).mean()  # noise would have no mean face, a dead G no spread
    assert 0.1 < float(spread) < 0.25
    face = faces.mean(0)[0]
    assert torch.allclose(face, face.flip(1), atol=0.12)  # a mean face is nearly symmetric
    eyes, cheeks = (face[a * len(face) // 16 : b * len(face) // 16] for a, b in ((4, 7), (8, 10)))
    assert float(eyes.mean()) < float(cheeks.mean())  # and darker at its eyes than below them


def test_without_a_path_the_larger_faces_open():
    assert load_generator().dims == (1, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_hold_half_precision_and_nothing_private(name):
    path = checkpoints.pretrained(name)
    assert sum(file.stat().st_size for file in path.parent.glob("*.net")) < 4_100_000
    content = torch7.load(path)
    assert set(content) == {"G", "D", "opt", "epoch"}
    assert not {"save", "dataset", "network"} & set(content["opt"])
    assert (path.parent / "README.md").is_file()


def test_sample_takes_them_where_nothing_was_trained(tmp_path):
    command = [sys.executable, str(ROOT / "sample.py"), "--runs=1", "--gpu=-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "taking the trained faces of the package" in done.stdout
    assert (tmp_path / "samples" / "sheet_0001.png").is_file(), done.stderr


def test_training_goes_on_from_them(tmp_path):
    done = run(
        "train.py", "--network=pretrained:faces16", "--recipe=best", "--scale=16", "--grayscale",
        "--N_epoch=64", "--epochs=221", "--noplot", "--gpu=-1", f"--save={tmp_path}",
    )  # fmt: skip
    assert "at epoch 221" in done.stdout
    assert (tmp_path / "adversarial.net").is_file()


def test_other_names_are_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="faces16, faces32"):
        checkpoints.find("pretrained:cats", checkpoints.pretrained("faces16").parent)
