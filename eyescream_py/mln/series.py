"""Scans, row after row, through a trained network or another method, and into files."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln.formats.cfl import TIME_AXIS, write_cfl
from eyescream_py.mln.formats.mat import write_mat
from eyescream_py.mln.methods import Method
from eyescream_py.mln.networks import to_label
from eyescream_py.mln.pictures import write_png
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import atomic_write

AT_ONCE = 16  # images per batch: more do not fit a processor's cache, fewer leave the weights idle
HELD = 1 << 28  # bytes of images that a GPU may hold back
_ENDINGS = {"mat": ".mat", "npy": ".npy", "png": ".png", "nifti": ".nii.gz", "cfl": ".cfl"}


@dataclass(frozen=True)
class Series:
    """images (rows, outputs, N, N) on the CPU and the seconds that making them took."""

    images: Tensor
    seconds: float


def reconstruct_series(
    method: Method, signal: Tensor, device: torch.device, at_once: int = AT_ONCE
) -> Series:
    """(rows, C, M) -> images, `at_once` rows at a time. They leave the device batch by batch, a
    GPU's in larger pieces, as each time it would be waited for.
    """
    parts: list[Tensor] = []
    held: list[Tensor] = []
    most = HELD if device.type == "cuda" else 0
    begun = time.perf_counter()
    with torch.inference_mode():
        for part in signal.split(at_once):
            held.append(method(part.to(device, non_blocking=True)))
            if sum(images.nbytes for images in held) > most:
                parts.append(torch.cat(held).cpu())
                held.clear()
        parts += [images.cpu() for images in held]
    return Series(torch.cat(parts), time.perf_counter() - begun)


def chosen_rows(signal: Tensor, rows: str) -> Tensor:
    """The rows of (rows, C, M) that `rows` names: "" all, "3" the first three, "2:5" rows 2, 3, 4,
    "-1:" the last.

    Raises UserError for other words, for none, and where all are zero.
    """
    if not rows:
        return signal
    first, colon, last = rows.partition(":")
    try:
        bounds = [int(word) if word else None for word in (first, last)]
        if not colon and bounds[0] is not None and bounds[0] < 0:
            raise ValueError
    except ValueError:
        raise UserError(f"--rows {rows}: give a count, or first:last counted from 0") from None
    kept = signal[slice(*bounds)] if colon else signal[: bounds[0]]
    if not len(kept):
        raise UserError(f"--rows {rows}: the scan has rows 0 to {len(signal) - 1}")
    if not bool((kept != 0).any()):
        raise UserError(f"--rows {rows}: these rows are zero; choose others")
    return kept


def equal_rows(signal: Tensor) -> bool:
    """Whether a scan of several rows repeats its first one."""
    return len(signal) > 1 and bool((signal == signal[:1]).all())


def output_files(stem: Path, formats: tuple[str, ...]) -> list[Path]:
    """The files that `write_images` writes."""
    return [stem.with_name(stem.name + _ENDINGS[name]) for name in formats]


def write_images(stem: Path, images: Tensor, formats: tuple[str, ...]) -> list[Path]:
    """images (rows, outputs, N, N) in each of the formats, beside each other.

    mat: the original's `x` (rows, N, N * outputs, 2); npy: complex64 (rows, N, N * outputs); png:
    magnitudes, the rows below each other; nifti: complex64 (N, N * outputs, 1, rows), first axis
    the image's rows; cfl: BART's, rows along its time axis 10.
    """
    label = to_label(images)
    wide = torch.view_as_complex(label).numpy()  # [rows,N,N*outputs]
    writers: dict[str, Callable[[Path], None]] = {
        "mat": lambda path: write_mat(path, {"x": label.numpy()}),
        "npy": lambda path: _write_bytes(path, _npy(wide)),
        "png": lambda path: write_png(path, picture(wide)),
        "nifti": lambda path: _write_bytes(path, _nifti(wide)),
        "cfl": lambda path: write_cfl(path, _bart_axes(wide)),
    }
    files = output_files(stem, formats)
    for name, path in zip(formats, files, strict=True):
        writers[name](path)
    return files


def picture(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Magnitudes (rows, H, W) below each other, white at the 99.7th percentile."""
    size = np.abs(images)
    grey = np.clip(size / max(float(np.percentile(size, 99.7)), 1e-30), 0, 1)
    pixels: NDArray[np.uint8] = (255 * grey).round().astype(np.uint8).reshape(-1, size.shape[-1])
    return pixels


def _bart_axes(images: NDArray[Any]) -> NDArray[Any]:
    rows, height, width = images.shape
    sizes = (height, width, *[1] * (TIME_AXIS - 2), rows)
    return images.transpose(1, 2, 0).reshape(sizes)


def _npy(images: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


def _nifti(images: NDArray[Any]) -> bytes:
    import gzip

    try:
        import nibabel
    except ImportError:
        raise UserError("--format nifti needs `pip install nibabel`") from None
    volume = images.transpose(1, 2, 0)[:, :, None].astype(np.complex64)
    return gzip.compress(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes(), 6, mtime=0)


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)
