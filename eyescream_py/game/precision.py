"""`--precision`: the type of the parameters and the autocast around forward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from eyescream_py.system.errors import UserError

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Precision:
    """`dtype` of parameters, losses and pictures; `autocast()` to enter around a forward pass."""

    name: str
    dtype: torch.dtype
    autocast: Autocast


def choose(name: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the device multiplies it natively, else fp32 (of a processor with such
    instructions the trainers ask `trial.chosen` first).

    Raises UserError for fp64 on a device other than the CPU (replays run there alone).
    """
    if name == "auto":
        name = "bf16" if multiplies_bf16(device) else "fp32"
    if name == "fp64" and device.type != "cpu":
        raise UserError("--precision=fp64 runs on the CPU only: give --gpu=-1 as well")
    if name == "bf16":
        return Precision(name, torch.float32, lambda: torch.autocast(device.type, torch.bfloat16))
    dtype = torch.float64 if name == "fp64" else torch.float32
    return Precision(name, dtype, contextlib.nullcontext)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are an instruction of the device and not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
