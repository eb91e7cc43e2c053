"""A trained network made ready for long series: FFTs for the Fourier layers, one fused k-layer."""

from __future__ import annotations

import torch
from torch import Tensor

from eyescream_py.mln.networks import MinimalLinearNetwork

CHUNK_BYTES = 1 << 21


class FastNetwork:
    """The same images as the network, (B, C, M) -> (B, outputs, N, N), without gradients.

    With the matched k-grid, fixed Fourier layers and an even side both Fourier layers together are
    one inverse FFT whose half-way shifts are signs, folded into R and L. Other networks run as they
    are. `half` computes the k-layer in bfloat16 on CUDA (real and imaginary parts as real numbers,
    sums in float32): faster, errors near 4e-3.
    """

    def __init__(self, network: MinimalLinearNetwork, half: bool = False) -> None:
        self._network, shape = network, network.shape
        plain = not (shape.trainable_fourier or shape.complex_bias)
        self.fused = plain and shape.k_grid == "matched" and shape.image_side % 2 == 0
        self._half = half
        if self.fused:
            self._fold()

    def _fold(self) -> None:
        network, side = self._network, self._network.shape.grid_side
        weight = network.k_layer.weight.detach()
        signs = 1.0 - 2.0 * (torch.arange(side, device=weight.device) % 2)
        plane = signs[:, None] * signs
        folded = weight * plane.flatten()[:, None, None]  # [K*K,P,T]
        if self._half:
            self._weight = _real_blocks(folded, network.shape.coils).bfloat16()
        else:
            self._weight = folded.mT.contiguous()  # [K*K,T,P]
        pixels = network.i_layer.weight.detach() * (side**2 * plane)[..., None, None]
        self._pixels = pixels.permute(2, 3, 0, 1).contiguous()  # [T,outputs,N,N]

    def __call__(self, signal: Tensor) -> Tensor:
        with torch.inference_mode():
            if not self.fused:
                return self._network(signal)
            by_sample = signal.permute(2, 1, 0).contiguous()  # [M,C,B]
            grid = self._halves(by_sample) if self._half else self._complex(by_sample)
            side = self._network.shape.grid_side
            spectra = grid.permute(2, 1, 0).unflatten(2, (side, side))  # [B,T,K,K]
            images = torch.fft.ifft2(spectra.contiguous())
            return torch.einsum("bthw,tohw->bohw", images, self._pixels)

    def _complex(self, by_sample: Tensor) -> Tensor:
        """Samples (M, C, B) -> grid values (K*K, T, B)."""
        index = self._network.k_layer.index
        row_bytes = 8 * self._weight.shape[2] * by_sample.shape[2]
        rows = max(1, CHUNK_BYTES // row_bytes) if by_sample.device.type == "cpu" else len(index)
        grid = by_sample.new_empty(len(index), self._weight.shape[1], by_sample.shape[2])
        for first in range(0, len(index), rows):
            part = slice(first, first + rows)
            taps = by_sample.index_select(0, index[part].flatten())
            gathered = taps.view(-1, self._weight.shape[2], by_sample.shape[2])
            torch.bmm(self._weight[part], gathered, out=grid[part])
        return grid

    def _halves(self, by_sample: Tensor) -> Tensor:
        parts = torch.view_as_real(by_sample).movedim(3, 1).flatten(1, 2).bfloat16()  # [M,2C,B]
        index = self._network.k_layer.index
        gathered = parts[index]  # [K*K,n,2C,B]
        values = torch.bmm(self._weight, gathered.flatten(1, 2)).float()  # [K*K,2T,B]
        real, imaginary = values.chunk(2, 1)
        return torch.complex(real, imaginary)


def _real_blocks(weight: Tensor, coils: int) -> Tensor:
    """Complex (X, n C, T) kernels -> real (X, 2 T, n 2 C) acting on [real, imaginary] samples; per
    neighbour first the coils' real parts, then their imaginary ones.
    """
    taps = weight.unflatten(1, (-1, coils))  # [X,n,C,T]
    to_real = torch.stack([taps.real, -taps.imag], 2)  # [X,n,2,C,T]
    to_imaginary = torch.stack([taps.imag, taps.real], 2)
    return torch.cat([to_real, to_imaginary], -1).flatten(1, 3).mT.contiguous()
