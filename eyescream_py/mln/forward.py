"""The acquisition: coils, off-resonance in time segments, Fourier sampling; and its adjoint."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from eyescream_py.mln.nufft import FourierOperator


@dataclass(frozen=True)
class Acquisition:
    """s_c(j) = sum over bands and segments of b_q(j) NUFFT(image S_c T_q)(j).

    operator: single-coil Fourier operator, N x N image to M samples.
    coils: (bands, C, N, N) complex sensitivities, zero outside the object.
    phases: (bands, Q, N, N) complex T_q; None means one segment without off-resonance.
    interpolation: (bands, Q, M), b_q with any CAIPI phase; None with `phases` None.
    """

    operator: FourierOperator
    coils: Tensor
    phases: Tensor | None = None
    interpolation: Tensor | None = None

    @property
    def bands(self) -> int:
        """Slices excited at once; 1 without multiband."""
        return self.coils.shape[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, bands, N, N) complex images -> (B, C, M) signal."""
        parts = []
        for band in range(self.bands):
            coil_images = images[:, band, None] * self.coils[band]  # [B,C,N,N]
            for phase, weight in self._segments(band):
                shaped = coil_images if phase is None else coil_images * phase
                part = self.operator.forward(shaped)
                parts.append(part if weight is None else part * weight)
        return _sum(parts)

    def adjoint(self, signal: Tensor) -> Tensor:
        """(B, C, M) signal -> (B, bands, N, N) images; the exact adjoint of `forward`."""
        bands = [self._adjoint_of_band(signal, band) for band in range(self.bands)]
        return torch.stack(bands, 1)

    def _adjoint_of_band(self, signal: Tensor, band: int) -> Tensor:
        parts = []
        for phase, weight in self._segments(band):
            weighted = signal if weight is None else signal * weight.conj()
            coil_images = self.operator.adjoint(weighted)  # [B,C,N,N]
            image = (coil_images * self.coils[band].conj()).sum(1)
            parts.append(image if phase is None else image * phase.conj())
        return _sum(parts)

    def _segments(self, band: int) -> list[tuple[Tensor | None, Tensor | None]]:
        if self.phases is None or self.interpolation is None:
            return [(None, None)]
        return list(zip(self.phases[band], self.interpolation[band], strict=True))


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def segment_phases(
    b0_hz: Tensor, segments: int, readout: float, relaxation: Tensor | None = None
) -> Tensor:
    """T_q (segments, N, N) = exp(-tau_q / T2*) exp(-2 pi i B0 tau_q), tau_q equally spaced on
    0..readout seconds.

    b0_hz: (N, N) in Hz; relaxation: T2* (N, N) in seconds, None for none.
    """
    times = torch.linspace(0.0, readout, segments, dtype=b0_hz.dtype, device=b0_hz.device)[
        :, None, None
    ]
    turns = torch.exp(torch.complex(torch.zeros_like(b0_hz), -2 * torch.pi * b0_hz) * times)
    return turns if relaxation is None else turns * torch.exp(-times / relaxation)


def signal_to_feature(signal: Tensor) -> Tensor:
    """(B, C, M) complex -> (B, 2MC) real: coil-major, all real parts, then all imaginary parts."""
    flat = signal.flatten(1)
    return torch.cat([flat.real, flat.imag], 1)


def feature_to_signal(feature: Tensor, coils: int) -> Tensor:
    """The inverse of `signal_to_feature`: (B, 2MC) real -> (B, C, M) complex."""
    real, imaginary = feature.unflatten(1, (2, coils, -1)).unbind(1)
    return torch.complex(real, imaginary)
