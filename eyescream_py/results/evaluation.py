"""What `eyescream evaluate` does: measure pictures of a G, a folder or an .npy file
against real ones, and write the figures down.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyescream_py import features
from eyescream_py.data.dataset import DEFAULT_FOLDER, Dataset, load_dataset
from eyescream_py.networks import checkpoints
from eyescream_py.results import quality
from eyescream_py.results.generator import EXPORTED, load_generator, own_D
from eyescream_py.results.report import Findings, table, write_png
from eyescream_py.results.sampling import judge
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write, open_to_read
from eyescream_py.system.folders import make_folder
from eyescream_py.system.idle import say_idle
from eyescream_py.system.memory import demand_memory
from eyescream_py.system.places import as_script
from eyescream_py.torch7 import Table
from eyescream_py.torch7.random import TorchSource

SMALLEST_SET = 20
NO_FEATURES = "none"


@dataclass(frozen=True)
class EvaluateOptions:
    """The command's options; `typed` are those that a person gave."""

    subject: str
    dataset: str | None
    heldout: str | None
    images: int
    scale: int
    grayscale: bool
    writeto: str
    seed: int
    gpu: int
    threads: int
    ema: bool
    features: str
    typed: frozenset[str]


@dataclass(frozen=True)
class Subject:
    """Pictures to be measured [N,C,S,S] and, where there is one, the D that they were made for."""

    images: Tensor
    D: nn.Module | None


def evaluate(options: EvaluateOptions) -> Findings:
    """Print the table; write `evaluation.json` and `evaluation.png` into `--writeto`."""
    if options.features != NO_FEATURES:
        features.chosen(options.features)  # a word or file that is none: before any work
    set_threads(options.threads, "threads" in options.typed)
    device = choose_device(options.gpu, "gpu" in options.typed)
    folder, array = Path(options.subject).is_dir(), options.subject.lower().endswith(".npy")
    say_idle(
        (not folder, "where SUBJECT is no folder", ("scale", "grayscale")),
        (folder or array, "where SUBJECT is pictures", ("ema",)),
    )
    subject = load_subject(options, device)
    channels, size = subject.images.shape[1], subject.images.shape[-1]
    reference, seen, note = real_sets(options, channels, size, device)
    count = min(len(subject.images), len(reference), len(seen))
    _demand_enough(count)
    findings = measure(
        Subject(subject.images[:count], subject.D),
        sample_rows(reference, count, options.seed),
        sample_rows(seen, count, options.seed + 1),
        options.seed,
        note,
        options.features,
    )
    print(table(findings))
    _write(findings, Path(options.writeto))
    return findings


def _demand_enough(count: int) -> None:
    """Raise UserError where a set of so many pictures is too small to be compared."""
    if count < SMALLEST_SET:
        raise UserError(
            f"only {count} picture{'s' * (count != 1)} to compare: each set needs {SMALLEST_SET} "
            "at least, hundreds for figures that mean something"
        )


def load_subject(options: EvaluateOptions, device: torch.device) -> Subject:
    """The pictures of a .net's G, of an .npy file, or of a folder."""
    path = Path(options.subject)
    if path.is_dir():
        channels = 1 if options.grayscale else 3
        data = load_dataset(path, channels, options.scale, device, cache=False)
        return Subject(sample_rows(data, min(options.images, len(data)), options.seed), None)
    if path.suffix.lower() == ".npy":
        return Subject(_array(path, options.images).to(device), None)
    if options.subject.startswith(checkpoints.PRETRAINED):
        path = checkpoints.find(options.subject, Path(), "SUBJECT")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; train one first: {as_script('train')}")
    G = load_generator(path, device, ema=options.ema)
    G.demand_squares(str(path))
    count = options.images
    demand_memory(f"--images={count}", "a set of pictures", count * 4 * math.prod(G.dims))
    images = G.sample(options.images, options.seed)
    exported = path.suffix.lower() == EXPORTED
    content = Table() if exported else checkpoints.read(path, "SUBJECT")
    # old files and those of strangers may hold G alone
    return Subject(images, own_D(content, path, "SUBJECT", G, "D's answers are left out"))


def _array(path: Path, most: int) -> Tensor:
    """(N,H,W), (N,C,H,W) or (N,H,W,C) as uint8 or floats 0..1 -> the first as float [N,C,S,S]."""
    try:
        open_to_read(path).close()  # numpy would wait for a pipe
    except OSError as error:
        raise UserError(f"{path}: {why(error)}") from error
    try:  # mapped: a header that claims more than the file has is refused, not allocated
        array = np.lib.format.open_memmap(path, mode="r")[:most]
    except Exception as error:  # numpy parses a header as Python text and raises what that does
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: no readable array: {reason}") from error
    if array.dtype.kind not in "uif":
        raise UserError(f"{path}: holds {array.dtype}; bytes or floats of 0..1 are needed")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = np.moveaxis(array, 3, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.shape[2] != array.shape[3]:
        raise UserError(f"{path}: holds {array.shape}, not (N,H,W) or (N,C,H,W) of square pictures")
    floats = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    if not ((floats >= 0) & (floats <= 1)).all():
        raise UserError(f"{path}: floats of 0..1 are needed, these go beyond")
    return torch.from_numpy(floats)


def real_sets(
    options: EvaluateOptions, channels: int, size: int, device: torch.device
) -> tuple[Dataset, Dataset, str]:
    """(reference, the other real set, what they are). Without --heldout both are halves of the
    data set, cut where a new source picture begins.
    """
    if options.heldout:
        _demand_apart(Path(options.heldout), Path(options.dataset or DEFAULT_FOLDER))
    data = load_dataset(options.dataset, channels, size, device)
    if options.heldout:
        held = load_dataset(options.heldout, channels, size, device)
        return held, data, f"reference: {held.name} (held out); training: {data.name}"
    _demand_enough(len(data) // 2)
    reference, seen = data.split(len(data) // 2, force=True)
    return reference, seen, (
        f"reference and training: two halves of {data.name}; a G trained on all of it has seen "
        "both, so the memorisation check says nothing (give --heldout)"
    )  # fmt: skip


def _demand_apart(held: Path, data: Path) -> None:
    """Refuse held-out pictures that are pictures of the data set, or some of which are."""
    held, data = held.resolve(), data.resolve()
    if held == data or data in held.parents:
        raise UserError(f"--heldout={held} is a part of the data set {data}; move it elsewhere")
    if held in data.parents and data.exists():  # the embedded faces lie nowhere
        raise UserError(f"--heldout={held} holds the data set {data} too; move one elsewhere")


def sample_rows(data: Dataset, count: int, seed: int) -> Tensor:
    """`count` random pictures of the set as floats. [count,C,S,S]"""
    rows = TorchSource(seed, data.device).permutation(len(data))[:count]
    return data.floats(rows)


def measure(
    subject: Subject,
    reference: Tensor,
    seen: Tensor,
    seed: int,
    note: str = "",
    seeing: str = NO_FEATURES,
) -> Findings:
    """Every figure for three equally large sets of pictures [N,C,S,S]; `seeing` names the network
    of the features.
    """
    images = subject.images
    noise = TorchSource(seed + 2, images.device).uniform_(torch.empty_like(images), 0, 1)
    sets = {"real": seen, "generated": images, "noise": noise}
    near = {
        "generated to training": quality.nearest_distances(images, seen),
        "generated to reference": quality.nearest_distances(images, reference),
        "reference to training": quality.nearest_distances(reference, seen),
    }
    closer = near["generated to training"] < near["generated to reference"]
    figures: dict[str, Any] = {
        "images": len(images),
        "note": note,
        "swd": {name: quality.distances(reference, each, seed) for name, each in sets.items()},
        "diversity": {
            "real": quality.diversity(reference), "generated": quality.diversity(images),
        },
        "nearest": {name: float(values.median()) for name, values in near.items()},
        "nearer_to_training": float(closer.double().mean()),
    }  # fmt: skip
    if seeing != NO_FEATURES:
        found = features.compared(features.judge(seeing, reference), reference, sets)
        figures["features"] = asdict(found)
    scores: dict[str, Tensor] = {}
    if subject.D is not None:
        scores, figures["D_auc"] = _opinions(subject.D, images, reference, seen)
    examples = {"generated": images[:40].cpu(), "reference": reference[:40].cpu()}
    return Findings(figures, {n: v.cpu() for n, v in near.items()}, scores, examples)


def _opinions(
    D: nn.Module, images: Tensor, reference: Tensor, seen: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """D's scores of each set, and how well they tell the sets apart."""
    judged = {"reference": reference, "training": seen, "generated": images}
    scores = {name: judge(D, pictures).cpu() for name, pictures in judged.items()}
    return scores, {
        "reference against generated": quality.auc(scores["reference"], scores["generated"]),
        "training against reference": quality.auc(scores["training"], scores["reference"]),
    }


def _write(findings: Findings, folder: Path) -> None:
    try:
        make_folder(folder)
        with atomic_write(folder / "evaluation.json") as file:
            file.write((json.dumps(findings.figures, indent=2) + "\n").encode())
        write_png(folder / "evaluation.png", findings)
    except OSError as error:
        raise UserError(f"--writeto={folder}: cannot write: {why(error)}") from error
    print(f"Written: {folder / 'evaluation.json'} and {folder / 'evaluation.png'}")
