"""evaluate: sets that never share a source picture, and findings that tell good from bad."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from eyescream_py import torch7
from eyescream_py.cli.evaluate import main
from eyescream_py.data.dataset import Dataset
from eyescream_py.data.embedded import augmented_faces, embedded_faces
from eyescream_py.networks import models
from eyescream_py.results import evaluation
from eyescream_py.results.evaluation import Subject, measure
from eyescream_py.results.report import table
from eyescream_py.torch7 import image


@pytest.fixture(scope="module")
def faces():
    """Two halves of the embedded people, 50 each, at 16 px."""
    pictures = image.scale(embedded_faces(), 16).clamp(0, 1)
    return pictures[:50], pictures[50:]


def test_real_pictures_beat_blur_and_blur_beats_noise(faces):
    reference, seen = faces
    blurred = torch.nn.functional.avg_pool2d(seen, 3, 1, 1)
    figures = measure(Subject(blurred, None), reference, seen, 1).figures
    swd = {name: values["mean"] for name, values in figures["swd"].items()}
    assert swd["real"] < swd["generated"] < swd["noise"]
    assert figures["diversity"]["generated"] < figures["diversity"]["real"]
    assert "D_auc" not in figures
    assert "features" not in figures


def test_features_tell_the_same_and_say_what_they_are(faces):
    reference, seen = faces
    blurred = torch.nn.functional.avg_pool2d(seen, 3, 1, 1)
    found = measure(Subject(blurred, None), reference, seen, 1, "", "lite0")
    told = found.figures["features"]
    assert told["network"] == "EfficientNet-Lite0, trained on ImageNet"
    assert told["frechet"]["real"] < told["frechet"]["generated"] < told["frechet"]["noise"]
    values = {name: kernel["value"] for name, kernel in told["kernel"].items()}
    assert values["real"] < values["generated"] < values["noise"]
    lines = table(found).splitlines()
    assert any("not comparable with the FID and KID of papers" in line for line in lines)
    spread = told["kernel"]["generated"]["spread"]
    assert any(f"{1000 * values['generated']:.2f} +- {1000 * spread:.2f}" in line for line in lines)


def test_copies_of_training_pictures_are_found_out(faces):
    reference, seen = faces
    copies = measure(Subject((seen + 0.001).clamp(0, 1), None), reference, seen, 1).figures
    assert copies["nearer_to_training"] == 1
    assert copies["nearest"]["generated to training"] < 0.1
    fresh = measure(Subject(reference.flip(3), None), reference, seen, 1).figures
    assert 0.2 < fresh["nearer_to_training"] < 0.8


class Bright(nn.Module):
    """A D that takes bright pictures for real."""

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None]


def test_ds_areas_are_those_of_reference_over_generated_and_training_over_reference(faces):
    reference, seen = faces
    sets = 0.5 * reference / reference.amax((1, 2, 3), keepdim=True), seen / 2 + 0.5
    found = measure(Subject(0 * reference, Bright()), *sets, 1)
    assert found.figures["D_auc"] == {
        "reference against generated": 1, "training against reference": 1,
    }  # fmt: skip
    for name, pictures in zip(
        ("reference", "training", "generated"), (*sets, 0 * seen), strict=True
    ):
        torch.testing.assert_close(found.scores[name], pictures.mean((1, 2, 3)))


def test_held_out_pictures_are_the_reference(tmp_path):
    given = {}
    for name, count in (("heldout", 3), ("dataset", 5)):
        path = tmp_path / f"{name}.t7"
        torch7.save(path, torch.rand(count, 1, 8, 8))
        given[name] = str(path)
    held, seen, note = evaluation.real_sets(options_of(**given), 1, 8, torch.device("cpu"))
    assert (len(held), len(seen)) == (3, 5)
    assert "heldout.t7 (held out); training: " in note


def test_one_picture_over_and_over_has_no_diversity(faces):
    reference, seen = faces
    figures = measure(Subject(seen[:1].expand(50, -1, -1, -1), None), reference, seen, 1).figures
    assert figures["diversity"]["generated"] == pytest.approx(0, abs=1e-4)
    assert figures["diversity"]["real"] > 1


def test_halves_never_share_a_source_picture():
    images = augmented_faces(1, 8, 1)
    data = Dataset(images, "faces", tuple(range(0, len(images), 50)))
    options = options_of(dataset="embedded")
    reference, seen, note = evaluation.real_sets(options, 1, 8, torch.device("cpu"))
    assert len(reference) % 50 == 0
    assert len(reference) + len(seen) == len(data)
    assert "halves" in note


def options_of(**more):
    values = {
        "subject": "", "dataset": None, "heldout": None, "images": 60, "scale": 8,
        "grayscale": True, "writeto": "", "seed": 1, "gpu": -1, "threads": 1, "ema": True,
        "features": "none",
        "typed": frozenset(),
    }  # fmt: skip
    return evaluation.EvaluateOptions(**{**values, **more})


@pytest.fixture
def real(tmp_path):
    """The second half of the embedded people as a data set."""
    path = tmp_path / "real.t7"
    torch7.save(path, image.scale(embedded_faces()[40:], 8).clamp(0, 1))
    return path


def evaluate(*args):
    return CliRunner().invoke(main, [*map(str, args), "--gpu=-1", "--threads=1"])


def test_the_command_on_a_net(tmp_path, real):
    torch.manual_seed(1)
    networks = {"G": models.create_G((1, 8, 8), 4), "D": models.create_D((1, 8, 8))}
    path = tmp_path / "a.net"
    torch7.save(path, {name: torch7.from_module(n) for name, n in networks.items()})
    held = tmp_path / "held.t7"
    torch7.save(held, image.scale(embedded_faces()[:40], 8).clamp(0, 1))
    done = evaluate(path, f"--dataset={real}", f"--heldout={held}", f"--writeto={tmp_path}")
    assert done.exit_code == 0, (done.output, done.exception)
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["images"] == 40
    assert figures["features"]["network"] == "EfficientNet-Lite0, trained on ImageNet"
    assert list(figures["swd"]["generated"]) == ["image", "patch8", "mean"]
    assert f"{figures['swd']['generated']['mean']:.1f}" in done.output
    assert set(figures["D_auc"]) == {"reference against generated", "training against reference"}
    assert np.asarray(Image.open(tmp_path / "evaluation.png")).std() > 10


def test_the_command_on_an_array_is_repeatable(tmp_path, real):
    array = np.random.default_rng(1).integers(0, 255, (30, 8, 8), np.uint8)
    np.save(tmp_path / "a.npy", array)
    texts = []
    for _ in range(2):
        out = evaluate(tmp_path / "a.npy", f"--dataset={real}", f"--writeto={tmp_path}")
        assert out.exit_code == 0, out.output
        texts.append((tmp_path / "evaluation.json").read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 8, 9)), "square"),
        (np.zeros((30, 2, 8, 8)), "holds (30, 2, 8, 8), not"),
        (np.zeros((8, 8)), "holds (8, 8), not"),
        (np.full((30, 8, 8), 7.0), "0..1"),
        (np.zeros((5, 8, 8)), "only 5 pictures"),
        (np.array([{}], object), "no readable array"),
    ],
)
def test_arrays_that_cannot_be_measured(array, words, tmp_path, real):
    np.save(tmp_path / "a.npy", array)
    done = evaluate(tmp_path / "a.npy", f"--dataset={real}", f"--writeto={tmp_path}")
    assert done.exit_code == 2
    assert words in done.output


def test_more_pictures_than_memory_are_refused(tmp_path, real):
    path = tmp_path / "a.net"
    torch7.save(path, {"G": torch7.from_module(models.create_G((1, 8, 8), 4))})
    done = evaluate(path, f"--dataset={real}", "--images=2147483647", f"--writeto={tmp_path}")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: --images=2147483647: a set of pictures takes 550 GB")


def test_a_missing_network_names_itself(tmp_path):
    done = evaluate(tmp_path / "gone.net")
    assert done.exit_code == 2
    assert "gone.net" in done.output


def test_features_that_are_none_are_refused_before_any_work(tmp_path):
    done = evaluate(tmp_path / "gone.net", "--features=inception")
    assert done.exit_code == 2
    assert "--features=inception: no such file, and none of auto, lite0, random" in done.output


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000000, 1, 8, 8), }".ljust(
            117
        )
        + b"\n",
        b"PK\x03\x04" + bytes(60),
        b"",
        b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 15 + b"\n",
    ],
)
def test_arrays_whose_header_lies(content, tmp_path):
    """72 TiB in 128 bytes: refused by the file's size, nothing is allocated."""
    (tmp_path / "a.npy").write_bytes(content)
    done = evaluate(tmp_path / "a.npy", "--dataset=embedded", f"--writeto={tmp_path}")
    assert done.exit_code == 2
    assert "a.npy: no readable array" in done.output
    assert "Traceback" not in done.output


def test_networks_without_a_D_and_those_of_the_package(tmp_path, real):
    path = tmp_path / "G.net"
    torch7.save(path, {"G": torch7.from_module(models.create_G((1, 8, 8), 4))})
    for subject in (path, "pretrained:faces16"):
        data = "embedded" if subject != path else real
        done = evaluate(subject, f"--dataset={data}", f"--writeto={tmp_path}", "--features=none")
        assert done.exit_code == 0, (done.output, done.exception)
        assert ("AUC of D" in done.output) == (subject != path)


def test_held_out_pictures_are_no_part_of_the_data_set(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((30, 8, 8), np.uint8))
    held = tmp_path / "data" / "held"
    held.mkdir(parents=True)
    for inside in (tmp_path / "data", held):
        done = evaluate(path, f"--dataset={tmp_path / 'data'}", f"--heldout={inside}")
        assert done.exit_code == 2
        assert "is a part of the data set" in done.output
    done = evaluate(path, f"--dataset={held}", f"--heldout={tmp_path / 'data'}")
    assert done.exit_code == 2
    assert "holds the data set" in done.output


def test_embedded_faces_lie_in_no_folder(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((30, 8, 8), np.uint8))
    monkeypatch.chdir(tmp_path)
    done = evaluate(path, "--dataset=embedded", f"--heldout={tmp_path}")
    assert done.exit_code == 2
    assert "no pictures" in done.output.splitlines()[-1]
