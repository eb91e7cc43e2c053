"""`python -m eyescream_py.srez.bench`: the fork's study as one command.

Every combination of objective, architecture and critic norm trains for the same budget on the same
faces; a table and a picture of losses, Wasserstein estimate and PSNR over batches come out.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eyescream_py.srez.flags import machine_flags, run_flags
from eyescream_py.srez.options import Options
from eyescream_py.system import voice
from eyescream_py.system.commands import Command
from eyescream_py.system.device import choose_device, prepare_cuda, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import demand_empty, make_folder
from eyescream_py.system.json_lines import read_json_lines
from eyescream_py.system.numbers import Finite
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import SECONDS_BETWEEN_LINES
from eyescream_py.system.voice import counted

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

LEAST_POINTS = 5
SPANS = 10
SET_BY_THE_BENCH = (
    "loss_func", "gen_architect", "critic_norm", "input", "noise_dimension", "train_time",
    "checkpoint_dir", "train_dir", "summary_dir", "cache_dir", "weigh_clip", "LAMBDA", "on_finish",
    "back_projection", "preset",
)  # fmt: skip
CURVES = (
    ("generator_loss", "generator loss"),
    ("wasserstein_estimate", "mean D(real) - mean D(fake)"),
    ("psnr", "PSNR of held-out faces, dB"),
    ("detail_swd", "finest level's distance to real faces"),
    ("consistency", "reduced output against input, MAE"),
)
QUALITIES = {"detail_swd": "finest level", "psnr": "PSNR", "consistency": "consistency"}


def cell_name(options: Options) -> str:
    """The name of one combination's folder and row: objective-architecture-norm."""
    return f"{options.objective}-{options.gen_architect}-{options.norm_of_critic}"


def grid(base: Options, objectives: str, architectures: str, norms: str) -> list[Options]:
    """One Options per different combination, each in a folder of its own below base.summary_dir."""
    cells = {}
    for objective, architecture, norm in itertools.product(
        objectives.split(","), architectures.split(","), norms.split(",")
    ):
        cell = dataclasses.replace(
            base, loss_func=objective, gen_architect=architecture, critic_norm=norm
        )
        folder = Path(base.summary_dir) / cell_name(cell)
        cells[cell_name(cell)] = dataclasses.replace(
            cell,
            train_dir=str(folder / "train"),
            checkpoint_dir=str(folder / "checkpoint"),
            summary_dir=str(folder / "summary"),
        )
    for cell in cells.values():
        cell.check()
    return list(cells.values())


def run_bench(cells: list[Options], folder: Path, device: torch.device) -> list[dict[str, Any]]:
    """Train and evaluate every cell; write table.md, table.json, curves.png into `folder`.

    A cell whose losses stop being numbers is named in the table and the study goes on; Ctrl-C ends
    the study after the cell it falls into.
    """
    rows: list[dict[str, Any]] = []
    for number, cell in enumerate(cells, 1):
        voice.say(f"{number} of {len(cells)}: {cell_name(cell)}")
        row, whole = _run_cell(cell, device)
        rows.append(row)
        _write(folder / "table.json", json.dumps(rows, indent=1))
        _write(folder / "table.md", table(rows))
        draw(cells[:number], folder / "curves.png")
        if not whole:
            voice.say(f"stopped; not tried: {counted(len(cells) - number, 'combination')}")
            break
    return rows


def _run_cell(cell: Options, device: torch.device) -> tuple[dict[str, Any], bool]:
    """A cell's row of the table, and whether it came to its own end."""
    from eyescream_py.srez.evaluation import run_evaluate
    from eyescream_py.srez.report import DivergedError
    from eyescream_py.srez.training import run_train

    try:
        whole = run_train(cell, device, say=_now_and_then(cell_name(cell)))
    except DivergedError as error:
        return {"cell": cell_name(cell), "failed": str(error)}, True
    figures = run_evaluate(cell, device, say=lambda line: None)
    return _row(cell, figures), whole


def _now_and_then(name: str) -> Callable[[str], None]:
    """What says a run's lines behind its `name`: those that come long enough after the last."""
    last = time.monotonic()

    def say(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            voice.say(f"{name}: {line}")

    return say


def _row(cell: Options, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    records = read_json_lines(Path(cell.summary_dir) / "metrics.jsonl")
    estimates = [r["wasserstein_estimate"] for r in records if "wasserstein_estimate" in r]
    last = estimates[-max(1, len(estimates) // 5) :]  # the last fifth, as single batches are noisy
    points = averaged(records)
    return {
        "cell": cell_name(cell),
        "batches": records[-1]["batch"],
        "minutes": records[-1]["seconds"] / 60,
        "peak": max((p["wasserstein_estimate"] for p in points), default=None),
        "estimate": sum(last) / len(last) if last else None,
        **{f"tracks_{quality}": tracking(points, quality) for quality in QUALITIES},
        "bicubic": figures["bicubic"],
        **figures["srez"],
    }


def averaged(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The quality records of a run, each with the estimates since the one before as their mean."""
    points, since = [], []
    for record in records:
        if "wasserstein_estimate" in record:
            since.append(record["wasserstein_estimate"])
        elif since:
            points.append({**record, "wasserstein_estimate": sum(since) / len(since)})
            since = []
    return points


def tracking(points: list[dict[str, float]], quality: str) -> float | None:
    """Spearman's rank correlation of the averaged estimate with `quality`, from the estimate's
    largest value on (before it, the critic is still catching up); None for fewer than 5 points, or
    equal ones.

    Both are averaged over up to ten spans of the run, as single generators oscillate.
    """
    import numpy as np
    from scipy.stats import spearmanr

    pairs = np.array([(p["wasserstein_estimate"], p[quality]) for p in points]).reshape(-1, 2)
    rest = pairs[pairs[:, 0].argmax() :] if len(pairs) else pairs
    if len(rest) < LEAST_POINTS:
        return None
    spans = np.array([part.mean(0) for part in np.array_split(rest, min(SPANS, len(rest)))])
    if not np.ptp(spans, 0).all():  # of what never changes there is no rank
        return None
    return float(spearmanr(spans[:, 0], spans[:, 1]).statistic)


def table(rows: list[dict[str, Any]]) -> str:
    """The study's results as Markdown, bicubic's figures in the last line."""
    columns = (
        "objective-generator-critic norm", "batches", "minutes", "estimate at its peak",
        "estimate, last fifth", *[f"its rank correlation with {q}" for q in QUALITIES.values()],
        "PSNR, dB", "SSIM", "finest level, SWD x1000", "consistency, MAE",
    )  # fmt: skip
    lines = [_line(columns), "|" + "---|" * len(columns)]
    for r in rows:
        if "failed" in r:
            lines.append(_line([r["cell"], "losses were no numbers any more", *[""] * 10]))
            continue
        of_estimate = ("peak", "estimate", *(f"tracks_{quality}" for quality in QUALITIES))
        figures = [_figure(r[name], 2) for name in of_estimate]
        lines.append(
            _line([r["cell"], r["batches"], f"{r['minutes']:.1f}", *figures, *_quality(r)])
        )
    bicubic = next((r["bicubic"] for r in rows if "bicubic" in r), None)
    if bicubic:
        lines.append(_line(["bicubic", *[""] * 7, *_quality(bicubic)]))
    return "\n".join([*lines, ""])


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _quality(figures: dict[str, Any]) -> list[str]:
    digits = {"psnr": 2, "ssim": 4, "detail_swd": 1, "consistency": 4}
    return [_figure(figures[name], n) for name, n in digits.items()]


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def draw(cells: list[Options], path: Path) -> None:
    """One panel per curve, one line per cell; the estimate is drawn averaged as in `averaged`, over
    the single batches in a paler colour.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(CURVES), 4.2), layout="tight")
    panels = figure.subplots(1, len(CURVES))
    for number, cell in enumerate(cells):
        records = read_json_lines(Path(cell.summary_dir) / "metrics.jsonl")
        for (key, title), panel in zip(CURVES, panels, strict=True):
            panel.set(title=title, xlabel="batch")
            style: dict[str, Any] = {"color": f"C{number}", "linewidth": 1}
            if key == "wasserstein_estimate":
                _curve(panel, averaged(records), key, **style)
                style |= {"alpha": 0.25}
            _curve(panel, records, key, label=cell_name(cell), **style)
    if len(cells) > 1:  # a clipped critic's scores are a thousandth of an unbounded one's
        panels[1].set_yscale("symlog", linthresh=0.1)
    if panels[2].lines:
        panels[2].legend(fontsize=7)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)


def _curve(panel: Axes, records: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(r["batch"], r[key]) for r in records if key in r]
    if points:
        panel.plot(*zip(*points, strict=True), **style)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out_dir",
    type=PATH,
    default="srez/bench",
    show_default=True,
    help="Where everything goes; must be new.",
)
@click.option("--objectives", default="gan,wgan,wgangp", show_default=True, help="Comma-separated.")
@click.option(
    "--architectures", default="resnet,deconv", show_default=True, help="Comma-separated."
)
@click.option(
    "--norms", default="batch,layer", show_default=True, help="Critic norms, comma-separated."
)
@click.option(
    "--minutes", type=Finite(0), default=10.0, show_default=True, help="Budget of each combination."
)
@run_flags(but=SET_BY_THE_BENCH)
@machine_flags
@click.pass_context
def main(context: click.Context, objectives: str, architectures: str, norms: str, minutes: float,
         out_dir: str, gpu: int, threads: int, **values: Any) -> None:  # fmt: skip
    """Compare objectives, architectures and critic norms on one data set."""
    folder = Path(out_dir)
    demand_empty(folder)
    if minutes <= 0:
        raise UserError(f"--minutes={minutes:g}: give a number above 0")
    base = Options(  # the networks are compared, not what is corrected behind them
        **values, summary_dir=out_dir, cache_dir=str(folder / "cache"), train_time=minutes,
        back_projection=0,
    )  # fmt: skip
    cells = grid(base, *_checked(objectives, architectures, norms))

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE

    set_threads(threads, typed("threads"))
    device = choose_device(gpu, typed("gpu"))
    prepare_cuda(device, fast=False, strict=False)
    make_folder(folder)
    run_bench(cells, folder, device)
    voice.say((folder / "table.md").read_text())


def _checked(objectives: str, architectures: str, norms: str) -> tuple[str, str, str]:
    allowed = {
        "objectives": (objectives, {"gan", "dcgan", "wgan", "wgangp"}),
        "architectures": (architectures, {"resnet", "deconv"}),
        "norms": (norms, {"batch", "layer", "none"}),
    }
    for name, (text, known) in allowed.items():
        wrong = [w for w in text.split(",") if w not in known]
        if wrong:
            raise UserError(f"--{name}={text}: {wrong[0]!r} is none of {', '.join(sorted(known))}")
    return objectives, architectures, norms


if __name__ == "__main__":
    main()
