"""Batches of faces for the game: real ones by index, generated ones from noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.torch7.random import RandomSource


class FaceFeed:
    """Real faces drawn by index, generated ones from uniform noise in [-1,1].

    An epoch's pool is `epoch_size` pictures drawn without replacement (all, if there are fewer);
    batches draw from the pool with replacement, as `adversarial.lua` did. `real_target` is what D
    is to say of real faces: below 1 for one-sided label smoothing (Salimans et al. 2016). With
    `shared` G's step judges the n/2 pictures that D's step was shown. `kernels` are the pool's.
    """

    def __init__(
        self,
        dataset: Dataset,
        generate: Callable[[Tensor], Tensor],
        noise_dim: int,
        epoch_size: int,
        source: RandomSource,
        dtype: torch.dtype = torch.float32,
        real_target: float = 1.0,
        shared: bool = False,
        kernels: Any = None,
    ) -> None:
        self.shared = shared
        self._made: Tensor | None = None  # what D's step has seen, for G's step
        self.dataset, self.generate, self.source = dataset, generate, source
        self.noise_dim, self.dtype, self.real_target = noise_dim, dtype, real_target
        self.device = dataset.device
        self.pool = EpochPool(dataset, epoch_size, kernels=kernels)
        self._buffers: dict[int, _Buffers] = {}

    def begin_epoch(self) -> None:
        self.pool.draw(self.source)

    def buffers(self, n: int) -> _Buffers:
        """The tensors into which batches of `n` are drawn, made once per size."""
        if n not in self._buffers:
            made = _Buffers.make(n, self.noise_dim, self.device, self.dtype)
            made.targets[: n // 2] = self.real_target
            self._buffers[n] = made
        return self._buffers[n]

    def discriminator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        half = n // 2
        buffers = self.buffers(n)
        self.source.indices_(buffers.indices, len(self.pool))
        real = self.pool.floats(buffers.indices, self.dtype)
        noise = self.source.uniform_(buffers.noise[:half], -1, 1)
        with torch.set_grad_enabled(self.shared):
            generated = self.generate(noise)
        # one pass of G serves both steps: D's takes the pictures, G's the way back to the weights
        self._made = generated if self.shared else None
        generated = generated.detach()
        return (torch.cat([real, generated.to(self.dtype)]),), buffers.targets

    def generator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        buffers = self.buffers(n)
        if self._made is not None:
            made, self._made = self._made, None
            return (made,), buffers.ones[: len(made)]
        noise = self.source.uniform_(buffers.noise, -1, 1)
        return (self.generate(noise),), buffers.ones

    def state(self) -> dict[str, Any]:
        return self.pool.state()

    def set_state(self, state: dict[str, Any]) -> bool:
        return self.pool.set_state(state)


@dataclass
class _Buffers:
    indices: Tensor  # [n/2] into the pool
    noise: Tensor  # [n, noise_dim]
    targets: Tensor  # [n]: n/2 for real ones, n/2 zeros
    ones: Tensor  # [n]

    @staticmethod
    def make(n: int, noise_dim: int, device: torch.device, dtype: torch.dtype) -> _Buffers:
        return _Buffers(
            indices=torch.zeros(n // 2, dtype=torch.int64, device=device),
            noise=torch.empty(n, noise_dim, device=device, dtype=dtype),
            targets=torch.zeros(n, device=device, dtype=dtype),
            ones=torch.ones(n, device=device, dtype=dtype),
        )
