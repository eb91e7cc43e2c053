"""Numbers that ask for more memory than a machine has, refused before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from eyescream_py.system.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Networks = TypeVar("Networks", bound="Iterable[nn.Module]")


def built(build: Callable[[], Networks], flags: str) -> Networks:
    """What `build` returns, after a look at whether this machine can hold and train it.

    Raises UserError that names `flags` where it cannot.
    """
    import torch

    try:
        with torch.device("meta"):  # sizes without memory
            size = sum(p.numel() * 4 for network in build() for p in network.parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{flags}: no network can be that large") from error
    # weights, gradients, two moments
    demand_memory(flags, "training such networks", 4 * size)
    return build()


def demand_memory(flags: str, what: str, size: int, remedy: str = "give smaller ones") -> None:
    """Raise UserError that names `flags`, and `remedy`, where `what` takes `size` bytes and this
    machine has not so many.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"{flags}: {what} takes {size / 1e9:.0f} GB, this machine has {memory / 1e9:.0f} GB; "
            f"{remedy}"
        )


def demand_batch(flags: str, batch: int, dims: Sequence[int]) -> None:
    """The same for `batch` pictures of `dims` as floats, the least that a step holds."""
    demand_memory(flags, "a batch", 4 * batch * math.prod(dims))
