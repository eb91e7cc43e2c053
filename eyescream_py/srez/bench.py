"""`python -m eyescream_py.srez.bench`: the fork's study as one command.

Every combination of objective, architecture and critic norm trains for the same budget on the same
faces; a table and a picture of losses, Wasserstein estimate and PSNR over batches come out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eyescream_py.errors import UserError
from eyescream_py.files import atomic_write
from eyescream_py.runtime import choose_device, read_json_lines, set_threads
from eyescream_py.srez.options import Options

if TYPE_CHECKING:
    import torch

CURVES = (
    ("generator_loss", "generator loss"),
    ("wasserstein_estimate", "mean D(real) - mean D(fake)"),
    ("psnr", "PSNR of held-out faces, dB"),
    ("detail_swd", "finest level's distance to real faces"),
)


def cell_name(options: Options) -> str:
    return f"{options.objective}-{options.gen_architect}-{options.norm_of_critic}"


def grid(base: Options, objectives: str, architectures: str, norms: str) -> list[Options]:
    """One Options per combination, each in a folder of its own below base.summary_dir."""
    cells = []
    for objective, architecture, norm in itertools.product(
        objectives.split(","), architectures.split(","), norms.split(",")
    ):
        cell = dataclasses.replace(
            base, loss_func=objective, gen_architect=architecture, critic_norm=norm
        )
        folder = Path(base.summary_dir) / cell_name(cell)
        cells.append(
            dataclasses.replace(
                cell,
                train_dir=str(folder / "train"),
                checkpoint_dir=str(folder / "checkpoint"),
                summary_dir=str(folder / "summary"),
            )
        )
    for cell in cells:
        cell.check()
    return cells


def run_bench(cells: list[Options], folder: Path, device: torch.device) -> list[dict[str, Any]]:
    """Train and evaluate every cell; write table.md, table.json, curves.png into `folder`."""
    from eyescream_py.srez.evaluation import run_evaluate
    from eyescream_py.srez.training import run_train

    rows = []
    for number, cell in enumerate(cells, 1):
        click.echo(f"{number} of {len(cells)}: {cell_name(cell)}")
        run_train(cell, device, say=lambda line: None)
        figures = run_evaluate(cell, device, say=lambda line: None)
        rows.append(_row(cell, figures))
        _write(folder / "table.json", json.dumps(rows, indent=1))
        _write(folder / "table.md", table(rows, figures["bicubic"]))
    _draw(cells, folder / "curves.png")
    return rows


def _row(cell: Options, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    records = read_json_lines(Path(cell.summary_dir) / "metrics.jsonl")
    losses = [r for r in records if "wasserstein_estimate" in r]
    last = losses[-max(1, len(losses) // 5) :]  # the last fifth, as single batches are noisy
    return {
        "cell": cell_name(cell),
        "batches": records[-1]["batch"],
        "minutes": records[-1]["seconds"] / 60,
        "estimate": sum(r["wasserstein_estimate"] for r in last) / len(last),
        **figures["srez"],
    }


def table(rows: list[dict[str, Any]], bicubic: dict[str, float]) -> str:
    """The study's results as Markdown, bicubic's figures in the last line."""
    lines = [
        "| objective-generator-critic norm | batches | minutes | estimate, last fifth | PSNR, "
        "dB | SSIM "
        "| finest level, SWD x1000 | consistency, MAE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['cell']} | {r['batches']} | {r['minutes']:.1f} | {r['estimate']:.3f} | {_quality(r)}"
        for r in rows
    ]
    return "\n".join([*lines, f"| bicubic | | | | {_quality(bicubic)}", ""])


def _quality(figures: dict[str, Any]) -> str:
    return (
        f"{figures['psnr']:.2f} | {figures['ssim']:.4f} | {figures['detail_swd']:.1f} "
        f"| {figures['consistency']:.4f} |"
    )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _draw(cells: list[Options], path: Path) -> None:
    """One panel per curve, one line per cell; WGAN's and WGAN-GP's estimates get panels of their
    own scale.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(CURVES), figsize=(5 * len(CURVES), 4.5))
    for (key, title), panel in zip(CURVES, panels, strict=True):
        for cell in cells:
            records = read_json_lines(Path(cell.summary_dir) / "metrics.jsonl")
            points = [(r["batch"], r[key]) for r in records if key in r]
            if points:
                panel.plot(*zip(*points, strict=True), label=cell_name(cell), linewidth=1)
        panel.set_title(title)
        panel.set_xlabel("batch")
    panels[1].set_yscale("symlog", linthresh=0.1)
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)
    pyplot.close(figure)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dataset", default="srez/dataset", show_default=True, help="Folder of face pictures."
)
@click.option("--crop", type=click.Choice(["celeba", "lfw", "none"]), default="celeba",
              show_default=True, help="Where the face is.")  # fmt: skip
@click.option(
    "--out_dir", default="srez/bench", show_default=True, help="Where everything goes; must be new."
)
@click.option("--objectives", default="gan,wgan,wgangp", show_default=True, help="Comma-separated.")
@click.option(
    "--architectures", default="resnet,deconv", show_default=True, help="Comma-separated."
)
@click.option(
    "--norms", default="batch,layer", show_default=True, help="Critic norms, comma-separated."
)
@click.option(
    "--minutes", type=float, default=10.0, show_default=True, help="Budget of each combination."
)
@click.option(
    "--max_batches",
    type=int,
    default=0,
    show_default=True,
    help="Or this many batches, 0 for no limit.",
)
@click.option("--width", type=float, default=1.0, show_default=True, help="Multiplies all widths.")
@click.option("--critic_width", type=float, default=None, help="Multiplies the critic's widths.")
@click.option(
    "--sample_size", type=int, default=64, show_default=True, help="Side of the large picture."
)
@click.option("--batch_size", type=int, default=16, show_default=True, help="Pictures per batch.")
@click.option(
    "--n_critic",
    type=int,
    default=1,
    show_default=True,
    help="Critic updates per generator update.",
)
@click.option(
    "--gen_norm",
    type=click.IntRange(0, 1),
    default=1,
    show_default=True,
    help="Batch norm in the generator.",
)
@click.option(
    "--learning_rate_start", type=float, default=1e-4, show_default=True, help="Learning rate."
)
@click.option("--test_vectors", type=int, default=16, show_default=True, help="Pictures held out.")
@click.option(
    "--summary_period",
    type=int,
    default=200,
    show_default=True,
    help="Batches between PSNR points.",
)
@click.option("--gpu", type=int, default=0, show_default=True, help="CUDA device, -1 for the CPU.")
@click.option("--threads", type=int, default=4, show_default=True, help="CPU threads.")
@click.pass_context
def main(context: click.Context, objectives: str, architectures: str, norms: str, minutes: float,
         out_dir: str, gpu: int, threads: int, **values: Any) -> None:  # fmt: skip
    """Compare objectives, architectures and critic norms on one data set."""
    folder = Path(out_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out_dir={folder}: exists and is not empty; give a new folder")
    base = Options(
        **values, summary_dir=out_dir, cache_dir=str(folder / "cache"), train_time=minutes
    )
    cells = grid(base, *_checked(objectives, architectures, norms))

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE

    set_threads(threads, typed("threads"))
    device = choose_device(gpu, typed("gpu"))
    folder.mkdir(parents=True, exist_ok=True)
    run_bench(cells, folder, device)
    click.echo((folder / "table.md").read_text())


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
