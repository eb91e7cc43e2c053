"""The three 3x3 patterns of which every kernel of a basis convolution is a mix.

A basis is a tensor (3, 9), float32, with orthonormal rows; a row is a 3x3 pattern row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from eyescream_py.system.errors import UserError

SIZE = 3


def analytic_basis() -> torch.Tensor:
    """A box blur, the vertical and the horizontal Sobel gradient: orthonormal."""
    sobel = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])
    rows = torch.stack((torch.ones(3, 3), sobel, sobel.T)).reshape(SIZE, 9)
    return rows / rows.norm(dim=1, keepdim=True)


def basis_of_filters(
    tensors: Mapping[str, torch.Tensor], name: str = "filter bank"
) -> torch.Tensor:
    """The first three right singular vectors of all 3x3 filters among `tensors` (of any network's
    state dict).

    Filters are not centred. Signs are chosen so that each row's largest entry is positive.
    Raises UserError where fewer than three 3x3 filters are found, naming `name`.
    """
    banks = [t.reshape(-1, 9) for t in tensors.values() if t.ndim == 4 and t.shape[2:] == (3, 3)]
    filters = torch.cat(banks).double() if banks else torch.empty(0, 9)
    if len(filters) < SIZE:
        raise UserError(f"{name}: no 3x3 filters in it to take a basis from")
    _, vectors = torch.linalg.eigh(
        filters.T @ filters
    )  # [9, 9], columns by ascending singular value
    rows = vectors.T.flip(0)[:SIZE]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return (rows * largest.sign()).float()
