"""The pictures that one epoch trains on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from eyescream_py.data.dataset import Dataset
from eyescream_py.system.device import wait_for, wants_pinned, whole_memory
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import RandomSource

LARGEST_SHARE = 0.5  # of a device's memory, for an epoch's pictures


class Carrier:
    """`size` rows of a data set in host memory, kept on its device; a thread gathers the next ones
    into a host buffer, pinned where they go to CUDA.

    rows: those that arrived last. next: the numbers of those being gathered (on the host), if any.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.images, self.device = dataset.images, dataset.device
        shape, dtype = (size, *self.images.shape[1:]), self.images.dtype
        self._check_room(size)
        self.rows = Dataset(torch.zeros(shape, dtype=dtype, device=self.device), dataset.name)
        self.next: Tensor | None = None
        self._buffer = torch.empty(shape, dtype=dtype, pin_memory=wants_pinned(self.device))
        self._thread = ThreadPoolExecutor(1, "pictures of the next epoch")
        self._pending: Future[Tensor] | None = None

    def _check_room(self, size: int) -> None:
        whole, needed = whole_memory(self.device), size * self.images[0].nbytes
        if whole is not None and needed > (limit := LARGEST_SHARE * whole):
            raise UserError(
                f"--N_epoch={size}: these pictures take {needed / 1e9:.0f} GB, the "
                f"device has room for {limit / 1e9:.0f} GB of them; give a smaller --N_epoch"
            )

    def send_for(self, numbers: Tensor) -> None:
        """Begin to gather the rows `numbers`; those that nobody received are waited for first."""
        if self._pending is not None:
            self._pending.result()
        self.next = numbers.cpu()
        gather = torch.index_select
        self._pending = self._thread.submit(gather, self.images, 0, self.next, out=self._buffer)

    def receive(self) -> Tensor:
        """Wait for what was sent for and make it `rows`; their numbers."""
        if self._pending is None or self.next is None:
            raise RuntimeError("no rows were sent for")
        self._pending.result()
        self.rows.images.copy_(self._buffer, non_blocking=True)
        wait_for(self.device)  # before the buffer is filled again
        numbers, self.next, self._pending = self.next, None, None
        return numbers


class EpochPool:
    """`size` pictures (all, if there are fewer), drawn without replacement for every epoch; batches
    index into it.

    Where the data set stays in host memory (`Dataset.streamed`), the epoch's pictures alone are
    kept on the device, as uint8: an iteration never waits for the host, however many pictures there
    are. The next epoch's are then drawn one epoch ahead and gathered meanwhile. `keep` forces
    either way. `kernels` (`system.gpu_kernels`) read pictures in one pass where they are here.
    """

    def __init__(
        self, dataset: Dataset, size: int, keep: bool | None = None, kernels: Any = None
    ) -> None:
        self.dataset, self.kernels = dataset, kernels
        self.numbers = torch.arange(min(size, len(dataset)), device=dataset.device)
        self.carrier: Carrier | None = None
        if dataset.streamed if keep is None else keep:
            self.carrier = Carrier(dataset, len(self))
            self._bring(self.carrier, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def draw(self, source: RandomSource) -> None:
        """Go over to the next epoch's pictures."""
        if self.carrier is None:
            self.numbers.copy_(self._permuted(source))
            return
        if self.carrier.next is None:
            self.carrier.send_for(self._permuted(source))
        self.numbers.copy_(self.carrier.receive())
        self.carrier.send_for(self._permuted(source))

    def _permuted(self, source: RandomSource) -> Tensor:
        return source.permutation(len(self.dataset))[: len(self)]

    def floats(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n,C,H,W) in 0..1 of the pool's pictures `indices` (int64, on the device)."""
        if self.has_kernels:
            made: Tensor = self.kernels.pictures(*self.stored(), indices, dtype)
            return made
        if self.carrier is None:
            return self.dataset.floats(self.numbers[indices], dtype)
        return self.carrier.rows.floats(indices, dtype)

    @property
    def has_kernels(self) -> bool:
        """Whether there are kernels, and pictures lie as those read them: bytes without gaps."""
        images, _ = self.stored()
        return bool(self.kernels) and images.dtype == torch.uint8 and images.is_contiguous()

    def stored(self) -> tuple[Tensor, Tensor | None]:
        """The pictures as they lie in memory, and which of them the pool's are; None: all."""
        if self.carrier is None:
            return self.dataset.images, self.numbers
        return self.carrier.rows.images, None

    def state(self) -> dict[str, Any]:
        state = {"pool": self.numbers, "pictures": len(self.dataset)}
        if self.carrier is not None and self.carrier.next is not None:
            state["next"] = self.carrier.next
        return state

    def set_state(self, state: dict[str, Any]) -> bool:
        """Take a stored pool over where it was drawn from as many pictures; whether it was."""
        stored, pictures = state["pool"], len(self.dataset)
        if stored.shape != self.numbers.shape or state.get("pictures", pictures) != pictures:
            return False
        following = state.get("next")
        if any(
            numbers.dtype != torch.int64 for numbers in (stored, following) if numbers is not None
        ):
            raise ValueError("the epoch's pool is not one of whole numbers")
        for numbers in [stored] if following is None else [stored, following]:
            self._check(numbers)
        self.numbers.copy_(stored)
        if self.carrier is not None:
            self._bring(self.carrier, stored)
            if following is not None:
                self.carrier.send_for(following)
        return True

    def _check(self, numbers: Tensor) -> None:
        if (
            numbers.shape != self.numbers.shape
            or numbers.min() < 0
            or numbers.max() >= len(self.dataset)
        ):
            raise ValueError("the epoch's pool names pictures that there are not")

    @staticmethod
    def _bring(carrier: Carrier, numbers: Tensor) -> None:
        """This epoch's pictures at once: at the start and after a resume."""
        carrier.send_for(numbers)
        carrier.receive()
