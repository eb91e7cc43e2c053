"""nngraph's graphs of modules (nn.gModule) as one torch module.

Source: torch/nngraph, gmodule.lua and node.lua: a node hands its modules one input, or the list of
its inputs where it has several; a node without a module hands its input on; a node with a
select index hands on that entry of a list.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class GraphNode:
    """One step of a graph.

    ``inputs``: positions of the nodes that it reads, in the order of its module's list.
    ``module``: the name of the child that it runs; None hands the input on.
    ``select``: the entry, from 1, of the list that it hands on.
    ``split``: the number of entries that its output has to have.
    ``label``: what Lua's ``annotate{name=...}`` called it.
    """

    inputs: tuple[int, ...]
    module: str | None = None
    select: int | None = None
    split: int | None = None
    label: str = ""


class GraphModule(nn.Module):
    """A graph of modules that runs node after node (nn.gModule).

    ``nodes`` are in the order in which they run; the first one is the graph's input.
    ``outputs`` are the positions of the nodes whose values come out: one value, or a list of them.
    With ``n_inputs`` above 1, the input is a list of that many; they may be given as arguments.
    Children are named after their labels or classes; a module that several nodes run is one child.

    Raises ValueError where a node reads one that does not come before it.
    """

    def __init__(
        self,
        nodes: Sequence[GraphNode],
        children: Mapping[str, nn.Module],
        outputs: Sequence[int],
        n_inputs: int = 1,
    ) -> None:
        super().__init__()
        for position, node in enumerate(nodes):
            if any(not 0 <= source < position for source in node.inputs):
                raise ValueError(f"node {position} reads a node that does not come before it")
        if any(not 0 <= source < len(nodes) for source in outputs):
            raise ValueError("an output is no node of the graph")
        self.nodes, self.outputs, self.n_inputs = tuple(nodes), tuple(outputs), n_inputs
        for name, module in children.items():
            self.add_module(name, module)
        self._done = _last_readers(self.nodes, self.outputs)

    def forward(self, *inputs: Any) -> Any:
        values: list[Any] = [self._take(inputs)]
        for position, node in enumerate(self.nodes[1:], start=1):
            values.append(self._run(node, [values[source] for source in node.inputs]))
            # what no later node reads is let go, as large nets need the memory
            for source in self._done[position]:
                values[source] = None
        outputs = [values[source] for source in self.outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def _take(self, inputs: tuple[Any, ...]) -> Any:
        given = inputs[0] if len(inputs) == 1 else list(inputs)
        if self.n_inputs > 1 and (isinstance(given, Tensor) or len(given) != self.n_inputs):
            count = 1 if isinstance(given, Tensor) else len(given)
            raise ValueError(f"this graph takes a list of {self.n_inputs} inputs, not {count}")
        return given

    def _run(self, node: GraphNode, inputs: list[Any]) -> Any:
        value = inputs[0] if len(inputs) == 1 else inputs
        if node.select is not None:
            if isinstance(value, Tensor) or node.select > len(value):
                raise ValueError(f"there is no entry {node.select} to select from")
            return value[node.select - 1]
        if node.module is not None:
            value = getattr(self, node.module)(value)
        if node.split is not None and (isinstance(value, Tensor) or len(value) != node.split):
            raise ValueError(f"a node splits its output in {node.split}, but it has other parts")
        return value

    def extra_repr(self) -> str:
        return "\n".join(forward_lines(self))


def _last_readers(nodes: Sequence[GraphNode], outputs: Sequence[int]) -> list[list[int]]:
    """For each node, which values no later node and no output reads."""
    last = {source: position for position, node in enumerate(nodes) for source in node.inputs}
    done: list[list[int]] = [[] for _ in nodes]
    for source in last.keys() & set(outputs):
        del last[source]
    for source, position in last.items():
        done[position].append(source)
    return done


def forward_lines(graph: GraphModule) -> Iterator[str]:
    """The graph's forward as lines of Python, with ``x`` for the input."""
    names: list[str] = ["x"]
    for position, node in enumerate(graph.nodes[1:], start=1):
        given = [names[source] for source in node.inputs]
        value = given[0] if len(given) == 1 else f"[{', '.join(given)}]"
        if node.select is not None:
            value = f"{value}[{node.select - 1}]"
        elif node.module is not None:
            value = f"self.{node.module}({value})"
        else:  # only another name for the same value
            names.append(value)
            continue
        names.append(f"x{position}")
        yield f"x{position} = {value}"
    outputs = [names[source] for source in graph.outputs]
    yield f"return {outputs[0] if len(outputs) == 1 else '[' + ', '.join(outputs) + ']'}"


_TAKEN = frozenset(
    {*dir(nn.Module()), *dir(GraphModule), "nodes", "outputs", "n_inputs", "_done", *keyword.kwlist}
)


def child_name(label: str, kind: str, taken: Mapping[str, Any]) -> str:
    """A free attribute name from a node's label, else from its module's class and a number."""
    name = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_")[:40]
    if name and not name[0].isdigit() and name not in taken and name not in _TAKEN:
        return name
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", re.sub(r"\W", "_", kind)).lower().strip("_")
    number = len(taken) + 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
