"""Text for people about what a Torch 7 file holds: networks as trees, options, tensors."""

from collections.abc import Iterator
from typing import Any

import torch

from .describe_layer import by, describe_module, key_name, parameters, printable, summary
from .files.memory import count_elements
from .files.values import LuaFunction, Storage, Table, TorchObject

_ENTRIES_SHOWN = 200
_DEPTH_SHOWN = 4
_NODES_SHOWN = 10_000
_TABLES = ("nets", "refs")  # of modules by name: densecap's, SharpMask's
_NO_NETWORKS = ("tds", "torch", "optim", "tnt", "graph", "nngraph", "threads")  # packages


def describe(value: Any) -> Iterator[str]:
    """The lines of `show`: of a checkpoint the epoch, its options by name, networks, the rest."""
    if not isinstance(value, Table):
        yield from _entry("", value, 0, set())
        return
    met = {id(value)}
    ranked = sorted(value.items(), key=lambda item: _rank(*item))
    for key, entry in ranked[:_ENTRIES_SHOWN]:
        yield from _entry(key_name(key), entry, 0, met)
    yield from _more(len(ranked))


def _rank(key: Any, value: Any) -> tuple[int, str]:
    """Scalars such as the epoch first, then options, networks, and the rest."""
    if not isinstance(value, Table | TorchObject | torch.Tensor | Storage | LuaFunction):
        return 0, key_name(key)
    if isinstance(value, Table) and key == "opt":
        return 1, ""
    return (2 if is_network(value) else 3), key_name(key)


def is_network(value: Any) -> bool:
    """Whether `show` describes the value as a network: an object with fields, of such a package."""
    return _has_fields(value) and value.typename.partition(".")[0] not in _NO_NETWORKS


def _has_fields(value: Any) -> bool:
    return isinstance(value, TorchObject) and isinstance(value.fields, Table)


def _entry(name: str, value: Any, depth: int, met: set[int]) -> Iterator[str]:
    """``met``: the tables and networks that were shown; each is once, or a cycle had no end."""
    indent, label = "  " * depth, f"{name}: " if name else ""
    again = id(value) in met
    if isinstance(value, Table | TorchObject):
        met.add(id(value))
    if again:
        kind = "table" if isinstance(value, Table) else printable(value.typename)
        yield f"{indent}{label}the same {kind}, shown before"
    elif is_network(value):
        yield f"{indent}{label}{count_parameters(value):,} parameters"
        yield from network_lines(value, depth + 1)
    elif isinstance(value, Table) or _has_fields(value):
        kind, table = (
            ("table", value) if isinstance(value, Table) else (value.typename, value.fields)
        )
        yield f"{indent}{label}{printable(kind)} of {len(table)}"
        if depth < _DEPTH_SHOWN:
            ordered = sorted(table.items(), key=lambda item: _table_order(item[0]))
            for key, entry in ordered[:_ENTRIES_SHOWN]:
                yield from _entry(key_name(key), entry, depth + 1, met)
            yield from (f"{indent}  {line}" for line in _more(len(table)))
    else:
        yield f"{indent}{label}{summary(value)}"


def _more(count: int) -> Iterator[str]:
    if count > _ENTRIES_SHOWN:
        yield f"... and {count - _ENTRIES_SHOWN} more"


def _table_order(key: Any) -> tuple[bool, Any]:
    return (False, key) if isinstance(key, int | float) else (True, key_name(key))


def children(module: TorchObject) -> list[tuple[str, TorchObject]]:
    """The modules of a container, or those that a module holds by name, with their labels.

    Of a graph its nodes, which say whom they read; those without a module are named for what
    they do.
    """
    if nodes := graph_nodes(module):
        return nodes
    found, named = [], []
    for key, value in module.fields.items():
        if isinstance(value, Table):
            parts = [(key_name(k), part) for k, part in value.items() if is_network(part)]
            if key == "modules":
                found += [(f"({name})", part) for name, part in parts]
            elif key in _TABLES:
                named += [(f"{key}.{name}", part) for name, part in parts]
        elif is_network(value):
            found.append((key_name(key), value))
    return found + named  # densecap's model has most of its nets in its net, too


def graph_nodes(module: TorchObject) -> list[tuple[str, TorchObject]]:
    """The nodes of nngraph's nn.gModule in the order in which they run; of others none."""
    listed = module.fields.get("forwardnodes")
    nodes = listed.to_list() if isinstance(listed, Table) else []
    count = len(nodes)
    shown = nodes[:_NODES_SHOWN]
    datas = [_table(node.fields, "data") for node in shown if _has_fields(node)]
    numbers = {id(data): number for number, data in enumerate(datas, start=1)}
    found = []
    for number, data in enumerate(datas, start=1):
        read = [numbers.get(id(source), "?") for source in _table(data, "mapindex").to_list()]
        name = _table(data, "annotations").get("name")
        label = f"({number})" + (f" {printable(name)}" if isinstance(name, str) else "")
        label += f" <- {', '.join(map(str, read))}" if read else ""
        part = data.get("module")
        last = number == len(datas) and count == len(shown)
        kind = part if is_network(part) else TorchObject(_node_kind(data, bool(read), last))
        found.append((label, kind))
    if count > len(shown):
        found.append(("...", TorchObject(f"and {count - len(shown)} more")))
    return found


def _table(value: Any, key: str) -> Table:
    entry = value.get(key) if isinstance(value, Table) else None
    return entry if isinstance(entry, Table) else Table()


def _node_kind(data: Table, reads: bool, last: bool) -> str:
    if "selectindex" in data:
        return f"entry {summary(data['selectindex'])}"
    if "nSplitOutputs" in data:
        return f"split in {summary(data['nSplitOutputs'])}"
    return "output" if last and reads else "pass on" if reads else "input"


def walk(network: TorchObject) -> Iterator[tuple[int, str, TorchObject, bool]]:
    """(depth, label, module, whether it was met before) of each module, in the order of print."""
    stack = [(0, "", network)]
    met: dict[int, TorchObject] = {}  # kept, or the next node of a graph has a freed one's identity
    while stack:
        depth, label, module = stack.pop()
        again = id(module) in met
        met[id(module)] = module
        yield depth, label, module, again
        if not again:
            stack += [(depth + 1, *child) for child in reversed(children(module))]


def count_parameters(network: TorchObject) -> int:
    """The number of elements that Lua trains; memory that layers share counts once."""
    tensors: list[torch.Tensor] = []
    alone = None  # the depth of a layer that trains nothing of what it holds
    for depth, _, module, _ in walk(network):
        if alone is not None and depth > alone:
            continue
        alone = depth if _trains_alone(module) else None
        tensors += (tensor for tensor in parameters(module).values() if tensor.numel())
    return count_elements(tensors)


def _trains_alone(module: TorchObject) -> bool:
    """Local and instance normalisation use fixed kernels, or a layer with copies of the weights."""
    return module.typename.endswith("Normalization") and "modules" not in module.fields


def network_lines(network: TorchObject, indent: int = 0) -> Iterator[str]:
    """The tree as Lua's print shows it, with the shapes of the parameters of each module."""
    opened: list[int] = []
    for depth, label, module, again in walk(network):
        while opened and opened[-1] >= depth:
            yield "  " * (indent + opened.pop()) + "}"
        line = "  " * (indent + depth) + (f"{label}: " if label else "")
        line += "the same " * again + describe_module(module)
        if children(module) and not again:
            line += " {"
            opened.append(depth)
        yield line + ("" if again else _shapes(module, "<-" in label))
    while opened:
        yield "  " * (indent + opened.pop()) + "}"


def _shapes(module: TorchObject, in_graph: bool) -> str:
    """The shapes of the parameters, and of a graph's parts the output that the file still holds."""
    tensors = parameters(module)
    output = module.fields.get("output")
    if in_graph and isinstance(output, torch.Tensor) and output.numel():
        tensors["output"] = output
    shapes = [f"{name} {by(tensor.shape)}" for name, tensor in tensors.items()]
    return f"   # {', '.join(shapes)}" if shapes else ""
