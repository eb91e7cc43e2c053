"""sample.py on what people have: G alone, a D of other pictures, an exported generator."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eyescream_py import load_generator, load_refiner, torch7
from eyescream_py.networks import checkpoints, models, models_c2f
from eyescream_py.results import generator, grids
from eyescream_py.results.choice import choose
from eyescream_py.results.sampling import ranking, save_grid
from eyescream_py.torch7.layers.shapes import View
from tests.small_runs import invoke, small_D

FLAGS = ("--gpu=-1", "--threads=1", "--runs=1")


def write(path: Path, **networks: torch.nn.Module) -> Path:
    torch7.save(path, {name: torch7.from_module(net) for name, net in networks.items()})
    return path


def own_D(path: Path) -> torch.nn.Module:
    return generator.D_of(checkpoints.read(path, "x"), path, "x", load_generator(path))


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


def test_no_pass_is_larger_than_batch_size(G, tmp_path, monkeypatch):
    """That of a film neither, as a smaller one is what is advised where memory runs out."""
    path, sizes, forward = write(tmp_path / "G.net", G=G), [], nn.Linear.forward

    def watched(layer, x):
        sizes.append(len(x))
        return forward(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", watched)
    more = ("--batchSize=7", "--interpolate=20", f"--writeto={tmp_path / 'out'}")
    done = invoke("sample", *FLAGS, f"--G_base={path}", *more)
    assert done.exit_code == 0, (done.output, done.exception)
    assert max(sizes) == 7


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


def test_a_D_of_its_own_that_does_not_fit_costs_the_ranking_alone(G, tmp_path):
    path = write(tmp_path / "own.net", G=G, D=small_D((1, 16, 16)))
    done = invoke("sample", *FLAGS, f"--G_base={path}", f"--writeto={tmp_path / 'out'}")
    assert done.exit_code == 0, (done.output, done.exception)
    (line,) = (line for line in done.output.splitlines() if "do not fit together" in line)
    assert line.startswith(f"--G_base={path}: ")
    assert line.endswith(": random faces only (--D_base=FILE would rank them).")
    assert names(tmp_path / "out") == {"random", "random256", "random1024", "sheet"}
    data = tmp_path / "faces.t7"
    torch7.save(data, torch.rand(60, 1, 8, 8).float())
    out = tmp_path / "evaluation"
    flags = (f"--dataset={data}", "--features=none", "--images=25", "--gpu=-1")
    done = invoke("evaluate", path, *flags, f"--writeto={out}")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "do not fit together" in done.output
    assert "D_auc" not in json.loads((out / "evaluation.json").read_text())


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


def test_best_and_worst_are_by_D_alone_as_in_Lua(G, tmp_path):
    path = write(tmp_path / "own.net", G=G, D=small_D((1, 8, 8)))
    done = invoke("sample", *FLAGS, f"--G_base={path}", f"--writeto={tmp_path / 'out'}")
    assert done.exit_code == 0, (done.output, done.exception)
    images = load_generator(path).sample(1024)
    order = ranking(own_D(path), images)
    for name, wanted in (("best", order[:64]), ("worst", order.flip(0)[:64])):
        save_grid(tmp_path / "wanted.jpg", images[wanted], 8)
        written = np.asarray(Image.open(tmp_path / "out" / f"{name}_0001_base.jpg"), int)
        expected = np.asarray(Image.open(tmp_path / "wanted.jpg"), int)
        assert np.abs(written - expected).mean() < 1


def test_the_sheet_shows_what_is_chosen_and_not_Ds_best(G, tmp_path):
    path = write(tmp_path / "own.net", G=G, D=small_D((1, 8, 8)))
    base, D = grids.Base(load_generator(path), own_D(path)), own_D(path)
    images = base.G.sample(1024)
    random, shown = grids.for_the_sheet(base, images, 256).values()
    assert torch.equal(random, images[:64])
    assert torch.equal(shown, images[choose(D, images)[:64]])
    assert not torch.equal(shown, images[ranking(D, images)[:64]])
    assert len(grids.for_the_sheet(grids.Base(base.G, None), images, 256)) == 1


@pytest.fixture
def wide(tmp_path) -> Path:
    """An old network whose pictures are no squares."""
    layers = nn.Sequential(nn.Linear(4, 128), nn.Sigmoid(), View(1, 8, 16))
    return write(tmp_path / "wide.net", G=layers)


def test_pictures_that_are_no_squares_are_drawn_and_not_refined(wide, tmp_path):
    pair = {"G": models_c2f.create_G((1, 32, 32)), "D": models_c2f.create_D((1, 32, 32))}
    write(tmp_path / "adversarial_c2f_16_to_32.net", **pair)
    at = (f"--G_base={wide}", f"--save_c2f32={tmp_path}", f"--writeto={tmp_path / 'out'}")
    done = invoke("sample", *FLAGS, *at)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "takes squares, G draws 16x8" in done.output
    assert not list((tmp_path / "out").glob("*c2f*"))
    with Image.open(tmp_path / "out" / "random_0001_base.jpg") as grid:
        assert grid.width > 1.8 * grid.height


def test_a_pair_in_one_file_is_named_once(G, tmp_path):
    base, dims = write(tmp_path / "base.net", G=G), (1, 12, 12)
    up = write(tmp_path / "up.net", G=models_c2f.create_G(dims), D=models_c2f.create_D(dims))
    at = (f"--G_base={base}", f"--G_c2f32={up}", f"--writeto={tmp_path / 'out'}")
    done = invoke("sample", *FLAGS, *at)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "No refined" not in done.output
    assert list((tmp_path / "out").glob("*c2f*"))


def adding(value: float, dims: tuple[int, int, int]) -> torch.nn.Module:
    """An upscaler that adds `value` to every pixel."""
    upscaler = models_c2f.create_G(dims)
    for weights in upscaler.parameters():
        nn.init.zeros_(weights)
    nn.init.constant_(upscaler[-1].bias, value)
    return upscaler


@pytest.mark.parametrize(("flag", "level"), [("--ema", 255), ("--no-ema", 0)])
def test_the_averaged_upscaler_refines_unless_no_ema_is_typed(G, flag, level, tmp_path):
    base, dims = write(tmp_path / "base.net", G=G), (1, 12, 12)
    both = {"G": adding(-1, dims), "G_ema": adding(1, dims)}
    up = write(tmp_path / "up.net", **both, D=models_c2f.create_D(dims))
    at = (f"--G_base={base}", f"--G_c2f32={up}", f"--writeto={tmp_path / 'out'}")
    done = invoke("sample", *FLAGS, *at, flag)
    assert done.exit_code == 0, (done.output, done.exception)
    with Image.open(tmp_path / "out" / "random_0001_c2f_12.jpg") as grid:
        assert np.abs(np.asarray(grid, int) - level).max() < 3


@pytest.mark.parametrize("scale", [8, 16])
def test_pictures_that_are_no_squares_have_no_scale(scale, wide):
    done = invoke("sample", *FLAGS, f"--G_base={wide}", f"--scale={scale}")
    assert done.exit_code == 2, done.exception
    assert f"--scale: {wide} makes 16x8 pictures in gray" in done.output


def test_pictures_that_are_no_squares_are_not_compared(wide, tmp_path):
    done = invoke("sample", *FLAGS, f"--G_base={wide}", "--neighbours")
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        2,
        f"Error: --neighbours: {wide}: its G draws 16x8 pictures, and those of a data set are cut "
        "square: they cannot be compared",
    )
    done = invoke("evaluate", wide, "--features=none", "--gpu=-1")
    assert done.exit_code == 2
    assert f"{wide}: its G draws 16x8" in done.output


def test_a_pair_without_options_refines_to_the_size_of_its_networks(tmp_path):
    dims = (1, 12, 12)
    path = write(tmp_path / "pair.net", G=models_c2f.create_G(dims), D=models_c2f.create_D(dims))
    assert load_refiner(path).refine(torch.rand(2, 1, 6, 6)).shape == (2, 1, 12, 12)
