"""Fuzz what is made of graphs and recurrent networks: modules, text, source, and Lua objects again.

    python fuzz/torch7_graphs.py --count 100000

An input is a golden network (nn.gModule, or of the packages rnn and torch-rnn) in which up to six
entries of its tables were removed, exchanged, or replaced by values that make no sense. It is a
finding if anything but T7Error is raised by `to_module`, by writing the module as Python source or
as a Lua object, or anything at all by the lines of `show`; or if what was written does not open.
The number of a finding is printed; --first NUMBER --count 1 makes the same input again.
"""

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eyescream_py.torch7 import (  # noqa: E402
    Storage,
    T7Error,
    Table,
    TorchObject,
    from_module,
    to_module,
)
from eyescream_py.torch7.describe import describe  # noqa: E402
from eyescream_py.torch7.export.source_code import network_source  # noqa: E402
from tests.torch7.golden_classes import case_of, entries  # noqa: E402

_GONE: Any = object()
LARGEST = 2000  # tables in a network; larger ones are slow and hold nothing else


def nasty() -> list[Any]:
    """Values that hardly any field can have."""
    return [
        None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**40, -(2**63), 1.5, float("nan"),
        float("inf"), "", "x", "train", "both", Table(), Table.from_list([1, 2]),
        torch.zeros(0), torch.zeros(3), torch.zeros(2, 3), torch.arange(4), torch.zeros(1, 1, 1),
        Storage(torch.tensor([2, -1])), TorchObject("nn.Identity"), TorchObject("nn.Linear"),
        TorchObject("nn.gModule"), TorchObject("nngraph.Node"), TorchObject("torch.Timer", None),
    ]  # fmt: skip


def tables_of(network: TorchObject) -> list[Table]:
    """All tables within, each once."""
    found: dict[int, Table] = {}
    stack: list[Any] = [network]
    met: set[int] = set()
    while stack:
        value = stack.pop()
        if not isinstance(value, Table | TorchObject) or id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, TorchObject):
            stack.append(value.fields)
        else:
            found[id(value)] = value
            stack += [*value.values(), *(key for key in value if isinstance(key, TorchObject))]
    return list(found.values())


def seeds() -> Iterator[tuple[TorchObject, list[Table]]]:
    for entry in entries():
        if entry.kind == "gModule" or entry.file.startswith(("rnn_", "projects/torchrnn")):
            network = case_of(entry)["net"]
            tables = tables_of(network)
            if len(tables) <= LARGEST:
                yield network, tables


class Damage:
    """Changes to tables that can be taken back."""

    def __init__(self, number: int, tables: list[Table]) -> None:
        self.random = random.Random(number)  # noqa: S311
        self._tables = [table for table in tables if table]
        self._before: list[tuple[Table, list[tuple[Any, Any]]]] = []

    def __enter__(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            table = self.random.choice(self._tables)
            self._before.append((table, list(table.items())))
            if table:
                self._change(table, self.random.choice(list(table)))

    def _change(self, table: Table, key: Any) -> None:
        kind = self.random.random()
        other = self.random.choice(self._tables)
        if kind < 0.15:
            del table[key]
        elif kind < 0.55:
            table[key] = self.random.choice(nasty())
        elif kind < 0.75:
            table[key] = other
        elif other:
            table[key] = other[self.random.choice(list(other))]

    def __exit__(self, *_: object) -> None:
        for table, items in reversed(self._before):
            table.clear()
            for key, value in items:
                table[key] = value


def check(network: TorchObject) -> bool:
    """Whether the network still opens. Any error raised here is our fault."""
    for _ in describe(network):
        pass
    try:
        module = to_module(network)
    except T7Error as error:
        if "\n" in str(error):
            raise AssertionError("an error of more than one line") from error
        return False
    try:
        compile(network_source(module, "w.safetensors", "fuzz"), "source", "exec")
        written = from_module(module, as_read=False)
    except T7Error:
        return True
    to_module(written)
    return True


def run(first: int, count: int, seconds: float) -> tuple[int, int]:
    """Check up to ``count`` inputs for up to ``seconds``; how many were, and how many open."""
    sources, end = list(seeds()), time.monotonic() + seconds
    good = number = 0
    for number in range(first, first + count):
        if time.monotonic() > end:
            return number - first, good
        network, tables = sources[number % len(sources)]
        try:
            with Damage(number, tables):
                good += check(network)
        except BaseException:
            print(f"finding: --first {number} --count 1", file=sys.stderr)
            raise
    return number + 1 - first, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=100_000, help="inputs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done, good = run(options.first, options.count, options.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{done} inputs, {good} of them still open, no finding, in {time.process_time():.0f} s "
        f"of processor time; peak memory {peak / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
