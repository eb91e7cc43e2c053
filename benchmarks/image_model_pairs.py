"""Settings of the image-model room on pairs of pictures, each with the same processor time.

    python -m eyescream_py.image_model prepare-pairs PHOTOS PAIRS 64 --channels 3 --source blur
    python -m benchmarks.image_model_pairs run PAIRS TEST_PAIRS OUT pix --seconds 60
    python -m benchmarks.image_model_pairs sheet TEST_PAIRS OUT SHEET default pix

`run` leaves OUT/NAME.json and OUT/NAME.safetensors. A setting is a list of phases, each with its
share of the time. Where rates fall at a phase's end, its steps are counted from the time that the
first 20 take; else it goes on until the time is used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.image_model_report import save_sheet
from eyescream_py.image_model.checkpoints import read_checkpoint, save_checkpoint
from eyescream_py.image_model.data import load_pairs
from eyescream_py.image_model.generate import load_generator, score
from eyescream_py.image_model.loop import rates_of, set_rates
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions
from eyescream_py.image_model.schedule import rate_share
from eyescream_py.image_model.training import ImageModel, generate, load_domains

CPU = torch.device("cpu")
TIMED = 20  # steps


@dataclass(frozen=True)
class Phase:
    """One `train` command: its share of the time and its flags."""

    share: float = 1.0
    image: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    gan: dict[str, Any] = field(default_factory=dict)
    decay: float = 0.0  # of the phase's steps


_ADAM: dict[str, Any] = {"optim": "ADAM", "norm": "conv"}
_PIX: dict[str, Any] = {"gen_arch": "PIX", "flip": True, "crop": 6}
_ALONE = _PIX | {"use_gan": False}
_GAME = _PIX | {"use_nd_gan": True, "llr": 3e-4}
_PATCH: dict[str, Any] = {"critic": "patch", "glr": 2e-4, "dlr": 2e-4, "d_limit": 1}
SETTINGS: dict[str, tuple[Phase, ...]] = {
    "default": (Phase(model={"use_nd_gan": True}),),
    "default-l1": (Phase(model={"use_gan": False}),),
    "pix": (Phase(1, _ADAM, _ALONE, {}, 0.5),),
    "pix-features": (Phase(1, _ADAM, _ALONE | {"features_loss": 0.2}, {}, 0.5),),
    "pix-game": (Phase(0.6, _ADAM, _ALONE, {}, 0.5), Phase(0.4, _ADAM, _GAME, _PATCH, 0.5)),
}


def steps_of(phase: Phase, seconds: float) -> Iterator[tuple[int, int]]:
    """(step, last step) until the phase's time is used."""
    began = time.process_time()
    end = 10**9
    step = 0
    while step < end:
        step += 1
        yield step, end
        spent = time.process_time() - began
        if step == TIMED and phase.decay:
            end = max(TIMED, round(phase.share * seconds / (spent / TIMED)))
        if not phase.decay and spent >= phase.share * seconds:
            return


def train(phase: Phase, pairs: Path, size: int, seconds: float, start: Any) -> ImageModel:
    """The learner after `phase`, from the weights of `start` or afresh."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    image = ImageOptions(image_size=size, channels=3, **phase.image)
    options = ModelOptions(nd_dir=str(pairs), l1=True, use_nd_l1=True, **phase.model)
    learner = ImageModel(
        options, image, GanOptions(**phase.gan), load_domains(options, image, rng, CPU), rng, CPU
    )
    if start is not None:
        learner.generator.load_state_dict(start)
    rates = rates_of(learner)
    for step, end in steps_of(phase, seconds):
        set_rates(learner, rates, rate_share(step, end, round(phase.decay * end)))
        metrics = learner.step()
        if step % 200 == 0:
            print(step, end, {k: round(v, 4) for k, v in metrics.items()}, flush=True)
    print("steps", step, flush=True)
    return learner


@click.group()
def main() -> None:
    """Compare settings on pairs."""


@main.command()
@click.argument("pairs", type=click.Path(path_type=Path))
@click.argument("test_pairs", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("name", type=click.Choice(list(SETTINGS)))
@click.option("--seconds", type=float, default=400, show_default=True)
@click.option("--size", type=int, default=64, show_default=True)
def run(pairs: Path, test_pairs: Path, out: Path, name: str, seconds: float, size: int) -> None:
    """Train setting NAME for `seconds` of processor time and measure it."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    weights = None
    for phase in SETTINGS[name]:
        learner = train(phase, pairs, size, seconds, weights)
        weights = learner.generator.state_dict()
    spent = time.process_time() - began
    held_out = load_pairs(test_pairs, "--nd_dir", size, 3, np.random.default_rng(0))
    seen = learner.domains.pairs
    assert seen is not None
    scores = asdict(score(learner.generator.eval(), held_out, seen.sides[1])) | {"cpu_s": spent}
    modules = {"generator": learner.generator}
    save_checkpoint(out / f"{name}.safetensors", 0, learner.settings, {}, modules, {})
    (out / f"{name}.json").write_text(json.dumps(scores))
    print(name, json.dumps(scores))


@main.command()
@click.argument("test_pairs", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
@click.option("--size", type=int, default=64, show_default=True)
def sheet(test_pairs: Path, out: Path, target: Path, names: tuple[str, ...], size: int) -> None:
    """Rows: input, each of NAMES, truth; a picture of every fourth held-out pair."""
    held_out = load_pairs(test_pairs, "--nd_dir", size, 3, np.random.default_rng(0))
    sources, truth = held_out.all()
    rows = [sources]
    for name in names:
        network = load_generator(read_checkpoint(out / f"{name}.safetensors"), CPU)
        rows.append(generate(network, sources))
    save_sheet(target, [*rows, truth], range(0, len(truth), 4), 2)


if __name__ == "__main__":
    main()
