"""A folder of pictures through a generator, and how near it comes to held-out truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eyescream_py import features
from eyescream_py.image_model.checkpoints import Checkpoint
from eyescream_py.image_model.data import (
    Pictures,
    by_stem,
    list_pictures,
    load_picture,
    normalise,
)
from eyescream_py.image_model.networks import (
    Decoder,
    EncodedGenerator,
    Encoder,
    build_generator,
)
from eyescream_py.image_model.pictures import save_row, to_unit
from eyescream_py.system.errors import UserError
from eyescream_py.system.folders import make_folder
from eyescream_py.system.progress import each
from eyescream_py.system.voice import warn


def load_generator(checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """The depth-to-photo network of any checkpoint of this room, ready for use (eval mode)."""
    settings = checkpoint.settings
    channels, norm = settings["channels"], settings["norm"]
    if settings["kind"] == "image-model":
        size = settings["image_size"]
        arch = settings["gen_arch"]
        generator = checkpoint.build(
            lambda: build_generator(arch, channels, size, norm), "generator"
        )
    else:
        name = "decoder_real" if settings["kind"] == "cross-encoder" else "decoder"
        encoder = checkpoint.build(lambda: Encoder(channels, norm), "encoder")
        decoder = checkpoint.build(lambda: Decoder(channels, norm), name)
        generator = EncodedGenerator(encoder, decoder)
    return generator.to(device).eval()


def read_normalised(path: Path, size: int, channels: int) -> Tensor:
    """One picture as the networks see it, (C, size, size); a constant one is all zeros."""
    stored = load_picture(path, size, channels)
    if stored is None:
        return torch.zeros(channels, size, size)
    return normalise(torch.from_numpy(stored)[None])[0]


def _batches(files: list[Path], batch_size: int) -> list[list[Path]]:
    return [files[start : start + batch_size] for start in range(0, len(files), batch_size)]


def generate_folder(
    checkpoint: Checkpoint,
    source: str | Path,
    target: str | Path,
    batch_size: int,
    pair_images: bool,
    overwrite: bool,
    device: torch.device,
) -> int:
    """Write `target/<name>.png` for every picture of `source`; their number.

    With `pair_images` the input stands right of the generated picture. The last batch is short.
    Pictures that cannot be read are left out, with a line. Raises UserError before any work where a
    file would be overwritten without `overwrite`, and where not one picture can be read.
    """
    files = list_pictures(source, "--test_dir")
    names = _target_names(files, Path(source), Path(target), overwrite)
    generator = load_generator(checkpoint, device)
    size, channels = checkpoint.settings["image_size"], checkpoint.settings["channels"]
    make_folder(target)
    broken: list[str] = []
    for batch in each(_batches(files, batch_size), f"batches of {batch_size}"):
        taken, x = _read_batch(batch, size, channels, broken)
        if not taken:
            continue
        x = x.to(device)
        with torch.no_grad():
            outputs = generator(x)
        for path, output, source_picture in zip(taken, outputs, x, strict=True):
            row = [output, source_picture] if pair_images else [output]
            save_row(names[path], row)
    if len(broken) == len(files):
        raise UserError(f"--test_dir: {broken[0]}")
    if broken:
        warn(f"left out: {len(broken)} broken, {broken[0]}")
    return len(files) - len(broken)


def _read_batch(
    files: list[Path], size: int, channels: int, broken: list[str]
) -> tuple[list[Path], Tensor]:
    """The files that can be read and their pictures (n,C,size,size); `broken` grows by the rest."""
    taken, pictures = [], []
    for path in files:
        try:
            pictures.append(read_normalised(path, size, channels))
        except UserError as error:
            broken.append(error.message)
        else:
            taken.append(path)
    return taken, torch.stack(pictures) if pictures else torch.empty(0)


def _target_names(
    files: list[Path], source: Path, target: Path, overwrite: bool
) -> dict[Path, Path]:
    names = {path: target / f"{stem}.png" for stem, path in by_stem(files, "--test_dir").items()}
    if source.resolve() == target.resolve():
        raise UserError("--output_dir: give another folder than --test_dir")
    standing = [name for name in names.values() if name.exists()]
    if standing and not overwrite:
        raise UserError(f"--output_dir: {standing[0]} exists; give --overwrite or another folder")
    return names


@dataclass(frozen=True)
class Scores:
    """`l1`: mean |G(x) - y| on pairs; `baseline_l1`: the same for the mean photo of training.

    `energy` and `real_energy`: mean squared step between neighbouring pixels of generated and true
    photos. `psnr` (dB, 100 at most) and `ssim` (windows of 7 pixels, colours averaged) compare G(x)
    with y. All in units of a picture's own contrast (its span is 1).
    """

    l1: float
    baseline_l1: float
    energy: float
    real_energy: float
    psnr: float
    ssim: float
    seen: features.Comparison | None = None  # the set "generated" beside the true photos


def gradient_energy(pictures: Tensor) -> float:
    """How sharp (N, C, H, W) is: mean squared difference of neighbours, both directions."""
    across = pictures.diff(dim=-1).square().mean()
    down = pictures.diff(dim=-2).square().mean()
    return ((across + down) / 2).item()


def signal_to_noise(pictures: Tensor, truth: Tensor) -> float:
    """Mean over pictures (N, C, H, W) of the peak signal-to-noise ratio in dB, for a peak of 1."""
    error = (pictures - truth).square().mean((1, 2, 3)).clamp_min(1e-10)
    return (-10 * error.log10()).mean().item()


def similarity(pictures: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of (N, C, S, S) to true pictures of span 1 (Wang et al. 2004).

    Its luminance term counts brightness from black, centred pictures count from their mean: each
    pair is moved so that the true picture is in 0..1.
    """
    from skimage.metrics import structural_similarity

    black = truth.amin((1, 2, 3), keepdim=True)
    pictures, truth = pictures - black, truth - black
    window = min(7, pictures.shape[-1] - 1)  # odd, as sides are even
    pairs = zip(pictures.cpu().numpy(), truth.cpu().numpy(), strict=True)
    how = {"channel_axis": 0, "data_range": 1.0, "win_size": window}
    return float(np.mean([structural_similarity(a, b, **how) for a, b in pairs]))


@torch.no_grad()
def score(
    generator: nn.Module, held_out: Pictures, training_photos: Tensor, judge: str = "none"
) -> Scores:
    """Compare G with the truth of held-out pairs; `training_photos` uint8 (N, C, S, S).

    `judge` names the feature network (`features.judge`) that compares the sets, or none.
    """
    depths, photos = held_out.all()
    outputs = torch.cat([generator(part) for part in depths.split(32)])
    mean_photo = torch.stack([normalise(part).sum(0) for part in training_photos.split(256)]).sum(0)
    mean_photo = mean_photo / len(training_photos)
    return Scores(
        l1=(outputs - photos).abs().mean().item(),
        baseline_l1=(mean_photo - photos).abs().mean().item(),
        energy=gradient_energy(outputs),
        real_energy=gradient_energy(photos),
        psnr=signal_to_noise(outputs, photos),
        ssim=similarity(outputs, photos),
        seen=compared(outputs, photos, judge),
    )


def compared(outputs: Tensor, photos: Tensor, judge: str) -> features.Comparison | None:
    """How far the set (N, C, S, S) is from the true photos in the eyes of a network; None where
    `judge` is none or the pictures are too few.
    """
    if not features.suffices(judge, len(photos)):
        return None
    truth = to_unit(photos)
    return features.compared(features.judge(judge, truth), truth, {"generated": to_unit(outputs)})
