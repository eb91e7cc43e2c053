"""A torch module as a Python file that needs only torch and safetensors, and its weights."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import T7Error
from ..graph import GraphModule, forward_lines
from ..layers.ties import MemoryView, Tied, tie, untied
from .source_classes import ClassSources

MAX_MODULES = 20_000
_OWN = {
    "training",
    "lua_fields",
    "source",
    "_past",
    "t7_origin",
}  # not what makes a layer the one it is
_MODULE = set(nn.Module().__dict__)
_NO_VALUE: Any = object()

_TEMPLATE = '''"""{title}

The weights are in {weights}: load() returns the network, in evaluation mode.
Its inputs are {real}, but for indices.
Lists stand for Lua's tables. This file needs torch and safetensors, and nothing else.
"""

from __future__ import annotations

{imports}


{body}


def network() -> nn.Module:
    """The network, before its weights are loaded."""
    return {network}


# parts that are one and the same: name, and the name under which the weights file has them
TIED: dict[str, str] = {tied}
SHARED: dict[str, str] = {shared}


def load(path: str = "") -> nn.Module:
    """The network with its weights, in evaluation mode; "": those beside this file."""
    net, weights = network(), load_file(path or Path(__file__).parent / {path})
    net.load_state_dict({{**weights, **{{k: weights[v] for k, v in TIED.items()}}}}, assign=True)
    for name, first in SHARED.items():
        owner, _, last = name.rpartition(".")
        net.get_submodule(owner)._modules[last] = net.get_submodule(first)
    for name, first in TIED.items():
        owner, _, last = name.rpartition(".")
        source, _, part = first.rpartition(".")
        setattr(net.get_submodule(owner), last, getattr(net.get_submodule(source), part))
    return net.eval()


if __name__ == "__main__":
    print(load())
'''
_RESTORE = '''def restore(layer: nn.Module, /, buffers: Any = None, **parts: Any) -> nn.Module:
    """Give an empty layer the parts that its constructor would have made from other arguments."""
    nn.Module.__init__(layer)
    for name, part in parts.items():
        setattr(layer, name, part)
    for name, part in (buffers or {}).items():
        layer.register_buffer(name, part)
    return layer'''


def network_source(module: nn.Module, weights: str, title: str) -> str:
    """The text of a Python file that defines ``module`` and loads it from the file ``weights``.

    ``weights`` is a safetensors file with what `network_weights` returns, as seen from the folder
    of the Python file; ``title`` the first line. Raises T7Error for a layer that Python source
    cannot make, and for networks of more than MAX_MODULES layers.
    """
    writing = _Writing()
    network = writing.expression(module, 1)
    blocks = list(dict.fromkeys([*writing.classes.texts(), *writing.graphs]))
    if writing.restores:
        blocks.insert(0, _RESTORE)
        writing.classes.imports |= {"from typing import Any", "from torch import Tensor"}
    standard = {"from safetensors.torch import load_file", "from torch import nn", "import torch"}
    standard.add("from pathlib import Path")
    return _TEMPLATE.format(
        title=_in_docstring(title),
        weights=_in_docstring(weights),
        path=ascii(weights),
        real=real_type(module),
        imports=_import_lines(standard | writing.classes.imports),
        body="\n\n\n".join(blocks),
        network=network,
        tied=_dictionary(_tied(module)),
        shared=_dictionary(_shared(module)),
    )


def real_type(module: nn.Module) -> torch.dtype:
    """The type in which a network computes: Lua's are double unless their program chose another."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def network_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once, however many names it has."""
    tied = _tied(module)
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
        if name not in tied
    }


def _in_docstring(text: str) -> str:
    return "".join(c if c.isprintable() and c not in '"\\' else "_" for c in text)


def _import_lines(lines: set[str]) -> str:
    """Python's own modules first, then an empty line; what comes of one module in one line."""
    taken: dict[tuple[bool, bool, str], list[str]] = {}
    for line in lines:
        words = line.split(maxsplit=3)
        foreign = words[1].partition(".")[0] in ("torch", "safetensors")
        taken.setdefault((foreign, words[0] == "from", words[1]), []).extend(words[3:])
    groups: list[list[str]] = [[], []]
    for (foreign, is_from, home), names in sorted(taken.items()):
        text = f"from {home} import {', '.join(sorted(names))}" if is_from else f"import {home}"
        groups[foreign].append(text)
    return "\n\n".join("\n".join(group) for group in groups if group)


def _tied(module: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def _shared(module: nn.Module) -> dict[str, str]:
    """Further names of modules that are met again; of a container's parts only the container's."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    stack = [("", module)]
    while stack:
        name, part = stack.pop()
        if first.setdefault(id(part), name) != name:
            shared[name] = first[id(part)]
            continue
        prefix = f"{name}." if name else ""
        stack += [(prefix + last, child) for last, child in part._modules.items() if child][::-1]
    return shared


def _dictionary(entries: dict[str, str]) -> str:
    if not entries:
        return "{}"
    return "{\n" + "".join(f'    "{k}": "{v}",\n' for k, v in entries.items()) + "}"


class _Writing:
    """The classes that the expressions so far need."""

    def __init__(self) -> None:
        self.classes = ClassSources()
        self.graphs: list[str] = []
        self.restores = False
        self._graph_names: dict[int, str] = {}
        self._count = 0

    def expression(self, module: nn.Module, depth: int) -> str:
        """Python that makes a module; its lines after the first are indented by ``depth``."""
        self._count += 1
        if self._count > MAX_MODULES:
            raise T7Error(f"the network has more than {MAX_MODULES} layers, too many to write out")
        if isinstance(module, GraphModule):
            return f"{self._graph(module)}()"
        if isinstance(module, Tied):
            return self._tied(module, depth)
        name = self.classes.add(type(module))
        call = self._call(module, depth)
        return f"{name}({call})" if call is not None else self._restored(module, name, depth)

    def _tied(self, module: Tied, depth: int) -> str:
        plain = self.expression(untied(module), depth + 1)
        self.classes.add(MemoryView)
        views = [f'"{name}": {view!r}' for name, view in module._views.items()]
        memories = [f'"{name}": {_memory(module, name)}' for name in module._views]
        common = repr(tuple(sorted(module._common)))
        parts = [plain, "{" + ", ".join(views) + "}", "{" + ", ".join(memories) + "}", common]
        return f"{self.classes.add(tie)}({_joined(parts, depth)})"

    def _graph(self, graph: GraphModule) -> str:
        if id(graph) not in self._graph_names:
            name = f"Graph{len(self._graph_names) + 1}"
            self._graph_names[id(graph)] = name
            made = [
                f"        self.{child} = {self.expression(part, 2)}"
                for child, part in graph.named_children()
            ]
            lines = [
                f"class {name}(nn.Module):",
                f'    """{_inputs(graph)} in, {_outputs(graph)} out."""',
                "\n    def __init__(self) -> None:",
                "        super().__init__()",
                *made,
                "\n    def forward(self, x):",
                *(f"        {line}" for line in forward_lines(graph)),
            ]
            self.graphs.append("\n".join(lines))
        return self._graph_names[id(graph)]

    def _call(self, module: nn.Module, depth: int) -> str | None:
        """The arguments with which the class makes this module; None where they do not show."""
        found = arguments(module)
        if found is None:
            return None
        try:
            with torch.device("meta"):
                again = type(module)(*found[0], **found[1])
        except Exception:  # whatever a constructor says to arguments that were guessed
            return None
        if not _is_same(again, module):
            return None
        texts = [self.value(value, depth + 1) for value in found[0]]
        texts += [f"{name}={self.value(value, depth + 1)}" for name, value in found[1].items()]
        return _joined(texts, depth)

    def _restored(self, module: nn.Module, name: str, depth: int) -> str:
        self.restores = True
        parts = [f"{name}.__new__({name})"]
        if buffers := {k: v for k, v in module._buffers.items() if v is not None}:
            made = ", ".join(f'"{k}": {_zeros(v)}' for k, v in buffers.items())
            parts.append(f"buffers={{{made}}}")
        for key, value in _attributes(module).items():
            parts.append(f"{key}={self.value(value, depth + 1)}")
        if hasattr(module, "_past"):
            parts.append("_past=None")
        for key, parameter in module._parameters.items():
            parts.append(f"{key}={_parameter(parameter)}")
        children = {k: v for k, v in module._modules.items() if v is not None}
        if isinstance(module, nn.Sequential | nn.ModuleList):
            made = ", ".join(f'"{k}": {self.expression(v, depth + 1)}' for k, v in children.items())
            parts.append(f"_modules={{{made}}}")
        else:
            parts += [f"{k}={self.expression(v, depth + 1)}" for k, v in children.items()]
        return f"restore({_joined(parts, depth)})"

    def value(self, value: Any, depth: int) -> str:
        """A literal of Python, or the expression of a module."""
        if isinstance(value, nn.Module):
            return self.expression(value, depth)
        if isinstance(value, list | tuple) and any(isinstance(v, nn.Module) for v in value):
            return f"[{_joined([self.value(v, depth + 1) for v in value], depth)}]"
        return literal(value)


def _inputs(graph: GraphModule) -> str:
    return "One input" if graph.n_inputs == 1 else f"A list of {graph.n_inputs} inputs"


def _outputs(graph: GraphModule) -> str:
    count = len(graph.outputs)
    return "one output" if count == 1 else f"a list of {count} outputs"


def _joined(texts: list[str], depth: int) -> str:
    """Arguments in one line where they fit, else one a line."""
    line = ", ".join(texts)
    if len(line) + 4 * depth < 80 and "\n" not in line:
        return line
    inner, outer = "    " * (depth + 1), "    " * depth
    return "".join(f"\n{inner}{text}," for text in texts) + f"\n{outer}"


def arguments(module: nn.Module) -> tuple[list[Any], dict[str, Any]] | None:
    """What the constructor was given, by the attributes of its parameters' names.

    None where a parameter without a default has no attribute of its name.
    """
    if type(module) in (nn.Sequential, nn.ModuleList):
        children = list(module._modules.values())
        return (children, {}) if type(module) is nn.Sequential else ([children], {})
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += _spread(module, name)
            continue
        value = _argument(module, name)
        if value is _NO_VALUE and parameter.default is parameter.empty:
            return None
        if parameter.default is parameter.empty:
            positional.append(value)
        elif value is not _NO_VALUE and not _is_default(module, value, parameter.default):
            named[name] = value
    return positional, named


def _is_default(module: nn.Module, value: Any, default: Any) -> bool:
    """torch's convolutions make a pair of each number that they are given."""
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(value, tuple):
        return all(part == default for part in value)
    return _equal(value, default)


def _spread(module: nn.Module, name: str) -> list[Any]:
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return list(module._modules.values())
    value = getattr(module, name, ())
    return list(value) if isinstance(value, list | tuple) else []


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name, _NO_VALUE)
    if name == "bias" and not isinstance(value, bool):
        return value is not None
    if callable(value) and not isinstance(value, nn.Module):
        return _NO_VALUE
    return list(value) if isinstance(value, nn.ModuleList) else value


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in module.__dict__.items() if k not in _MODULE and k not in _OWN}


def _is_same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same attributes, shapes and names of children."""
    a, b = _attributes(first), _attributes(second)
    return (
        a.keys() == b.keys()
        and all(_equal(a[key], b[key]) for key in a)
        and list(first._modules) == list(second._modules)
        and _shapes(first._parameters) == _shapes(second._parameters)
        and _shapes(first._buffers) == _shapes(second._buffers)
    )


def _shapes(tensors: Any) -> dict[str, Any]:
    return {k: None if v is None else tuple(v.shape) for k, v in tensors.items()}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and not a.is_meta and a.equal(b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a is b or (type(a) in (type(b), int, float) and a == b)


def literal(value: Any) -> str:
    """Python for numbers, strings, None, small tensors, and lists, tuples and dicts of them."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(literal, value))
        ends = ("[", "]") if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
        return ends[0] + inner + ends[1]
    if isinstance(value, Tensor) and value.numel() <= 10_000:
        return f"torch.tensor({literal(value.tolist())}, dtype={value.dtype})"
    raise T7Error(f"a layer holds a {type(value).__name__}, which cannot be written as source")


def _zeros(tensor: Tensor) -> str:
    kind = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    return f"torch.zeros({literal(tuple(tensor.shape))}{kind})"


def _memory(layer: Any, name: str) -> str:
    memory = getattr(layer, f"{name}_memory")
    return _parameter(memory) if isinstance(memory, nn.Parameter) else _zeros(memory)


def _parameter(parameter: Tensor | None) -> str:
    return "None" if parameter is None else f"nn.Parameter({_zeros(parameter)})"
