"""The models of captions of neuraltalk2 and densecap, both called nn.LanguageModel.

Words are indices from 1 to M, the same for all captions of a model; M + 1 starts and ends one, and
0 stands for none, after its end. Sources: karpathy/neuraltalk2, misc/LanguageModel.lua;
jcjohnson/densecap, densecap/LanguageModel.lua.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..recurrent.fused import UnfoldTime


class NeuraltalkModel(nn.Module):
    """neuraltalk2: {codes of images (N,K), words (T,N)} -> log-probabilities (T+2,N,M+1).

    Those of the word after the image, after the start, and after each word. Steps at which no
    caption has a word are zeros; Lua leaves there what its memory held. ``core`` is one step of a
    network, {input, states} -> {states, log-probabilities}, with ``states`` states of ``size``.
    """

    def __init__(
        self, core: nn.Module, lookup: nn.Module, words: int, size: int, states: int, length: int
    ) -> None:
        super().__init__()
        self.core, self.lookup = core, lookup
        self.words, self.size, self.states, self.length = words, size, states, length

    def forward(self, inputs: Any) -> Tensor:
        images, words = inputs
        state = [images.new_zeros(len(images), self.size) for _ in range(self.states)]
        outputs = []
        for x, live in self._steps(images, words.long()):
            *state, scores = self.core([x, *state])
            outputs.append(torch.where(live, scores, 0))
        return torch.stack(outputs)

    def _steps(self, images: Tensor, words: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The input of each step, and whether any caption goes on there."""
        start = torch.full((len(images),), self.words + 1, device=images.device)
        always = torch.ones((), dtype=torch.bool, device=images.device)
        yield images, always
        yield self.lookup(start), always
        for row in words:  # one that is over goes on with any word, as in Lua with the first
            yield self.lookup(torch.where(row == 0, 1, row)), (row != 0).any()

    @torch.no_grad()
    def sample(self, images: Tensor) -> Tensor:
        """The likeliest word after the one before, ``length`` times: (length,N)."""
        words = torch.zeros(0, len(images), dtype=torch.int64, device=images.device)
        for _ in range(self.length):
            best = self([images, words])[-1].argmax(1) + 1
            words = torch.cat([words, best[None]])
        return words


class DensecapModel(nn.Module):
    """densecap: {codes of regions (N,D), words (N,T)} -> scores (N,T+2,M+1).

    Those of the word after the region, after the start, and after each word. Words in an empty
    tensor (0) are asked for: the likeliest ones (N,length) come back. ``encoder``: (N,D) ->
    (N,1,W); ``rnn``: (N,T,W) -> (N,T,M+1).
    """

    def __init__(
        self, encoder: nn.Module, lookup: nn.Module, rnn: nn.Sequential, words: int, length: int
    ) -> None:
        super().__init__()
        self.encoder, self.lookup, self.rnn = encoder, lookup, rnn
        self.words, self.length = words, length

    def forward(self, inputs: Any) -> Tensor:
        codes, words = inputs
        if words.dim() == 1 and not len(words):
            return self.sample(codes)
        words = words.long()
        start = torch.full((len(codes), 1), self.words + 1, device=codes.device)
        known = torch.where(words == 0, self.words + 2, words)
        steps = torch.cat([self.encoder(codes), self.lookup(torch.cat([start, known], 1))], 1)
        for layer in self.rnn:
            if isinstance(layer, UnfoldTime):
                layer.steps = steps.shape[1]
        return self.rnn(steps)

    @torch.no_grad()
    def sample(self, codes: Tensor) -> Tensor:
        """The likeliest word after the one before, ``length`` times: (N,length)."""
        words = torch.zeros(len(codes), 0, dtype=torch.int64, device=codes.device)
        for _ in range(self.length):
            best = self([codes, words])[:, -1].argmax(1) + 1
            words = torch.cat([words, best[:, None]], 1)
        return words
