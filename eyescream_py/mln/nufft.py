"""Single-coil Fourier operators between an N x N image and k-space samples at (2, M) positions in
1/FOV. Where N is odd, N/2 stands for its whole part.

All compute s(j) = 1/N sum_{r,u} x(r,u) exp(-2 pi i [k1(j)(r - N/2) + k2(j)(u - N/2)] / N), k1 with
image axis 0. `forward` maps (..., N, N) to (..., M); `adjoint` is its exact adjoint. Both let
gradients through.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln.trajectories import is_on_grid

Floats = NDArray[np.float64]


class FourierOperator(Protocol):
    """What the acquisition model needs of an operator; `side` is N, `samples` is M."""

    side: int
    samples: int

    def forward(self, images: Tensor) -> Tensor: ...

    def adjoint(self, signal: Tensor) -> Tensor: ...


class ExactDFT:
    """The separable sum itself: exact, cost M N^2 per image, for N up to about 64."""

    def __init__(self, trajectory: Floats, side: int, dtype: torch.dtype = torch.complex64) -> None:
        self.side, self.samples = side, trajectory.shape[1]
        place = np.arange(side) - side // 2
        waves = np.exp(-2j * np.pi / side * trajectory[:, :, None] * place)
        self._rows, self._columns = (
            torch.from_numpy(wave).to(dtype) for wave in waves
        )  # [M,N] each

    def forward(self, images: Tensor) -> Tensor:
        partial = torch.einsum("ju,...ru->...jr", self._columns, images)
        return torch.einsum("jr,...jr->...j", self._rows, partial) / self.side

    def adjoint(self, signal: Tensor) -> Tensor:
        weighted = signal[..., None] * self._rows.conj()
        return torch.einsum("...jr,ju->...ru", weighted, self._columns.conj()) / self.side


class CartesianFFT:
    """For samples on integer k: a unitary FFT, a gather, and the phase of the image's centre; exact
    and by far the fastest.
    """

    def __init__(self, trajectory: Floats, side: int, device: torch.device | str = "cpu") -> None:
        if not is_on_grid(trajectory, side):
            raise ValueError("CartesianFFT needs integer k inside -N/2 .. N/2 - 1")
        self.side, self.samples = side, trajectory.shape[1]
        whole = np.round(trajectory).astype(np.int64)
        rows, columns = whole % side
        centre = np.exp(2j * np.pi * (side // 2) * whole.sum(0) / side)
        self._index = torch.from_numpy(rows * side + columns).to(device)
        self._centre = torch.from_numpy(centre).to(device)

    def forward(self, images: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(images, norm="ortho").flatten(-2)
        return spectrum[..., self._index] * self._centre.to(spectrum.dtype)

    def adjoint(self, signal: Tensor) -> Tensor:
        grid = signal.new_zeros((*signal.shape[:-1], self.side**2))
        grid = grid.index_add(-1, self._index, signal * self._centre.conj().to(signal.dtype))
        return torch.fft.ifft2(grid.unflatten(-1, (self.side, self.side)), norm="ortho")


class _Linear(torch.autograd.Function):
    """y = A x for a library that knows no gradients: the backward pass is the adjoint."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        apply: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.adjoint = adjoint
        return apply(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.adjoint(gradients[0]), None, None


class Finufft:
    """The finufft library on the CPU (Barnett et al., 2019), relative accuracy `eps`."""

    def __init__(
        self, trajectory: Floats, side: int, eps: float = 1e-6, dtype: torch.dtype = torch.complex64
    ) -> None:
        self.side, self.samples = side, trajectory.shape[1]
        self._eps, self._dtype = eps, dtype
        self._real = np.float32 if dtype == torch.complex64 else np.float64
        self._points = [
            np.ascontiguousarray(2 * np.pi / side * line, self._real) for line in trajectory
        ]
        self._plans: dict[tuple[int, int, int], Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        return _Linear.apply(images, self._forward, self._adjoint)

    def adjoint(self, signal: Tensor) -> Tensor:
        return _Linear.apply(signal, self._adjoint, self._forward)

    def _forward(self, images: Tensor) -> Tensor:
        values = self._execute(2, images.flatten(0, -3) if images.dim() > 2 else images[None])
        return values.reshape(*images.shape[:-2], self.samples)

    def _adjoint(self, signal: Tensor) -> Tensor:
        values = self._execute(1, signal.flatten(0, -2) if signal.dim() > 1 else signal[None])
        return values.reshape(*signal.shape[:-1], self.side, self.side)

    def _execute(self, kind: int, values: Tensor) -> Tensor:
        if values.shape[0] == 0:
            tail = (self.samples,) if kind == 2 else (self.side, self.side)
            return values.new_zeros((0, *tail))
        data = np.ascontiguousarray(values.detach().to(self._dtype).resolve_conj().numpy())
        plan = self._plan(kind, data.shape[0])
        return torch.from_numpy(plan.execute(data).reshape(data.shape[0], -1)) / self.side

    def _plan(self, kind: int, count: int) -> Any:
        import finufft

        key = (kind, count, torch.get_num_threads())
        if key not in self._plans:
            if len(self._plans) >= 8:
                self._plans.clear()
            plan = finufft.Plan(
                kind,
                (self.side, self.side),
                n_trans=count,
                eps=self._eps,
                isign=-1 if kind == 2 else 1,
                dtype="complex64" if self._dtype == torch.complex64 else "complex128",
                nthreads=key[2],
            )
            plan.setpts(*self._points)
            self._plans[key] = plan
        return self._plans[key]


class GriddedNUFFT:
    """Kaiser-Bessel gridding in torch, on any device: oversampling 2, J x J points (Fessler and
    Sutton, 2003).

    beta = pi sqrt((J/2)^2 1.5^2 - 0.8) (Beatty et al., 2005); with J = 6 about 1e-5 from the exact
    sum.
    """

    def __init__(
        self,
        trajectory: Floats,
        side: int,
        width: int = 6,
        dtype: torch.dtype = torch.complex64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.side, self.samples, self._padded = side, trajectory.shape[1], 2 * side
        start = side - side // 2  # then pixel N/2, the origin, is the middle of the padded image
        self._middle = slice(start, start + side)
        beta = math.pi * math.sqrt((width / 2) ** 2 * 1.5**2 - 0.8)
        positions = 2 * trajectory  # on the oversampled grid, DC at 0
        first = np.ceil(positions - width / 2).astype(np.int64)
        cells = first[:, :, None] + np.arange(width)  # [2,M,J]
        weights = _kaiser_bessel(cells - positions[:, :, None], width, beta)
        index = (cells[0] % self._padded)[:, :, None] * self._padded + (cells[1] % self._padded)[
            :, None, :
        ]
        kernel = weights[0][:, :, None] * weights[1][:, None, :]
        entries = torch.from_numpy(index.reshape(-1))
        owners = torch.arange(self.samples).repeat_interleave(width**2)
        values = torch.from_numpy(kernel.reshape(-1)).to(dtype)
        shape = (self.samples, self._padded**2)
        matrix = torch.sparse_coo_tensor(
            torch.stack([owners, entries]), values, shape, check_invariants=False
        )
        self._interpolate = matrix.coalesce().to(device)
        # for a GPU, whose sparse product adds in no fixed order
        self._cells = torch.from_numpy(index).to(device)  # [M,J,J]
        self._kernel = torch.from_numpy(kernel).to(device, dtype)
        self._spread = matrix.t().coalesce().to(device)
        self._correction = _deapodisation(side, width, beta, dtype).to(device)

    def forward(self, images: Tensor) -> Tensor:
        return _Linear.apply(images, self._forward, self._adjoint)

    def adjoint(self, signal: Tensor) -> Tensor:
        return _Linear.apply(signal, self._adjoint, self._forward)

    def _forward(self, images: Tensor) -> Tensor:
        padded = images.new_zeros((*images.shape[:-2], self._padded, self._padded))
        padded[..., self._middle, self._middle] = images * self._correction
        grid = torch.fft.fft2(torch.fft.ifftshift(padded, dim=(-2, -1)))
        flat = grid.reshape(-1, self._padded**2)
        values = self._gathered(flat) if flat.is_cuda else self._multiplied(flat)
        return values.reshape(*images.shape[:-2], self.samples)

    def _multiplied(self, grids: Tensor) -> Tensor:
        """Grids (B, 4 N^2) -> samples (B, M)."""
        return (self._interpolate @ grids.t().contiguous()).t()

    def _gathered(self, grids: Tensor) -> Tensor:
        """The same, a row of each sample's J x J cells at a time."""
        values = grids.new_zeros((len(grids), self.samples))
        for cells, kernel in zip(self._cells.unbind(1), self._kernel.unbind(1), strict=True):
            values += (grids[:, cells] * kernel).sum(-1)
        return values

    def _adjoint(self, signal: Tensor) -> Tensor:
        grid = (self._spread @ signal.reshape(-1, self.samples).t().contiguous()).t()
        grid = grid.reshape(*signal.shape[:-1], self._padded, self._padded)
        padded = torch.fft.fftshift(torch.fft.ifft2(grid, norm="forward"), dim=(-2, -1))
        return padded[..., self._middle, self._middle] * self._correction


def _kaiser_bessel(distance: Floats, width: int, beta: float) -> Floats:
    inside = np.clip(1 - (2 * distance / width) ** 2, 0.0, None)
    return np.i0(beta * np.sqrt(inside)) / width


def _deapodisation(side: int, width: int, beta: float, dtype: torch.dtype) -> Tensor:
    """1 / (N x the kernel's Fourier transform) at the N image positions of the 2N grid, (N, N)."""
    place = (np.arange(side) - side // 2) / (2 * side)
    root = np.sqrt(np.asarray(beta**2 - (np.pi * width * place) ** 2, complex))
    line = (np.sinh(root) / root).real
    return torch.from_numpy(1.0 / np.outer(line, line) / side).to(dtype)


class MatrixNUFFT:
    """The original's own NUFFT as data: scaling map SN (N, N) and sparse P (M, Kd^2), columns
    column-major.
    """

    def __init__(self, matrix: Any, scaling: Floats, padded: int) -> None:
        self.side, self.samples = scaling.shape[0], matrix.shape[0]
        self._matrix, self._scaling, self._padded = matrix.tocsr(), scaling, padded

    def forward(self, images: Tensor) -> Tensor:
        values = images.detach().numpy().reshape(-1, self.side, self.side) * self._scaling
        grid = np.fft.fft2(values, s=(self._padded, self._padded))
        flat = grid.transpose(0, 2, 1).reshape(-1, self._padded**2)
        return torch.from_numpy((self._matrix @ flat.T).T.reshape(*images.shape[:-2], self.samples))

    def adjoint(self, signal: Tensor) -> Tensor:
        flat = signal.detach().numpy().reshape(-1, self.samples)
        grid = (
            (self._matrix.conj().T @ flat.T)
            .T.reshape(-1, self._padded, self._padded)
            .transpose(0, 2, 1)
        )
        images = np.fft.ifft2(grid, norm="forward")[:, : self.side, : self.side] * self._scaling
        return torch.from_numpy(images.reshape(*signal.shape[:-1], self.side, self.side))


def choose_operator(
    trajectory: Floats, side: int, device: torch.device | str = "cpu", eps: float = 1e-5
) -> FourierOperator:
    """The fastest: a plain FFT on integer k, finufft on a CPU that has it, else gridding."""
    if is_on_grid(trajectory, side):
        return CartesianFFT(trajectory, side, device)
    if torch.device(device).type == "cpu" and importlib.util.find_spec("finufft"):
        return Finufft(trajectory, side, eps)
    return GriddedNUFFT(trajectory, side, device=device)
