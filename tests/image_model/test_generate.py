from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py import features
from eyescream_py.image_model.checkpoints import Checkpoint
from eyescream_py.image_model.data import Pictures, ShuffledQueue
from eyescream_py.image_model.generate import (
    compared,
    generate_folder,
    gradient_energy,
    load_generator,
    read_normalised,
    score,
    signal_to_noise,
    similarity,
)
from eyescream_py.image_model.networks import Decoder, Encoder, build_generator
from eyescream_py.image_model.options import ImageOptions
from eyescream_py.image_model.pictures import save_row, to_pixels, to_unit
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")


def checkpoint(kind: str = "image-model", arch: str = "U") -> Checkpoint:
    torch.manual_seed(0)
    settings = ImageOptions(image_size=16).settings(kind) | {"gen_arch": arch}
    modules = {"generator": build_generator(arch, 1, 16)}
    if kind != "image-model":
        decoder = "decoder_real" if kind == "cross-encoder" else "decoder"
        modules = {"encoder": Encoder(1), decoder: Decoder(1)}
    tensors = {
        f"{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    return Checkpoint(Path("c.safetensors"), 1, settings, {}, tensors)


def folder_of(path: Path, names: list[str], size: int = 20) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(path / name)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def test_names_stay_the_last_batch_is_short_and_each_file_gets_its_own_picture(tmp_path) -> None:
    names = ["zoe.png", "adam.png", "eve.jpg", "bob.png", "x.y.png"]
    source = folder_of(tmp_path / "in", names)
    count = generate_folder(checkpoint(), source, tmp_path / "out", 2, False, False, CPU)
    assert count == 5
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == ["adam.png", "bob.png", "eve.png", "x.y.png", "zoe.png"]
    generator = load_generator(checkpoint(), CPU)
    assert not generator.training
    for name in names:
        x = read_normalised(source / name, 16, 1)[None]
        with torch.no_grad():
            expected = to_pixels(generator(x)[0]).astype(int)
        found = pixels(tmp_path / "out" / f"{Path(name).stem}.png").astype(int)
        assert np.abs(found - expected).max() <= 1


def test_pairs_show_generated_left_and_input_right(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png"], size=16)
    generate_folder(checkpoint(), source, tmp_path / "out", 8, True, False, CPU)
    found = pixels(tmp_path / "out" / "a.png")
    assert found.shape == (16, 32, 3)
    expected = to_pixels(read_normalised(source / "a.png", 16, 1))
    np.testing.assert_array_equal(found[:, 16:], expected)


@pytest.mark.parametrize("kind", ["image-model", "cross-encoder", "semi"])
def test_every_kind_of_checkpoint_generates(tmp_path: Path, kind: str) -> None:
    source = folder_of(tmp_path / "in", ["a.png"])
    assert generate_folder(checkpoint(kind), source, tmp_path / "out", 8, False, False, CPU) == 1
    assert pixels(tmp_path / "out" / "a.png").std() > 0


def test_a_constant_picture_passes_without_a_nan(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (8, 8), 77).save(tmp_path / "in" / "flat.png")
    assert not read_normalised(tmp_path / "in" / "flat.png", 16, 1).any()
    generate_folder(checkpoint(), tmp_path / "in", tmp_path / "out", 8, True, False, CPU)
    assert pixels(tmp_path / "out" / "flat.png").shape == (16, 32, 3)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "b.png"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"b\.png exists; give --overwrite"):
        generate_folder(checkpoint(), source, out, 8, False, False, CPU)
    assert [p.name for p in out.iterdir()] == ["b.png"]
    assert (out / "b.png").read_bytes() == b"mine"
    generate_folder(checkpoint(), source, out, 8, False, True, CPU)
    assert pixels(out / "b.png").shape == (16, 16, 3)


def test_equal_stems_and_equal_folders_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "a.jpg"])
    with pytest.raises(UserError, match="have one name but for folder and ending"):
        generate_folder(checkpoint(), source, tmp_path / "out", 8, False, False, CPU)
    (source / "a.jpg").unlink()
    with pytest.raises(UserError, match="another folder than --test_dir"):
        generate_folder(checkpoint(), source, source, 8, False, True, CPU)


def test_pictures_are_not_transposed_and_grey_is_replicated(tmp_path: Path) -> None:
    picture = torch.zeros(1, 4, 6)
    picture[0, 1, 5] = 2.0
    picture[0, 3, 0] = -2.0
    save_row(tmp_path / "p.png", [picture, picture])
    row = pixels(tmp_path / "p.png")
    assert row.shape == (4, 12, 3)
    assert row[1, 5].tolist() == row[1, 11].tolist() == [255, 255, 255]
    assert row[3, 0].tolist() == [0, 0, 0]
    assert row[0, 0].tolist() == [128, 128, 128]


def test_to_unit_stretches_each_picture_by_itself() -> None:
    batch = torch.stack([torch.linspace(-1, 3, 4), torch.linspace(0, 0.1, 4), torch.ones(4)])
    unit = to_unit(batch.view(3, 1, 2, 2))
    torch.testing.assert_close(unit[0], unit[1])
    assert unit[0].flatten().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert not unit[2].any()


def test_gradient_energy_by_hand() -> None:
    picture = torch.tensor([[0.0, 1.0], [0.0, 3.0]]).view(1, 1, 2, 2)
    assert gradient_energy(picture) == pytest.approx(((1 + 9) / 2 + (0 + 4) / 2) / 2)


def test_score_against_hand_made_pairs() -> None:
    stored = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    stored[0, 0, :2] = 255
    stored[1, 0, :, :2] = 255
    pairs = Pictures((stored, stored), ["a", "b"], ShuffledQueue(2, np.random.default_rng(0)))
    scores = score(torch.nn.Identity(), pairs, stored)
    assert scores.l1 == 0
    assert scores.baseline_l1 == pytest.approx(0.25)  # the mean is off by 0.5 in half of the pixels
    assert scores.energy == scores.real_energy > 0
    assert scores.psnr == pytest.approx(100)
    again = score(torch.nn.Identity(), pairs, stored.repeat(3, 1, 1, 1))  # the same mean photo
    assert again.baseline_l1 == pytest.approx(0.25)
    assert scores.ssim == pytest.approx(1)


def test_a_judge_sees_what_was_generated_beside_the_true_photos(monkeypatch) -> None:
    monkeypatch.setattr(features, "judge", lambda name, truth: (name, truth))
    monkeypatch.setattr(features, "compared", lambda *given: given)
    outputs, photos = torch.rand(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    (name, shown), truth, sets = compared(outputs, photos, "lite0")
    assert name == "lite0"
    assert torch.equal(shown, to_unit(photos))
    assert torch.equal(truth, to_unit(photos))
    assert torch.equal(sets["generated"], to_unit(outputs))
    assert compared(outputs, photos, "none") is None


def test_psnr_and_ssim_by_known_answers() -> None:
    truth = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert signal_to_noise(truth + 0.1, truth) == pytest.approx(20, abs=1e-4)
    off = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert signal_to_noise(truth + off, truth) == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert similarity(truth, truth) == pytest.approx(1)
    assert similarity(1 - truth, truth) < -0.5  # the same structure, turned over


def test_similarity_is_that_of_the_definition() -> None:
    """Wang et al. 2004, equation 13, by hand: grey values in 0..1, means over windows of 7 x 7."""
    truth = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)).double()
    truth = (truth - truth.min()) / (truth.max() - truth.min())
    made = 0.6 * truth + 0.2
    expected = _definition(made[0, 0], truth[0, 0])
    assert similarity(made, truth) == pytest.approx(expected, abs=1e-6)
    centre = truth.mean()
    assert similarity(made - centre, truth - centre) == pytest.approx(expected, abs=1e-6)


def _definition(one: torch.Tensor, two: torch.Tensor) -> float:
    first, second = (image.unfold(0, 7, 1).unfold(1, 7, 1).flatten(2) for image in (one, two))
    mean, other = first.mean(2), second.mean(2)
    together = ((first - mean[..., None]) * (second - other[..., None])).sum(2) / 48
    light = (2 * mean * other + 1e-4) / (mean**2 + other**2 + 1e-4)
    rest = (2 * together + 9e-4) / (first.var(2) + second.var(2) + 9e-4)
    return float((light * rest).mean())


def test_broken_pictures_are_left_out_by_name(tmp_path: Path, capsys: Any) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "b.png", "c.png"])
    for name in ("b.png", "c.png"):
        (source / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = (source, tmp_path / "out", 2, False, False, CPU)
    assert generate_folder(checkpoint(), *arguments) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "left out: 2 broken" in capsys.readouterr().err
    (source / "a.png").unlink()
    with pytest.raises(UserError, match=r"b\.png"):
        generate_folder(checkpoint(), *arguments)
