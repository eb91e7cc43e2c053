"""sample.py on what people have: G alone, a D of other pictures, an exported generator."""

from pathlib import Path

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.networks import models
from tests.small_runs import invoke, small_D

FLAGS = ("--gpu=-1", "--threads=1", "--runs=1")


def write(path: Path, **networks: torch.nn.Module) -> Path:
    torch7.save(path, {name: torch7.from_module(net) for name, net in networks.items()})
    return path


@pytest.fixture
def G() -> torch.nn.Module:
    torch.manual_seed(1)
    return models.create_G((1, 8, 8), 4)


def names(folder: Path) -> set[str]:
    return {path.name.partition("_")[0] for path in folder.iterdir()}


def test_a_file_without_D_is_drawn_unranked(G, tmp_path):
    path = write(tmp_path / "G.net", G=G)
    done = invoke("sample", *FLAGS, f"--G_base={path}", f"--writeto={tmp_path / 'out'}")
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"{path} holds no D: random faces only" in done.output
    assert names(tmp_path / "out") == {"random", "random256", "random1024", "sheet"}


def test_G_brings_its_own_D(G, tmp_path):
    path = write(tmp_path / "own.net", G=G, D=small_D((1, 8, 8)))
    done = invoke("sample", *FLAGS, f"--G_base={path}", f"--writeto={tmp_path / 'out'}")
    assert done.exit_code == 0, (done.output, done.exception)
    assert {"best", "worst"} <= names(tmp_path / "out")


def test_a_D_of_other_pictures_is_named(G, tmp_path):
    path = write(tmp_path / "G.net", G=models.create_G((1, 16, 16), 4))
    other = write(tmp_path / "D.net", D=small_D((1, 8, 8)))
    done = invoke("sample", *FLAGS, f"--G_base={path}", f"--D_base={other}")
    assert done.exit_code == 2, done.exception
    assert "do not fit together" in done.output
    assert str(other) in done.output


@pytest.mark.parametrize("name", ["g.safetensors", "G.SAFETENSORS"])
def test_an_exported_generator_is_sampled(name, G, tmp_path):
    path, exported = write(tmp_path / "G.net", G=G), tmp_path / name
    assert invoke("sample", *FLAGS, f"--G_base={path}", f"--export={exported}").exit_code == 0
    pictures = []
    for source in (path, exported):
        out = tmp_path / f"from_{source.name}"
        done = invoke("sample", *FLAGS, f"--G_base={source}", f"--writeto={out}")
        assert done.exit_code == 0, (done.output, done.exception)
        pictures.append((out / "random_0001_base.jpg").read_bytes())
    assert pictures[0] == pictures[1]
