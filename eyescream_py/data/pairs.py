"""Coarse-to-fine pairs (`dataset_c2f.lua`): a fine picture, its coarse version, and what lies
between.

Made on the device when a batch is drawn: a table of coarse pictures would take four bytes per
value, four times what the pictures take.
"""

from __future__ import annotations

import torch

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.torch7 import image


def coarse_images(fine: torch.Tensor, coarse_size: int) -> torch.Tensor:
    """(N,C,S,S) -> (N,C,S,S): scaled down to `coarse_size` and up again, in float32 as Lua had
    them."""
    small = image.scale(fine.float(), coarse_size)
    return image.scale(small, fine.shape[-1])


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
