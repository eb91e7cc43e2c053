"""A convolution of a picture doubled by nearest upsampling, as one of the small picture.

Each small pixel stands four times in the doubled picture, so that taps of the kernel that meet the
same one can be added up first. The two layers are a transposed convolution of stride 2 then, whose
kernel is larger by one: 16 multiplications per small pixel and pair of planes instead of 36 for 3x3
taps, 36 instead of 100 for 5x5 ones. Measured in benchmarks/results/changes.md; CPUs only.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyescream_py.networks.fft_convolution import FourierForward
from eyescream_py.networks.modes import FastForward, full_precision
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest

PIXELS = 64  # of a small picture, from where on this was measured to be faster


class DoublingForward(FastForward):
    """That of a Sequential in which convolutions follow upsampling by two."""

    def __call__(self, x: Tensor) -> Tensor:
        layers = list(self.layer)
        while layers:
            first = layers.pop(0)
            if layers and _is_doubling(first, layers[0]) and _pays(x, layers[0]):
                x = _convolve_doubled(x, layers.pop(0))
            else:
                x = first(x)
        return x


def join_doublings(network: nn.Module) -> None:
    """Let the convolutions of `network` that follow upsampling by two see the small pictures."""
    for chain in network.modules():
        if type(chain) is nn.Sequential:
            layers = list(chain)
            if any(map(_is_doubling, layers, layers[1:])):
                DoublingForward(chain).install()


def _is_doubling(layer: nn.Module, following: nn.Module) -> bool:
    """Whether `following` is a convolution that keeps the size of what `layer` doubles; neither
    computes in a way that is not ours to change, and nobody watches either.
    """
    if type(layer) is not SpatialUpSamplingNearest or type(following) is not nn.Conv2d:
        return False
    own = following.__dict__.get("forward")
    k = following.kernel_size[0]
    return (
        layer.scale_factor == 2
        and "forward" not in layer.__dict__
        and not _is_watched(layer)
        and not _is_watched(following)
        and (own is None or isinstance(own, FastForward))
        and (following.kernel_size, following.padding) == ((k, k), (k // 2, k // 2))
        and k % 2 == 1
        and following.stride == following.dilation == (1, 1)
        and following.groups == 1
        and following.padding_mode == "zeros"
    )


def _is_watched(layer: nn.Module) -> bool:
    return bool(
        layer._forward_pre_hooks
        or layer._forward_hooks
        or layer._backward_pre_hooks
        or layer._backward_hooks
    )


def _pays(x: Tensor, layer: nn.Conv2d) -> bool:
    own = layer.__dict__.get("forward")
    if isinstance(own, FourierForward) and own.takes_loops(x):  # half as long
        return False
    return x.dim() == 4 and x.shape[2] * x.shape[3] >= PIXELS


def _convolve_doubled(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """[N,inputs,H,W] -> [N,outputs,2H,2W]"""
    weight = full_precision(layer.weight)  # rounded, if at all, after the sums
    k = weight.shape[2]
    taps = weight.flatten(2) @ _sums(k, weight.dtype)  # [outputs,inputs,(k+1)*(k+1)]
    kernel = taps.view(*weight.shape[:2], k + 1, k + 1).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, layer.bias, stride=2, padding=k // 2)


@functools.cache
def _sums(k: int, dtype: torch.dtype) -> Tensor:
    """From the taps of a kernel to those of the transposed one. (k*k,(k+1)*(k+1))

    Along a line tap t of pixel j meets the small pixel (j+t-k//2)//2. Seen from that pixel, which
    reaches the pixels from 2i-k//2 on, it is number k-1-t for one of its two copies, k-t for the
    other.
    """
    line = torch.zeros(k, k + 1, dtype=dtype)
    for tap in range(k):
        line[tap, k - 1 - tap] = line[tap, k - tap] = 1
    return torch.kron(line, line)
