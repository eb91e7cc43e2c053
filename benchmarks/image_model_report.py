"""Tables, curves and sheets of what `benchmarks.image_model run` has left in OUT.

    python -m benchmarks.image_model_report OUT --data DATA

Draws OUT/difference.png and OUT/heads.jpg.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from eyescream_py.image_model.checkpoints import read_checkpoint
from eyescream_py.image_model.data import load_pairs
from eyescream_py.image_model.generate import load_generator
from eyescream_py.image_model.pictures import to_pixels
from eyescream_py.image_model.training import generate

SEEDS = (1, 2, 3)
NAMES = ("l1", "l1_more", "gan_l1", "l1_long", "l1_longer", "gan_long", "plain", "replay", "semi")
SHEET_ROWS = ("plain", "semi", "l1_more", "gan_l1", "l1_longer", "gan_long")
CPU = torch.device("cpu")


def save_sheet(path: Path, columns: list[torch.Tensor], rows: range, zoom: int) -> None:
    """One column of pictures per tensor (laid out as rows of a wide sheet)."""
    sheet = np.vstack([np.hstack([to_pixels(batch[i]) for i in rows]) for batch in columns])
    picture = Image.fromarray(sheet)
    picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(
        path, quality=85
    )


def results(out: Path, name: str) -> list[dict[str, Any]]:
    """An experiment's results, one per seed."""
    return [json.loads(p.read_text()) for p in sorted(out.glob(f"{name}-[0-9].json"))]


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="For the sheet of held-out heads.")
@click.option("--size", type=int, default=64, show_default=True)
def main(out: Path, data: Path | None, size: int) -> None:
    if not any(results(out, name) for name in NAMES):
        raise click.BadParameter(f"{out} holds no results of benchmarks.image_model run")
    for name in NAMES:
        for index, result in enumerate(results(out, name)):
            known = {k: v for k, v in result["scores"].items() if v is not None}
            numbers = "  ".join(f"{key} {value:.4f}" for key, value in known.items())
            ratio = result["scores"]["baseline_l1"] / result["scores"]["l1"]
            seconds = f"{result['cpu_s']:.0f} CPU s, {result['wall_s']:.0f} s"
            print(f"{name:8} seed {SEEDS[index]}  {numbers}  ratio {ratio:.2f}  ({seconds})")
    for name in ("plain", "replay"):
        for index, result in enumerate(results(out, name)):
            d = differences(result)
            print(
                f"{name:8} seed {SEEDS[index]}  difference after step 100: mean {d.mean():.3f}  "
                f"std {d.std():.3f}  step to step {np.abs(np.diff(d)).mean():.3f}  "
                f"swing of its mean over 20 steps {swing(d):.3f}"
            )
    draw_differences(out)
    if data is not None:
        draw_heads(out, data, size)


def differences(result: dict[str, Any]) -> np.ndarray:
    """D(real) - D(fake) of the steps after the first hundred."""
    return np.array([record["difference"] for record in result["trace"]])[100:]


def swing(difference: np.ndarray, window: int = 20) -> float:
    """Standard deviation of the moving average: the slow cycles, without the batch noise."""
    return float(np.convolve(difference, np.ones(window) / window, "valid").std())


def draw_differences(out: Path) -> None:
    """OUT/difference.png: with and without replay, a plot per seed."""
    if not results(out, "plain"):
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
    for name, label in (("plain", "without replay"), ("replay", "with replay")):
        for axis, seed, result in zip(axes, SEEDS, results(out, name), strict=False):
            values = [record["difference"] for record in result["trace"]]
            axis.plot(np.convolve(values, np.ones(10) / 10, "valid"), label=label)
            axis.set_title(f"seed {seed}")
            axis.set_xlabel("step")
    axes[0].set_ylabel("D(real) - D(fake), mean of 10")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out / "difference.png", dpi=80)


def draw_heads(out: Path, data: Path, size: int) -> None:
    """Rows: depth, what there is of SHEET_ROWS, truth."""
    rng = np.random.default_rng(0)
    depths, truth = load_pairs(data / "Faces_ND_test", "--nd_dir", size, 1, rng).all()
    rows = [depths]
    for name in SHEET_ROWS:
        path = out / f"{name}-1.safetensors"
        if path.is_file():
            rows.append(generate(load_generator(read_checkpoint(path), CPU), depths))
    save_sheet(
        out / "heads.jpg", [*rows, truth], range(0, len(depths), max(1, len(depths) // 10)), 2
    )


if __name__ == "__main__":
    main()
