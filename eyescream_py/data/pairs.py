"""Coarse-to-fine pairs (`dataset_c2f.lua`): a fine picture, its coarse version, and what lies
between.

Made on the device when a batch is drawn: a table of coarse pictures would take four bytes per
value, four times what the pictures take.
"""

from __future__ import annotations

import functools

import torch

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.torch7 import image

LARGEST_SIDE = 64  # of pictures that a kernel takes


def coarse_images(fine: torch.Tensor, coarse_size: int) -> torch.Tensor:
    """(N,C,S,S) -> (N,C,S,S): scaled down to `coarse_size` and up again, in float32 as Lua had
    them."""
    small = image.scale(fine.float(), coarse_size)
    return image.scale(small, fine.shape[-1])


def fine_size(pool: EpochPool) -> int:
    """The side of the pool's pictures."""
    return int(pool.stored()[0].shape[-1])


def _has_kernel(pool: EpochPool) -> bool:
    return pool.has_kernels and fine_size(pool) <= LARGEST_SIDE


def draw_pairs(
    pool: EpochPool,
    indices: torch.Tensor,
    coarse_size: int,
    coarse: torch.Tensor,
    diff: torch.Tensor | None = None,
) -> None:
    """Put what `coarse_and_diff` makes of the pool's pictures `indices` into contiguous tensors
    (n,C,S,S), on a GPU by one kernel.
    """
    if _has_kernel(pool):
        images, table = pool.stored()
        matrix = _there_and_back(fine_size(pool), coarse_size, images.device)
        between = torch.empty_like(coarse) if diff is None else diff
        pool.kernels.pairs(images, table, indices, matrix, coarse, between)
        return
    made = coarse_and_diff(pool, indices, coarse_size, coarse.dtype)
    coarse.copy_(made[0])
    if diff is not None:
        diff.copy_(made[1])


@functools.lru_cache(maxsize=8)
def _there_and_back(fine: int, coarse: int, device: torch.device) -> torch.Tensor:
    """Scaling down and up again along one axis, as a matrix [fine,fine]."""
    both = image.scale_matrix(coarse, fine) @ image.scale_matrix(fine, coarse)
    return torch.from_numpy(both).to(device)


def coarse_and_diff(
    data: Dataset | EpochPool,
    indices: torch.Tensor,
    coarse_size: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(coarse, diff) of the rows `indices`, each (n,C,S,S); fine = coarse + diff.

    The arithmetic is float32's whatever `dtype` the two are handed out in.
    """
    fine = data.floats(indices)
    coarse = coarse_images(fine, coarse_size)
    return coarse.to(dtype), (fine - coarse).to(dtype)
