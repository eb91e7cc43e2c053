"""An evaluation's figures as a table of words and as a page of plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eyescream_py.results import quality
from eyescream_py.system.files import atomic_write
from eyescream_py.system.voice import counted
from eyescream_py.torch7 import image


@dataclass(frozen=True)
class Findings:
    """figures: plain numbers, as written to JSON; the others are what the plots are made of."""

    figures: dict[str, Any]
    nearest: dict[str, Tensor]  # name -> [N]
    scores: dict[str, Tensor]  # D's probabilities, name -> [N]; empty without a D
    examples: dict[str, Tensor]  # [40,C,S,S] each


def table(findings: Findings) -> str:
    """The figures as lines for a terminal."""
    f = findings.figures
    names = list(f["swd"]["generated"])
    width = max(map(len, names)) + 3
    lines = [f"{counted(f['images'], 'picture')} per set; {f['note']}".rstrip("; "), ""]
    lines.append("sliced Wasserstein distance to the reference, x1000 (smaller is nearer)")
    lines.append(f"{'':12}" + "".join(name.rjust(width) for name in names))
    words = (("floor: real", "real"), ("generated", "generated"), ("top: noise", "noise"))
    for word, key in words:
        row = "".join(f"{f['swd'][key][name]:{width}.1f}" for name in names)
        lines.append(f"{word:12}{row}")
    if "features" in f:
        lines += ["", *_as_seen(f["features"])]
    d = f["diversity"]
    share = d["generated"] / d["real"] if d["real"] else float("nan")
    pair = f"{d['generated']:.2f} / {d['real']:.2f}"
    lines += ["", f"diversity: {share:.2f} of the real set's ({pair})"]
    near = ", ".join(f"{name} {value:.2f}" for name, value in f["nearest"].items())
    lines.append(f"nearest neighbours, median distance: {near}")
    lines.append(
        f"generated pictures nearer to training than to reference: {f['nearer_to_training']:.0%} "
        "(about 50%: nothing memorised)"
    )
    for name, value in f.get("D_auc", {}).items():
        lines.append(f"AUC of D, {name}: {value:.3f} (0.5: cannot tell)")
    return "\n".join(lines)


def _as_seen(seen: dict[str, Any]) -> list[str]:
    """The distances on features, with what they must not be compared with."""
    lines = [
        f"seen by {seen['network']}, at {seen['side']} px; not comparable with the FID and KID of "
        "papers (Inception)",
        f"{'':12}{'Fréchet':>10}{'kernel x1000':>22}",
    ]
    words = (("floor: real", "real"), ("generated", "generated"), ("top: noise", "noise"))
    for word, key in words:
        kernel = seen["kernel"][key]
        pair = f"{1000 * kernel['value']:.2f} +- {1000 * kernel['spread']:.2f}"
        lines.append(f"{word:12}{seen['frechet'][key]:10.2f}{pair:>22}")
    return lines


def write_png(path: Path, findings: Findings) -> None:
    """Distances, nearest neighbours, D's ROC and examples on one page.

    Raises OSError where the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    _draw_distances(axes[0, 0], findings)
    _draw_nearest(axes[0, 1], findings)
    _draw_roc(axes[0, 2], findings)
    _draw_pictures(axes[1, 0], "generated", findings)
    _draw_pictures(axes[1, 1], "reference", findings)
    _draw_scores(axes[1, 2], findings)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)


def _draw_distances(axis: Any, findings: Findings) -> None:
    swd = findings.figures["swd"]
    names = list(swd["generated"])
    colours = {"real": "tab:green", "generated": "tab:blue", "noise": "tab:gray"}
    for offset, (key, colour) in enumerate(colours.items()):
        places = [i + 0.27 * (offset - 1) for i in range(len(names))]
        axis.bar(places, [swd[key][n] for n in names], 0.25, label=key, color=colour)
    axis.set_xticks(range(len(names)), names)
    axis.set_yscale("log")
    axis.set_ylim(top=3 * max(swd["noise"].values()))  # room for the legend
    axis.set_title("distance to the reference (SWD x1000)")
    axis.legend(ncols=3, fontsize="small")


def _draw_nearest(axis: Any, findings: Findings) -> None:
    for name, values in findings.nearest.items():
        axis.hist(values.numpy(), bins=40, histtype="step", label=name)
    axis.set_title("distance to the nearest picture")
    axis.set_xlabel("2-norm of pixels")
    axis.legend(fontsize="small")


def _draw_roc(axis: Any, findings: Findings) -> None:
    axis.plot([0, 1], [0, 1], ":", color="gray")
    axis.set_title("ROC of D: real against generated")
    axis.set_xlabel("generated taken for real")
    axis.set_ylabel("reference taken for real")
    if not findings.scores:
        axis.text(0.5, 0.5, "no D given", ha="center")
        return
    false, true = quality.roc(findings.scores["reference"], findings.scores["generated"])
    area = findings.figures["D_auc"]["reference against generated"]
    axis.plot(false.numpy(), true.numpy(), label=f"AUC {area:.3f}")
    axis.legend(loc="lower right")


def _draw_scores(axis: Any, findings: Findings) -> None:
    axis.set_title("what D says (probability of real)")
    for name, values in findings.scores.items():
        axis.hist(values.numpy(), bins=40, range=(0, 1), histtype="step", label=name)
    if findings.scores:
        axis.legend(fontsize="small")
    else:
        axis.text(0.5, 0.5, "no D given", ha="center")


def _draw_pictures(axis: Any, name: str, findings: Findings) -> None:
    grid = image.toDisplayTensor(findings.examples[name].float(), 8, min=0, max=1)
    axis.imshow(grid.movedim(0, -1).numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(name)
    axis.axis("off")
