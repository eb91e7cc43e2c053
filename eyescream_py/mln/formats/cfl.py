"""BART's array files: NAME.hdr with the sizes, NAME.cfl with complex64 numbers, first axis fastest.

Axes used here (BART's doc/dimensions): 0 to 2 place or k, 3 coil, 10 time. Trajectories are
(3, samples, interleaves) in 1/FOV, as ours; non-Cartesian samples are (1, samples, interleaves,
coils).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.text import read_lines

AXES = 16
COIL_AXIS, TIME_AXIS = 3, 10


def read_cfl(path: str | Path, source: str = "") -> NDArray[np.complex64]:
    """The array with all its 16 axes. `path` is the name without an ending, or either file.

    Raises UserError naming the file: missing, sizes that are none, a length that they do not give,
    NaN or infinite numbers.
    """
    base = _base(path)
    label = f"{source} {base}".strip()
    try:
        sizes = _sizes(read_lines(f"{base}.hdr"), label)
        length = Path(f"{base}.cfl").stat().st_size
        if length != 8 * math.prod(sizes):
            raise UserError(
                f"{label}: its .hdr gives {8 * math.prod(sizes)} bytes, its .cfl has {length}; "
                "write both again"
            )
        values = np.fromfile(f"{base}.cfl", "<c8")
    except OSError as error:
        name = Path(str(error.filename)).name
        raise UserError(f"{label}: {name} cannot be read ({why(error)}); check the path") from None
    if not np.isfinite(values).all():
        raise UserError(f"{label}: holds NaN or infinite numbers; repair the file")
    return values.reshape(sizes, order="F").astype(np.complex64, copy=False)


def _base(path: str | Path) -> str:
    text = str(path)
    return text[:-4] if text.endswith((".cfl", ".hdr")) else text


def _sizes(lines: list[str], label: str) -> tuple[int, ...]:
    try:
        words = lines[lines.index("# Dimensions") + 1].split()
        sizes = [int(word) for word in words]
        if not sizes or len(sizes) > AXES or min(sizes) < 1 or math.prod(sizes) > 1 << 40:
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(
            f"{label}: its .hdr holds no usable line of sizes; write it again"
        ) from None
    return (*sizes, *[1] * (AXES - len(sizes)))


def write_cfl(path: str | Path, values: NDArray[Any]) -> None:
    """Write NAME.cfl, then NAME.hdr, each whole or not at all. Raises OSError."""
    base = _base(path)
    sizes = (*values.shape, *[1] * (AXES - values.ndim))
    with atomic_write(f"{base}.cfl") as file:
        file.write(values.astype("<c8").tobytes(order="F"))
    with atomic_write(f"{base}.hdr") as file:
        file.write(f"# Dimensions\n{' '.join(map(str, sizes))} \n".encode())
