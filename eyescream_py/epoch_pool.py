"""The pictures that one epoch trains on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eyescream_py.dataset import Dataset
from eyescream_py.errors import UserError
from eyescream_py.torch7.random import RandomSource

LARGEST_SHARE = 0.5  # of a device's memory, for an epoch's pictures


class EpochPool:
    """`size` pictures (all, if there are fewer), drawn without replacement for every epoch; batches
    index into it.

    Where the data set stays in host memory (`Dataset.streamed`), the epoch's pictures alone are
    brought to the device, once per epoch through a pinned buffer, and kept there as uint8: an
    iteration never waits for the host, however many pictures there are. `keep` forces either way.
    """

    def __init__(self, dataset: Dataset, size: int, keep: bool | None = None) -> None:
        self.dataset = dataset
        self.numbers = torch.arange(min(size, len(dataset)), device=dataset.device)
        self.kept = self._room() if (dataset.streamed if keep is None else keep) else None
        self._bring()

    def __len__(self) -> int:
        return len(self.numbers)

    def draw(self, source: RandomSource) -> None:
        self.numbers.copy_(source.permutation(len(self.dataset))[: len(self)])
        self._bring()

    def floats(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n,C,H,W) in 0..1 of the pool's pictures `indices` (int64, on the device)."""
        if self.kept is None:
            return self.dataset.floats(self.numbers[indices], dtype)
        return self.kept.floats(indices, dtype)

    def state(self) -> dict[str, Any]:
        return {"pool": self.numbers, "pictures": len(self.dataset)}

    def set_state(self, state: dict[str, Any]) -> bool:
        """Take a stored pool over where it was drawn from as many pictures; whether it was."""
        stored, pictures = state["pool"], len(self.dataset)
        if stored.shape != self.numbers.shape or state.get("pictures", pictures) != pictures:
            return False
        if stored.min() < 0 or stored.max() >= pictures:
            raise ValueError("the epoch's pool names pictures that there are not")
        self.numbers.copy_(stored)
        self._bring()
        return True

    def _room(self) -> Dataset:
        images, device = self.dataset.images, self.dataset.device
        shape = (len(self), *images.shape[1:])
        if device.type == "cuda":
            bytes_needed = len(self) * images[0].nbytes
            limit = LARGEST_SHARE * torch.cuda.get_device_properties(device).total_memory
            if bytes_needed > limit:
                raise UserError(
                    f"--N_epoch={len(self)}: these pictures take {bytes_needed / 1e9:.0f} GB, the "
                    f"device has room for {limit / 1e9:.0f} GB of them; give a smaller --N_epoch"
                )
        return Dataset(torch.zeros(shape, dtype=images.dtype, device=device), self.dataset.source)

    def _bring(self) -> None:
        if self.kept is not None:
            rows = self.dataset.images[self.numbers.to(self.dataset.images.device)]
            if self.dataset.device.type == "cuda":
                rows = rows.pin_memory()
            self.kept.images.copy_(rows, non_blocking=True)
