"""Products of matrices in the library that is fastest on this processor."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def prefers_onednn() -> bool:
    """MKL, by which torch multiplies, uses AVX-512 on Intel's processors only; oneDNN on all."""
    try:
        makers = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "AuthenticAMD" in makers and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_tiles() -> bool:
    """Whether the processor has AMX, by which oneDNN multiplies bfloat16 faster than loops can."""
    return torch.cpu._is_amx_tile_supported()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a times the transpose of b. [m,k], [n,k], [n] -> [m,n]"""
    if a.dtype == torch.float32 and prefers_onednn():
        y: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return y
    return F.linear(a, b, bias)
