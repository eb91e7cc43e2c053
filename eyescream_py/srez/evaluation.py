"""How good the enlargements of held-out faces are, beside bicubic and beside bicubic with noise.

PSNR and SSIM ask how near the one true picture is; the sliced Wasserstein distance of the finest
Laplacian level asks whether the detail looks like that of real faces (Karras et al. 2018, section
5), which an adversarial loss is for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyescream_py import features
from eyescream_py.srez.batches import held_out_pictures
from eyescream_py.srez.checkpoints import checkpoint_path, load_generator
from eyescream_py.srez.data import load_split, split_digest
from eyescream_py.srez.networks import Generator, use_batch_statistics
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.options import Options
from eyescream_py.srez.pictures import back_project, bicubic, save_png, sheet
from eyescream_py.system import voice
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.voice import counted

PATCH_SIDE = 7
PATCHES_PER_PICTURE = 16
PROJECTIONS = 512
COLUMNS = (
    ("psnr", "PSNR, dB", 2),
    ("ssim", "SSIM", 4),
    ("detail_swd", "finest level, SWD x1000", 1),
    ("consistency", "consistency, MAE", 4),
    ("frechet", "Fréchet distance", 2),
    ("kernel", "kernel distance", 4),
)
Levels = Tensor | list[Tensor]


@torch.no_grad()
def generate(generator: Generator, inputs: Tensor, chunk: int = 16) -> Tensor:
    """The generator in evaluation mode over any number of inputs; its mode is put back."""
    was_training = generator.training
    generator.eval()
    outputs = torch.cat([generator(part) for part in inputs.split(chunk)])
    generator.train(was_training)
    return outputs.contiguous()


def enlarge(generator: Generator, small: Tensor, told: Options) -> Tensor:
    """What a person gets: the generator's output for (N,3,S,S), by `told.bn` and, unless
    `told.back_projection` is 0 or the input is noise, corrected by its input.
    """
    use_batch_statistics(generator, told.bn == "batch")
    large = generate(generator, small)
    wanted = told.back_projection and told.input != "noise"
    return back_project(large, small) if wanted else large


def psnr(pictures: Tensor, label: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, for values in 0..1."""
    error = (pictures - label).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def ssim(pictures: Tensor, label: Tensor) -> float:
    """Mean structural similarity (scikit-image's defaults: 7x7 windows, colours averaged)."""
    from skimage.metrics import structural_similarity

    pairs = zip(pictures.cpu().numpy(), label.cpu().numpy(), strict=True)
    return float(
        np.mean([structural_similarity(a, b, channel_axis=0, data_range=1.0) for a, b in pairs])
    )


def finest_level(pictures: Tensor) -> Tensor:
    """The finest Laplacian level: what halving and doubling again (2x2 means) loses."""
    return pictures - F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2)


def _patches(level: Tensor, rng: torch.Generator) -> Tensor:
    """(N*16, C*7*7) random patches of the pictures' level."""
    windows = level.unfold(2, PATCH_SIDE, 1).unfold(3, PATCH_SIDE, 1)  # [N,C,y,x,7,7]
    count = len(level) * PATCHES_PER_PICTURE
    picture = torch.arange(len(level)).repeat_interleave(PATCHES_PER_PICTURE)
    y = torch.randint(0, windows.shape[2], (count,), generator=rng)
    x = torch.randint(0, windows.shape[3], (count,), generator=rng)
    return windows[picture, :, y, x].flatten(1)


def _all_patches(levels: Levels, rng: torch.Generator) -> Tensor:
    batches = [levels] if isinstance(levels, Tensor) else levels
    return torch.cat([_patches(batch.cpu(), rng) for batch in batches])


def sliced_wasserstein(real: Levels, generated: Levels, seed: int = 0) -> float:
    """1000 x the mean 1-D Wasserstein distance of random projections of patches, in units of the
    real patches' deviation.

    real, generated: (N,C,H,W) of equal shape, or lists of such of several sizes.
    """
    rng = torch.Generator().manual_seed(seed)
    a, b = (_all_patches(levels, rng) for levels in (real, generated))
    directions = F.normalize(torch.randn(a.shape[1], PROJECTIONS, generator=rng), dim=0)
    deviation = a.std() + 1e-8
    ranked = [((p - a.mean(0)) @ directions / deviation).sort(0).values for p in (a, b)]
    return float(1000 * (ranked[0] - ranked[1]).abs().mean())


def with_matched_noise(pictures: Tensor, label: Tensor, seed: int = 0) -> Tensor:
    """`pictures` plus white noise that lifts the variance of their finest level to the label's.

    One noise field per picture, the same in all channels, as the detail of faces is mostly
    brightness.
    """
    lacking = (finest_level(label).var() - finest_level(pictures).var()).clamp_min(0)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(label), 1, *label.shape[2:], generator=rng).to(label.device)
    # 2x2 means take a quarter of white noise away
    return pictures + (lacking / 0.75).sqrt() * noise


def compare(
    small: Tensor, generated: Tensor, label: Tensor, alone: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Figures of the output, of the network's output `alone` before any correction, of bicubic and
    of bicubic with noise against the truth; `consistency` is the mean absolute difference of the
    reduced output to the input (0..1).
    """
    smooth = bicubic(small, label.shape[-1])
    rows = {
        "srez": generated.clamp(0, 1),
        **({} if alone is None else {"network alone": alone.clamp(0, 1)}),
        "bicubic": smooth,
        "bicubic + noise": with_matched_noise(smooth, label),
    }
    real = finest_level(label)
    return {
        name: {
            "psnr": psnr(pictures, label),
            "ssim": ssim(pictures, label),
            "detail_swd": sliced_wasserstein(real, finest_level(pictures)),
            "consistency": float(tie_loss(pictures, small)),
        }
        for name, pictures in rows.items()
    }


def add_feature_distances(
    figures: dict[str, dict[str, float]], sets: Mapping[str, Tensor], label: Tensor, name: str
) -> str:
    """Give each row of `figures` that `sets` has pictures (N,3,H,W) of its distances from `label`
    in the eyes of the feature network `name`; returns that network in words.

    "" where `name` is none or the pictures are too few.
    """
    if not features.suffices(name, len(label)):
        return ""
    found = features.compared(features.judge(name, label), label, sets)
    for row in sets:
        figures[row]["frechet"] = found.frechet[row]
        figures[row]["kernel"] = found.kernel[row].value
    return f"{found.network}, pictures seen at {found.side}x{found.side}"


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    known = [c for c in COLUMNS if any(c[0] in row for row in figures.values())]
    lines = [
        "| | " + " | ".join(title for _, title, _ in known) + " |",
        "|---" * (len(known) + 1) + "|",
    ]
    for name, row in figures.items():
        cells = [f"{row[key]:.{digits}f}" if key in row else "" for key, _, digits in known]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run_evaluate(
    told: Options,
    device: torch.device,
    say: Callable[[str], None] = voice.say,
    judge: str = "none",
) -> dict[str, dict[str, float]]:
    """`--run evaluate`: the checkpoint's own held-out faces of `told.dataset`; prints the table,
    writes it and a sheet to summary_dir. `judge` names a feature network (`features.judge`), or
    none.
    """
    generator, stored = load_generator(checkpoint_path(told.checkpoint_dir))
    if stored.options.input == "noise":
        raise UserError(
            "--run=evaluate: this checkpoint makes faces from noise, there is no truth to compare "
            "with"
        )
    options = dataclasses.replace(stored.options, dataset=told.dataset, cache_dir=told.cache_dir)
    train, test = load_split(
        options.dataset, options.crop, options.test_vectors, options.random_seed,
        options.test_list, options.train_images, options.cache_dir,
    )  # fmt: skip
    generator.to(device)
    small, label = held_out_pictures(test, options, device)
    generated = enlarge(generator, small, told)
    alone = generate(generator, small) if told.back_projection else None
    figures = compare(small, generated, label, alone)
    say(f"{counted(len(test), 'held-out face')}, {counted(stored.batch, 'batch')} trained")
    if stored.split and split_digest(train, test, options.crop) != stored.split:
        say("these are other pictures than the run was told of: some may have been learnt from")
    sets = {"srez": generated, "bicubic": bicubic(small, label.shape[-1])}
    eyes = add_feature_distances(figures, sets, label, judge)
    say(table(figures))
    if eyes:
        say(f"Fréchet and kernel distance: {eyes}; the first is lower for more pictures")
    folder = Path(told.summary_dir)
    make_folder(folder)
    save_png(folder / f"evaluation_batch{stored.batch:06d}.png", sheet(small, generated, label))
    with atomic_write(folder / f"evaluation_batch{stored.batch:06d}.json") as file:
        file.write(json.dumps(figures, indent=1).encode())
    return figures
