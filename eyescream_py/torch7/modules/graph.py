"""Converter of nngraph's nn.gModule; see `torch7/graph.py` for what a graph does."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import T7Error
from ..files.values import Table, TorchObject
from ..graph import GraphModule, GraphNode, child_name
from .codec import Codec, Node, Writer

MAX_NODES = 100_000  # an LSTM over 1000 steps has about 20,000; more is an attack or a mistake


def read_graph(node: Node) -> nn.Module:
    """The graph in the order of ``forwardnodes``, which is the order in which Lua runs it."""
    datas = _node_datas(node)
    source, sink = _data_of(node, "innode"), _data_of(node, "outnode")
    if datas[0] is not source:
        raise node.fail("the graph does not begin with its input node")
    reading = _Reading(node, source)
    for data in datas:
        if data is not sink and data is not source:
            reading.add(data)
    outputs = reading.sources(sink, "the output node")
    if not outputs:
        raise node.fail("the graph has no output")
    return GraphModule(reading.nodes, reading.children, outputs, reading.n_inputs)


class _Reading:
    """The nodes so far, by the identity of the tables that Lua keeps about them."""

    def __init__(self, node: Node, source: Table) -> None:
        self.node = node
        self.nodes = [GraphNode(())]
        self.children: dict[str, nn.Module] = {}
        self._names: dict[int, str] = {}
        self._positions = {id(source): 0}
        self._targets = _list(source, "mapindex")  # in files of before 2014 only
        self.n_inputs = node.count("nInputs", len(self._targets) or _children_of(node, "innode"))
        self._targets_at = {id(data): i for i, data in enumerate(self._targets, start=1)}

    def add(self, data: Table) -> None:
        place = f"node {len(self.nodes)}"
        inputs = self._old_inputs(data) or self.sources(data, place)
        select, split = data.get("selectindex"), data.get("nSplitOutputs")
        module = data.get("module")
        if select is not None and (not _is_index(select) or module is not None):
            raise self.node.fail(f"{place} has a select index that is none")
        if data.get("criterion") is not None:
            raise self.node.fail(f"{place} holds a criterion, which is no layer")
        name = None if module is None else self._child(module, _label(data), place)
        self._positions[id(data)] = len(self.nodes)
        split = split if _is_index(split) else None
        self.nodes.append(GraphNode(inputs, name, select, split, _label(data)))

    def sources(self, data: Table, place: str) -> tuple[int, ...]:
        """The positions of the nodes that a node reads. They have to have been met before it."""
        found = []
        for source in _list(data, "mapindex"):
            position = self._positions.get(id(source))
            if position is None:
                raise self.node.fail(
                    f"{place} reads a node that is missing or comes later (a cycle?)"
                )
            found.append(position)
        return tuple(found)

    def _old_inputs(self, data: Table) -> tuple[int, ...]:
        """Before 2014 the input node knew where each input goes, and there were no select nodes."""
        entry = self._targets_at.get(id(data))
        if entry is None:
            return ()
        if self.n_inputs == 1:
            return (0,)
        self.nodes.append(GraphNode((0,), select=entry))
        return (len(self.nodes) - 1,)

    def _child(self, module: Any, label: str, place: str) -> str:
        if id(module) not in self._names:
            child = self.node.reader.module(module, f"{self.node.place} > {place}")
            kind = module.typename.rpartition(".")[2].replace("gModule", "graph")
            name = child_name(label, kind, self.children)
            self._names[id(module)] = name
            self.children[name] = child
        return self._names[id(module)]


def _node_datas(node: Node) -> list[Table]:
    listed = node.obj.fields.get("forwardnodes")
    entries = listed.to_list() if isinstance(listed, Table) else []
    if not entries:
        raise node.fail("the graph has no list of forward nodes")
    if len(entries) > MAX_NODES:
        raise node.fail(_too_many(len(entries)))
    datas = [_data(entry) for entry in entries]
    if not all(isinstance(data, Table) for data in datas):
        raise node.fail("an entry of the forward nodes is no node")
    if len({id(data) for data in datas}) < len(datas):
        raise node.fail("a node is twice among the forward nodes")
    return [data for data in datas if data is not None]


def _too_many(count: int) -> str:
    return f"the graph has {count} nodes, more than the limit of {MAX_NODES}"


def _data(entry: Any) -> Table | None:
    """The table ``data`` of a graph node; the forward and the backward node share it."""
    if not isinstance(entry, TorchObject) or not isinstance(entry.fields, Table):
        return None
    data = entry.fields.get("data")
    return data if isinstance(data, Table) else None


def _data_of(node: Node, field: str) -> Table:
    data = _data(node.obj.fields.get(field))
    if data is None:
        raise node.fail(f"the graph has no {field}")
    return data


def _children_of(node: Node, field: str) -> int:
    """The number of nodes that read a node, at least 1."""
    children = node.obj.fields[field].fields.get("children")
    return max(1, len(children.to_list())) if isinstance(children, Table) else 1


def _list(data: Table, key: str) -> list[Any]:
    value = data.get(key)
    return value.to_list() if isinstance(value, Table) else []


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _label(data: Table) -> str:
    annotations = data.get("annotations")
    name = annotations.get("name") if isinstance(annotations, Table) else None
    return name[:200] if isinstance(name, str) else ""


def write_graph(graph: Any, writer: Writer) -> dict[str, Any]:
    """Both of nngraph's graphs over one set of tables: for running, and backwards for gradients."""
    sink = GraphNode(tuple(graph.outputs))
    nodes = [*graph.nodes, sink]
    if len(nodes) > MAX_NODES:  # it could not be read again
        raise T7Error(f"GraphModule: {_too_many(len(nodes))}")
    datas = [_write_data(graph, node, i, writer) for i, node in enumerate(nodes, start=1)]
    forward = [_graph_node(data, i) for i, data in enumerate(datas, start=1)]
    backward = [_graph_node(data, i) for i, data in enumerate(datas, start=1)]
    for position, node in enumerate(nodes):
        for entry, source in enumerate(node.inputs, start=1):
            datas[position]["mapindex"][entry] = datas[source]
            datas[position]["mapindex"][datas[source]] = entry
            datas[source]["reverseMap"][backward[position]] = True
            _append(backward[position].fields["children"], backward[source])
            _append(forward[source].fields["children"], forward[position])
    modules = [data["module"] for data in datas if "module" in data]
    return {
        "fg": _write_edges(forward),
        "bg": _write_edges(backward[::-1]),
        "forwardnodes": Table.from_list(forward),
        "backwardnodes": Table.from_list(backward[::-1]),
        "innode": forward[0],
        "outnode": backward[-1],
        "nInputs": graph.n_inputs,
        "verbose": False,
        "modules": Table.from_list(modules),
    }


def _write_data(graph: Any, node: GraphNode, number: int, writer: Writer) -> Table:
    annotations = Table(_debugLabel="[?]:-1")
    if node.label:
        annotations["name"] = node.label
    data = Table(
        annotations=annotations, mapindex=Table(), reverseMap=Table(), forwardNodeId=number
    )
    if node.module is not None:
        data["module"] = writer.obj(getattr(graph, node.module))
    else:
        data["input"] = Table()
    if node.select is not None:
        data["selectindex"] = node.select
    if node.split is not None:
        data["nSplitOutputs"] = node.split
    return data


def _graph_node(data: Table, number: int) -> TorchObject:
    return TorchObject(
        "nngraph.Node",
        Table(data=data, children=Table(), visited=False, marked=False, id=number),
    )


def _append(table: Table, value: Any) -> None:
    """Lua's lists of the package graph also say where each entry stands."""
    position = len(table) // 2 + 1
    table[position] = value
    table[value] = position


def _write_edges(nodes: list[TorchObject]) -> TorchObject:
    listed, edges = Table(), Table()
    for node in nodes:
        _append(listed, node)
        for child in node.fields["children"].to_list():
            _append(edges, TorchObject("graph.Edge", Table({"from": node, "to": child})))
    return TorchObject("graph.Graph", Table(nodes=listed, edges=edges))


CODECS = [Codec(("gModule",), GraphModule, read_graph, write_graph)]
