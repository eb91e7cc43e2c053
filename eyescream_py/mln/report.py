"""What several methods made of one scan: a table, a picture and a JSON file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyescream_py.mln.formats.mat import by_sizes, demand_magnitude, dense, read_mat
from eyescream_py.mln.metrics import magnitude_correlation, nrmse, recorded, ssim, written
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

Array = NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """One method on one scan: frames, ms per frame, and of its first row that is not zero against a
    reference (None without one) NRMSE and SSIM after the best complex factor, and the correlation
    of the magnitudes.
    """

    method: str
    frames: int
    milliseconds: float
    nrmse: float | None = None
    ssim: float | None = None
    correlation: float | None = None


def read_reference(path: str, side: int) -> Array:
    """The first image of `x` in a .mat: (rows, N, N, 2) real and imaginary, or complex (N, N)."""
    label = f"--reference {path}"
    value = read_mat(path, ["x"], source="--reference")["x"]
    array = dense(value, "x", 2, label, 2)
    if array.ndim == 4 and array.shape[3] == 2:
        array = array[0, ..., 0] + 1j * array[0, ..., 1]
    image = array[0] if array.ndim == 3 else array
    if image.shape != (side, side):
        raise UserError(f"{label}: x is {by_sizes(image.shape)}, the images are {side} x {side}")
    demand_magnitude(image, "x", label)
    return image


def outcome(
    name: str,
    frames: int,
    seconds: float,
    image: Array,
    reference: Array | None,
    mask: Array,
) -> Outcome:
    """The figures of one method; image (N, N) is the row to judge, mask (N, N)."""
    each = 1000 * seconds / frames
    if reference is None:
        return Outcome(name, frames, each)
    inside = mask > 0
    power = float(np.vdot(image[inside], image[inside]).real)
    factor = complex(np.vdot(image[inside], reference[inside])) / max(power, 1e-30)
    fitted = image * factor
    return Outcome(
        name,
        frames,
        each,
        nrmse(fitted, reference, mask),
        ssim(fitted * inside, reference * inside),
        magnitude_correlation(image, reference, mask),
    )


def table(outcomes: list[Outcome]) -> str:
    """The figures as a Markdown table."""
    with_reference = any(item.nrmse is not None for item in outcomes)
    head = ["method", "ms per image", "images per second"]
    head += ["NRMSE", "SSIM", "correlation"] if with_reference else []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for item in outcomes:
        cells = [item.method, f"{item.milliseconds:.1f}", f"{1000 / item.milliseconds:.1f}"]
        if item.nrmse is not None:
            cells += [written(value) for value in (item.nrmse, item.ssim, item.correlation)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_report(folder: Path, outcomes: list[Outcome], images: list[Array]) -> None:
    """report.md, report.json and report.png: one row of each method (and the reference, last in
    `images`), each on its own scale, side by side.
    """
    from PIL import Image

    from eyescream_py.mln.series import picture

    cells = [picture(image[None]) for image in images]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(cells, 1)).save(buffer, format="PNG")
    names = [item.method for item in outcomes]
    names += ["reference"] if len(images) > len(names) else []
    text = f"{table(outcomes)}\n\nreport.png, from left to right: {', '.join(names)}.\n"
    files = {
        "report.md": text.encode(),
        "report.json": json.dumps([recorded(asdict(item)) for item in outcomes], indent=1).encode(),
        "report.png": buffer.getvalue(),
    }
    for name, data in files.items():
        with atomic_write(folder / name) as file:
            file.write(data)
