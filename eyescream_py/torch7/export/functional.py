"""A network without layers that overwrite memory, for ONNX, where there is none to overwrite.

torch.export turns overwriting into new values; what that leaves, and torch's ONNX exporter does not
know, is put into words that it knows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

_ATEN = torch.ops.aten


def without_memory(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The network for inputs of these shapes, in evaluation mode. Raises torch's own errors."""
    program = torch.export.export(network, inputs).run_decompositions({})
    module: Any = program.module()
    for node in list(module.graph.nodes):
        if rewrite := _REWRITES.get(node.target):
            rewrite(module.graph, node)
    module.recompile()
    module.train = lambda mode=True: module  # exporters call it; there is no other mode
    return module


def _copy(graph: fx.Graph, node: fx.Node) -> None:
    """A copy over a value is the copied one, in the value's shape."""
    shape = list(node.meta["val"].shape)
    with graph.inserting_before(node):
        new = graph.call_function(_ATEN.expand.default, (node.args[1], shape))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """Batch normalization as one value; the statistics that come with it are nobody's here."""
    x, weight, bias, mean, var, momentum, eps = node.args
    with graph.inserting_before(node):
        given = (x, weight, bias, mean, var, False, momentum, eps, False)
        new = graph.call_function(_ATEN.batch_norm.default, given)
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            user.replace_all_uses_with(new)
            graph.erase_node(user)


_REWRITES: dict[Any, Callable[[fx.Graph, fx.Node], None]] = {
    _ATEN.copy.default: _copy,
    _ATEN._native_batch_norm_legit_no_training.default: _batch_norm,
}
