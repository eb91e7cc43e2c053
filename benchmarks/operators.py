"""Operators of an iteration as CUDA is given it, counted on the CPU: about a kernel each there.

    python -m benchmarks.operators [--only 16px] [--top 20]

Flat parameters, counters on the device, rounded copies of the weights in bf16, layers in
channels_last, fused ("plain": torch's own); what only views memory is not counted. A kernel of
`system.gpu_kernels` counts as one, and torch's operators compute it here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks.report import Table, chosen, machine
from benchmarks.train_step import CASES, make_game
from eyescream_py.data.dataset import Dataset
from eyescream_py.game import precision
from eyescream_py.networks import models, models_c2f
from eyescream_py.networks.fused_layers import Tools
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import Lanes
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.random import TorchSource

CPU = torch.device("cpu")
VIEWS = {
    "view", "permute", "transpose", "t", "select", "slice", "unsqueeze", "squeeze", "expand",
    "as_strided", "detach", "alias", "_unsafe_view", "split", "split_with_sizes", "unbind",
    "_reshape_alias", "empty", "empty_like", "new_empty", "_record_function_enter_new",
    "_record_function_exit", "promote_types",
}  # fmt: skip


class OnCuda(nn.Parameter):
    """A parameter in the host's memory that says it is not."""

    is_cuda = True


class Counted:
    """`system.kernels_in_torch`, each call of which is one in `operators`, whatever it runs."""

    def __init__(self) -> None:
        self.operators: Operators | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(kernels_in_torch, name)

        def call(*args: Any) -> Any:
            if self.operators:
                self.operators.counts[f"kernel {name}"] += 1
            # a GPU's kernels know no autocast
            with _disable_current_modes(), torch.autocast("cpu", enabled=False):
                return function(*args)

        return call


class Operators(TorchDispatchMode):
    """Counts, by name, the operators that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = str(function).split(".")[1]
        if name not in VIEWS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def iteration(case: str, batch: int, name: str, kernels: Counted | None) -> Callable[[], None]:
    """An iteration in precision `name`; with `kernels` its layers and steps are fused."""
    channels, size, coarse = CASES[case]
    pixels = torch.randint(0, 256, (1000, channels, size, size), dtype=torch.uint8)
    source, made = TorchSource(0, CPU), models_c2f if coarse else models
    dims = channels, size, size
    networks = made.create_D(dims), made.create_G(dims)
    for net in networks:
        set_random_source(net, source)
        net.to(memory_format=torch.channels_last)
        for layer in net.modules():
            for key, p in layer._parameters.items():
                if p is not None:
                    layer._parameters[key] = OnCuda(p.detach())
    arithmetic, data = precision.choose(name, CPU), Dataset(pixels, "noise")
    tools = Tools(kernels, Lanes(CPU)) if kernels else None
    game = make_game(case, networks, data, batch, source, arithmetic, True, True, tools)
    return lambda: game.iteration(batch)


@click.command()
@click.option("--only", default="", help="Cases whose name contains this.")
@click.option("--top", default=0, help="Also name the most frequent operators.")
def main(only: str, top: int) -> None:
    """Count those of a second iteration: the first sets things up."""
    table = Table("case", "batch", "plain fp32", "plain bf16", "fp32", "bf16")
    for case in chosen(CASES, only):
        batch, found = 32 if CASES[case][2] else 16, []
        for kernels, name in itertools.product((None, Counted()), ("fp32", "bf16")):
            step = iteration(case, batch, name, kernels)
            step()
            with Operators() as seen:
                if kernels:
                    kernels.operators = seen
                step()
            found.append(seen.counts.total())
            for operator, times in seen.counts.most_common(top):
                print(f"    {name} {times:4} x {operator}")
        table.add(case, batch, *found)
    table.publish("Operators of an iteration as CUDA is given it", machine(CPU), None)


if __name__ == "__main__":
    main()
