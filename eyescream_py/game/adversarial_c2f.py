"""Batches of coarse-to-fine pairs and the approximate Parzen score (`adversarial_c2f.lua`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.data.epoch_pool import EpochPool
from eyescream_py.data.pairs import coarse_and_diff, draw_pairs
from eyescream_py.networks.modes import evaluating
from eyescream_py.torch7.random import RandomSource
from eyescream_py.torch7.states import fill

Generate = Callable[[Tensor, Tensor], Tensor]


class PairFeed:
    """(diff, coarse) pairs: real ones of training pictures, generated ones on other coarse
    pictures.

    All buffers have `batch` rows; a step on n pictures uses their first n. G's step has coarse
    pictures of its own: D's slopes by those of its step may still be on their way. `kernels` are
    the pool's.
    """

    def __init__(
        self,
        dataset: Dataset,
        generate: Generate,
        coarse_size: int,
        batch: int,
        epoch_size: int,
        source: RandomSource,
        dtype: torch.dtype = torch.float32,
        kernels: Any = None,
    ) -> None:
        self.dataset, self.generate, self.source = dataset, generate, source
        self.coarse_size, self.dtype = coarse_size, dtype
        self.device = dataset.device
        self.pool = EpochPool(dataset, epoch_size, kernels=kernels)
        channels, height, width = dataset.images.shape[1:]

        def zeros(planes: int) -> Tensor:
            return torch.zeros(batch, planes, height, width, dtype=dtype, device=self.device)

        self.diff, self.coarse, self.noise = zeros(channels), zeros(channels), zeros(1)
        self.coarse_of_G = zeros(channels)
        self._judged: dict[int, Tensor] = {}
        self.ones = torch.ones(batch, dtype=dtype, device=self.device)
        self.indices = torch.zeros(batch, dtype=torch.int64, device=self.device)

    def begin_epoch(self) -> None:
        self.pool.draw(self.source)

    def rows(self, n: int) -> int:
        """How many rows the networks run on in a step on n pictures."""
        return n

    def _draw_pairs(self, n: int, coarse: Tensor, diff: Tensor | None = None) -> None:
        indices = self.source.indices_(self.indices[:n], len(self.pool))
        draw_pairs(self.pool, indices, self.coarse_size, coarse, diff)

    def targets_of_D(self, n: int) -> Tensor:
        """1 for each of n/2 real pairs, 0 for as many generated ones."""
        if n not in self._judged:  # filled once, and not by two kernels of each step
            self._judged[n] = (torch.arange(n, device=self.device) < n // 2).to(self.dtype)
        return self._judged[n]

    def targets_of_G(self, n: int) -> Tensor:
        """1 for each of n pairs."""
        return self.ones[:n]

    def discriminator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        half, rows = n // 2, self.rows(n)
        self._draw_pairs(half, self.coarse[:half], self.diff[:half])
        self.source.uniform_(self.noise[:rows], -1, 1)
        self._draw_pairs(half, self.coarse[half:n])
        with torch.no_grad():
            self.diff[half:n] = self.generate(self.noise[half:n], self.coarse[half:n])
        return (self.diff[:rows], self.coarse[:rows]), self.targets_of_D(n)

    def generator_batch(self, n: int) -> tuple[tuple[Tensor, ...], Tensor]:
        rows = self.rows(n)
        self.source.uniform_(self.noise[:rows], -1, 1)
        self._draw_pairs(n, self.coarse_of_G[:n])
        coarse = self.coarse_of_G[:rows]
        return (self.generate(self.noise[:rows], coarse), coarse), self.targets_of_G(n)

    def state(self) -> dict[str, Any]:
        return self.pool.state()

    def set_state(self, state: dict[str, Any]) -> bool:
        return self.pool.set_state(state)


class StalePairFeed(PairFeed):
    """The Lua program's fault, for replays: networks always run on all rows of the buffers.

    In an epoch's last, shorter batch the rows beyond n hold what the step before left there: both
    players' steps use the same coarse pictures.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.coarse_of_G = self.coarse

    @functools.cached_property
    def targets(self) -> Tensor:
        """Those of the last step, of all rows."""
        return torch.zeros_like(self.ones)

    def rows(self, n: int) -> int:
        return len(self.noise)

    def targets_of_D(self, n: int) -> Tensor:
        self.targets[: n // 2].fill_(1)
        self.targets[n // 2 : n].fill_(0)
        return self.targets

    def targets_of_G(self, n: int) -> Tensor:
        return self.targets.fill_(1)

    def state(self) -> dict[str, Any]:
        rows = {"diff": self.diff, "coarse": self.coarse, "targets": self.targets}
        return {**super().state(), **rows}

    def set_state(self, state: dict[str, Any]) -> bool:
        if state["diff"].shape != self.diff.shape:
            return False
        for name in ("diff", "coarse", "targets"):
            fill(getattr(self, name), state[name], name)
        return super().set_state(state)


def parzen_score(
    G: nn.Module,
    validation: Dataset,
    coarse_size: int,
    images: int,
    tries: int,
    source: RandomSource,
    dtype: torch.dtype = torch.float32,
    chunk: int = 32,
) -> float:
    """Mean over `images` validation pictures of the smallest 2-norm between the picture and `tries`
    refinements.

    Pictures are drawn with replacement. `chunk` bounds how many refinements are made at once.
    """
    device = validation.device
    indices = source.indices_(
        torch.zeros(images, dtype=torch.int64, device=device), len(validation)
    )
    per_chunk = max(1, chunk // tries)
    distances = []
    with evaluating(G):
        for part in indices.split(per_chunk):
            coarse, diff = coarse_and_diff(validation, part, coarse_size, dtype)
            many = coarse.repeat_interleave(tries, 0)  # [k*tries,C,H,W]
            noise = torch.empty_like(many[:, :1])
            made = G(source.uniform_(noise, -1, 1), many).to(dtype)
            error = (diff.repeat_interleave(tries, 0) - made).flatten(1)
            distances.append(error.norm(dim=1).view(-1, tries).min(1).values)
    return float(torch.cat(distances).mean())
