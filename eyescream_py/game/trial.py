"""Whether bfloat16 is quicker than float32 on this processor, tried on a run's own networks.

An instruction for bfloat16 does not decide it: layers differ in what they gain, and small ones
lose by the rounding.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from eyescream_py.game import precision
from eyescream_py.networks.cpu_layers import speed_up

SECONDS, ROUNDS = 2.0, 5  # no round begins later; one more comes first, to warm up
PIXELS = 16 * 32 * 32  # of the pictures of a pass; batches larger than that choose alike
WORTH = 0.9  # of float32's time: what is as quick is better in full


@dataclass(frozen=True)
class Part:
    """A network that a run trains, and the shapes of its inputs without the batch's size."""

    network: nn.Module
    shapes: Sequence[tuple[int, ...]]
    fast: bool = True  # whether the run exchanges layers for the CPU's faster ones
    last: bool = False  # whether channels come last in memory


def milliseconds(parts: Sequence[Part], batch: int, compiled: bool = True) -> dict[str, float]:
    """The quickest forward and backward pass of copies of `parts`, "fp32" and "bf16"; `compiled`:
    as `speed_up` takes it.

    Takes about SECONDS, at least two passes of each. The generator of torch's random numbers is
    left as it was.
    """
    n = min(batch, max(4, PIXELS // max(math.prod(part.shapes[-1][-2:]) for part in parts)))
    passes = {name: _passes(parts, n, name, compiled) for name in ("fp32", "bf16")}
    best = dict.fromkeys(passes, math.inf)
    with torch.random.fork_rng(devices=[]):
        begun = time.perf_counter()
        for turn in range(ROUNDS + 1):
            for name, run in passes.items():
                start = time.perf_counter()
                run()
                if turn:
                    best[name] = min(best[name], 1000 * (time.perf_counter() - start))
            if turn and time.perf_counter() - begun > SECONDS:
                break
    return best


def _passes(parts: Sequence[Part], n: int, name: str, compiled: bool) -> Callable[[], None]:
    copies = [copy.deepcopy(part.network) for part in parts]
    for part, network in zip(parts, copies, strict=True):
        if part.fast:
            speed_up(network, rounded=name == "bf16", compiled=compiled)
        if part.last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = [[torch.full((n, *shape), 0.5) for shape in part.shapes] for part in parts]
    autocast = precision.choose(name, torch.device("cpu")).autocast

    def run() -> None:
        for network, given in zip(copies, inputs, strict=True):
            with autocast():
                y = network(*given)
            y.float().mean().backward()

    return run


def chosen(parts: Sequence[Part], batch: int, compiled: bool = True) -> str:
    """ "bf16" where that is clearly quicker, else "fp32"; prints a line that says why."""
    ms = milliseconds(parts, batch, compiled)
    # an exchanged layer and its forward hold each other: two copies of all weights and gradients
    # would stay beside the run's own
    gc.collect()
    name = "bf16" if ms["bf16"] < WORTH * ms["fp32"] else "fp32"
    print(
        f"--precision=auto: {name}; a pass through the networks took {_shown(ms['bf16'])} ms "
        f"in bf16, {_shown(ms['fp32'])} ms in fp32."
    )
    return name


def _shown(ms: float) -> str:
    """Whole milliseconds; two digits of fewer than ten, which small networks take."""
    return f"{ms:.0f}" if ms >= 10 else f"{ms:.2g}"
