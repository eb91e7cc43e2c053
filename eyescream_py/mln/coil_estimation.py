"""Coil maps from a scan's own centre of k-space (ESPIRiT), and fewer coils by an SVD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eyescream_py.mln.baselines import conjugate_gradient
from eyescream_py.mln.joint_estimation import joint_inversion
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.trajectories import density_compensation, is_on_grid
from eyescream_py.system.voice import counted

Floats = NDArray[np.float64]
BLOCK_BYTES = 1 << 28  # of the matrices of some columns of pixels


def calibration(trajectory: Floats, signal: Tensor, width: int, iterations: int = 12) -> Tensor:
    """The Cartesian centre of k-space, (C, width, width), of samples (C, M) anywhere.

    Samples on integer k are taken as they are; others give, per coil, the image of `width` pixels
    over the same field of view that explains them (weighted conjugate gradients), and its spectrum.
    """
    inside = np.abs(trajectory).max(0) < width / 2
    near, values = np.ascontiguousarray(trajectory[:, inside]), signal[:, torch.from_numpy(inside)]
    if near.shape[1] < 16:
        raise ValueError(
            f"only {counted(near.shape[1], 'sample')} lie within {width / 2:g} of k = 0"
        )
    operator = choose_operator(near, width)
    if is_on_grid(near, width):
        image = operator.adjoint(values)
    else:
        weights = torch.from_numpy(density_compensation(near)).float()
        image = conjugate_gradient(
            lambda x: operator.adjoint(weights * operator.forward(x)) + 1e-3 * x,
            operator.adjoint(weights * values),
            iterations,
        )
    return _spectra(image)


def espirit(
    centre: Tensor, side: int, kernel: int = 6, threshold: float = 0.02, crop: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Maps (C, side, side), root of the sum of squares 1 inside the object and 0 outside it, and
    the object's mask (side, side), from the centre of k-space (C, n, n) (Uecker et al., Magn.
    Reson. Med. 71:990, 2014).

    The space of all kernel x kernel blocks is cut at `threshold` of the largest singular value; a
    pixel belongs to the object where the largest eigenvalue exceeds `crop`. The phase is such that
    the coils' first principal component is real and positive.
    """
    coils, n, _ = centre.shape
    blocks = centre.unfold(1, kernel, 1).unfold(2, kernel, 1)  # [C,b,b,k,k]
    matrix = blocks.permute(1, 2, 0, 3, 4).reshape((n - kernel + 1) ** 2, -1)
    _, sizes, rows = torch.linalg.svd(matrix.to(torch.complex128), full_matrices=False)
    kept = rows[sizes > threshold * sizes[0]].reshape(-1, coils, kernel, kernel)
    largest, first = [], []  # of each pixel: eigenvalue and its vector
    for block in _pixel_matrices(kept, side):
        values, vectors = torch.linalg.eigh(block / kernel**2)
        largest.append(values[..., -1].clone())
        first.append(vectors[..., -1].clone())
    maps = torch.cat(first, 1).permute(2, 0, 1)  # [C,side,side]
    return _phased(maps, centre), (torch.cat(largest, 1) > crop).float()


def _pixel_matrices(kernels: Tensor, side: int) -> Iterator[Tensor]:
    """sum_r G_c(x) conj(G_d(x)), G the transforms of kernels (r, C, k, k): (side, columns, C, C),
    some columns of pixels after the others.

    The products of two kernels have 2 k - 1 places per axis, so they are summed on that small grid
    first and only the sums are brought to `side` pixels.
    """
    size = 2 * kernels.shape[-1] - 1
    small = torch.fft.fft2(kernels, s=(size, size))  # [r,C,size,size]
    products = torch.einsum("rcxy,rdxy->cdxy", small, small.conj())
    lags = torch.fft.fftshift(torch.fft.ifft2(products), dim=(-2, -1))
    rows = _to_pixels(lags, side, -1)  # [C,C,size,side]
    columns = max(1, BLOCK_BYTES // (16 * len(lags) ** 2 * side))
    for part in rows.split(columns, -1):
        yield _to_pixels(part, side, -2).permute(2, 3, 0, 1)


def _to_pixels(lags: Tensor, side: int, axis: int) -> Tensor:
    """The transform of lags, zero in the middle, along one axis, which becomes `side` long."""
    before = side // 2 - lags.shape[axis] // 2
    after = side - lags.shape[axis] - before
    wide = F.pad(lags, (before, after) if axis == -1 else (0, 0, before, after))
    images = torch.fft.ifft(torch.fft.ifftshift(wide, dim=axis), dim=axis, norm="forward")
    return torch.fft.fftshift(images, dim=axis)


def _phased(maps: Tensor, centre: Tensor) -> Tensor:
    main = compression_matrix(centre.flatten(1), 1)[:, 0].to(maps)
    phase = torch.einsum("c,cxy->xy", main.conj(), maps)
    return (maps * phase.conj() / phase.abs().clamp_min(1e-12)).to(torch.complex64)


def compression_matrix(signal: Tensor, kept: int) -> Tensor:
    """(C, kept) with orthonormal columns: virtual coil v is sum_c conj(column[c, v]) signal[c].

    The columns are the samples' (C, M) first principal directions, most power first (Buehrer et
    al., Magn. Reson. Med. 57:1131, 2007).
    """
    covariance = signal.to(torch.complex128) @ signal.to(torch.complex128).conj().T
    _, vectors = torch.linalg.eigh(covariance)
    return vectors.flip(1)[:, :kept].to(signal.dtype)


def compressed(signal: Tensor, matrix: Tensor) -> Tensor:
    """Signals (B, C, M) of the virtual coils of `compression_matrix`, (B, kept, M)."""
    return torch.einsum("bcm,cv->bvm", signal, matrix.conj())


def estimated_maps(
    trajectory: Floats, signal: Tensor, side: int, method: str = "auto", width: int = 32
) -> tuple[Tensor, Tensor, str]:
    """Maps (C, side, side), mask (side, side) and the method taken, from samples (C, M).

    "espirit" takes every coil's centre of k-space as the samples give it. "joint" first finds the
    centre by estimating image and coils together, for scans whose centre is undersampled; "auto"
    is joint where places of the centre have no sample within 0.75 / FOV. Raises ValueError where
    the centre holds too few samples, or no object. `signal` may have any unit.
    """
    width = min(width, side)
    signal = signal / signal.abs().max()
    if method == "auto":
        method = "joint" if _centre_gap(trajectory, width) > 0.75 else "espirit"
    if method == "espirit":
        centre = calibration(trajectory, signal, width)
    else:
        inside = np.abs(trajectory).max(0) < width / 2
        operator = choose_operator(np.ascontiguousarray(trajectory[:, inside]), width)
        found = joint_inversion(operator, signal[:, torch.from_numpy(inside)])
        centre = _spectra(found.image * found.coils)
    if not float(centre.abs().max()) > 0:
        raise ValueError(f"all samples within {width / 2:g} of k = 0 are zero")
    maps, mask = espirit(centre, side)
    if not bool(mask.any()):
        raise ValueError("no object is seen in the centre of k-space")
    return maps, mask, method


def _centre_gap(trajectory: Floats, width: int) -> float:
    """The largest distance from a whole k within the middle half to its nearest sample."""
    from scipy.spatial import cKDTree

    line = np.arange(-(width // 4), width // 4 + 1)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return float(cKDTree(trajectory.T).query(places)[0].max())


def _spectra(images: Tensor) -> Tensor:
    shifted = torch.fft.ifftshift(images, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def map_difference(maps: Tensor, other: Tensor, mask: Tensor) -> float:
    """Root-mean-square over the mask of the sine of the angle between two sets of maps (C, N, N) at
    each pixel: 0 where they agree up to a complex factor, 1 where they have nothing in common.
    """
    product = (maps.conj() * other).sum(0).abs()
    lengths = maps.norm(dim=0) * other.norm(dim=0)
    cosine = (product / lengths.clamp_min(1e-20))[mask > 0]
    return float((1 - cosine.square().clamp(0, 1)).mean().sqrt())
