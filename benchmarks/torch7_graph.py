"""A large nn.gModule: how long reading its file takes, and making a torch module of it.

    python -m benchmarks.torch7_graph [--megabytes 100] [--rounds 7]

The graph is of residual blocks (two convolutions of 256 planes, a batch normalisation, ReLU, and
the sum with the block's input), written as Lua would. Both steps are timed alternately in one
process, in seconds of processor time; the median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import torch
from torch import nn

from benchmarks.report import machine
from eyescream_py import torch7
from eyescream_py.torch7.graph import GraphModule, GraphNode
from eyescream_py.torch7.layers.tables import CAddTable

PLANES = 256


def residual_graph(megabytes: int) -> GraphModule:
    """A graph with about so many megabytes of weights."""
    nodes, children, last = [GraphNode(())], dict[str, nn.Module](), 0
    for block in range(max(1, megabytes * 250_000 // (2 * 9 * PLANES**2))):
        layers = {
            f"first_{block}": nn.Conv2d(PLANES, PLANES, 3, padding=1),
            f"norm_{block}": nn.BatchNorm2d(PLANES),
            f"relu_{block}": nn.ReLU(),
            f"second_{block}": nn.Conv2d(PLANES, PLANES, 3, padding=1),
        }
        start = last
        for name in layers:
            nodes.append(GraphNode((last,), name))
            last = len(nodes) - 1
        nodes.append(GraphNode((start, last), f"sum_{block}"))
        last = len(nodes) - 1
        children |= {**layers, f"sum_{block}": CAddTable()}
    return GraphModule(nodes, children, [last])


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of `action`, and what it returned."""
    start = time.process_time()
    result = action()
    return time.process_time() - start, result


@click.command(help=__doc__)
@click.option("--megabytes", default=100, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(megabytes: int, rounds: int) -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        data = torch7.save(None, torch7.from_module(residual_graph(megabytes)))
    reading, making = [], []
    for _ in range(rounds):
        took, value = seconds(partial(torch7.load, data))
        reading.append(took)
        took, module = seconds(partial(torch7.to_module, value, None))
        making.append(took)
    weights = sum(p.nbytes for p in module.parameters()) / 1e6
    click.echo(
        f"{machine()}: graph of {len(module.nodes)} nodes, {weights:.0f} MB of weights, file of "
        f"{len(data) / 1e6:.0f} MB; load {statistics.median(reading):.2f} s, to_module "
        f"{statistics.median(making):.2f} s (worst {max(making):.2f} s)"
    )


if __name__ == "__main__":
    main()
