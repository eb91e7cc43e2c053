"""A run in pictures, made from what it wrote: curves of metrics.jsonl, a contact sheet and a film
of the grids in SAVE/pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from eyescream_py.data.pictures import PictureError, open_picture
from eyescream_py.results import films
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.json_lines import read_json_lines
from eyescream_py.system.places import as_module
from eyescream_py.system.voice import as_typed

MAX_SHEET = 12  # grids on a contact sheet
MAX_FRAMES = 300
STRIP = 14  # pixels of the line that names the epoch
GOLD = "#d8b048"
_TRAINER = re.compile(r"\w{0,64}")  # it becomes part of a file's name
_GRID_NAME = re.compile(r"(?P<series>.*?)_?epoch_(?P<epoch>\d+)\.png")


def tell(save: Path, film_suffix: str = ".gif", seconds: float = 0.25) -> list[Path]:
    """Write curves, contact sheets and films; returns their paths.

    Raises UserError where there is nothing to tell or nothing can be written.
    """
    if save.is_file():
        raise UserError(f"{save} is a file; give the folder of its run (the trainer's --save)")
    try:
        written = [path for name in _trainers(save) if (path := write_curves(save, name))]
        for series, grids in grids_over_time(save / "pictures").items():
            stem = f"{series}_" if series else ""
            sheet = save / "pictures" / f"{stem}sheet.png"
            with atomic_write(sheet) as file:
                contact_sheet(evenly(grids, MAX_SHEET)).save(file, "PNG", optimize=True)
            film = save / "pictures" / f"{stem}film{film_suffix}"
            frames = _same_size([_named(*grid) for grid in evenly(grids, MAX_FRAMES)])
            films.write_pictures(film, frames, seconds)
            written += [sheet, film]
    except OSError as error:
        raise UserError(f"{error.filename or save}: {why(error)}") from error
    if not written:
        raise UserError(
            f"{save} holds neither two epochs in metrics.jsonl nor grids in pictures/: train first"
        )
    return written


def grid_name(series: str, epoch: int) -> str:
    """The name in SAVE/pictures of an epoch's grid."""
    return f"{series}_epoch_{epoch:06d}.png" if series else f"epoch_{epoch:06d}.png"


def grids_over_time(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Series ("" for faces, "c2f", ...) -> (epoch, file) in the order of epochs."""
    series: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("*.png"):
        match = _GRID_NAME.fullmatch(path.name)
        if match:
            series.setdefault(match["series"], []).append((int(match["epoch"]), path))
    return {name: sorted(grids) for name, grids in sorted(series.items())}


def evenly(items: list[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _named(epoch: int, path: Path) -> Image.Image:
    """A grid under a line that names its epoch."""
    try:
        picture = open_picture(path, "RGB")
    except PictureError as error:
        raise UserError(f"{path}: {error}; remove it") from error
    factor = max(1, films.LONGEST_SIDE // max(picture.size))
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    page = Image.new("RGB", (picture.width, picture.height + STRIP))
    page.paste(picture, (0, STRIP))
    ImageDraw.Draw(page).text((3, 1), f"epoch {epoch}", fill=GOLD)
    return page


def _same_size(pages: list[Image.Image]) -> list[Image.Image]:
    """Pages of a run whose grids changed size, each on a page of the largest."""
    size = (max(p.width for p in pages), max(p.height for p in pages))
    result = []
    for page in pages:
        larger = Image.new("RGB", size)
        larger.paste(page)
        result.append(larger)
    return result


def contact_sheet(grids: list[tuple[int, Path]]) -> Image.Image:
    """The grids side by side with their epochs, about as wide as high."""
    pages = _same_size([_named(*grid) for grid in grids])
    columns = math.ceil(math.sqrt(len(pages)))
    width, height = pages[0].size
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(pages) // columns) * (height + 4)))
    for i, page in enumerate(pages):
        sheet.paste(page, (i % columns * (width + 4), i // columns * (height + 4)))
    return sheet


def _trainers(save: Path) -> list[str]:
    """The names in metrics.jsonl; what is no plain name is none: it could lead elsewhere."""
    names = [line.get("trainer", "") for line in read_json_lines(save / "metrics.jsonl")]
    return sorted({name for name in names if isinstance(name, str) and _TRAINER.fullmatch(name)})


def _lines_of(save: Path, trainer: str) -> list[dict[str, Any]]:
    lines = read_json_lines(save / "metrics.jsonl")
    return [line for line in lines if line.get("trainer", "") == trainer]


def write_curves(save: Path, trainer: str) -> Path | None:
    """SAVE/pictures/curves_TRAINER.png of its lines in metrics.jsonl; None of fewer than two."""
    panels = _panels(_lines_of(save, trainer))
    if not panels:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axis, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                     panels.items(), strict=True):  # fmt: skip
        for name, points in curves.items():
            axis.plot(*zip(*points, strict=True), label=name)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    path = save / "pictures" / f"curves_{trainer}.png"
    make_folder(path.parent)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)
    return path


def write_curves_if_possible(save: Path, trainer: str) -> None:
    """`write_curves` at a run's end, where a full disk is told and nothing more."""
    try:
        path = write_curves(save, trainer)
    except OSError as error:
        print(f"Could not write the curves to {save}: {why(error)}.")
        return
    if path:
        film = f"{as_module()} movie {as_typed(save)}"
        print(f"The loss curves are in {path}; {film} makes a film.")


def replay(save: Path, trainer: str, show: Callable[[int, dict[str, Any]], None]) -> None:
    """Hand `show` a trainer's epochs of metrics.jsonl, so that a resumed run's curves are whole."""
    for record in _lines_of(save, trainer):
        if isinstance(record.get("epoch"), int):
            show(record["epoch"], record)


_PANEL_OF = {
    "D_loss": "loss", "G_loss": "loss", "D_accuracy": "accuracy of D", "parzen": "Parzen score",
    "train": "loss", "validation": "loss", "swd": "distance to real pictures (SWD x1000)",
}  # fmt: skip


def _panels(records: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Panel -> curve -> points (epoch, value), of curves with two finite points at least."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        if not isinstance(record.get("epoch"), int):
            continue
        for key, panel in _PANEL_OF.items():
            for name, value in _numbers(key, record.get(key)).items():
                points = panels.setdefault(panel, {}).setdefault(name, [])
                points.append((record["epoch"], value))
    kept = {
        panel: {name: points for name, points in curves.items() if len(points) > 1}
        for panel, curves in panels.items()
    }
    return {panel: curves for panel, curves in kept.items() if curves}


def _numbers(key: str, value: Any) -> dict[str, float]:
    """One number, or one per stage, as curves' names and values; nothing of what is none."""
    values = value if isinstance(value, list) else [value]
    names = [key] if len(values) == 1 else [f"{key} {i + 1}" for i in range(len(values))]
    return {
        name: float(v)
        for name, v in zip(names, values, strict=True)
        if isinstance(v, int | float) and math.isfinite(v)
    }
