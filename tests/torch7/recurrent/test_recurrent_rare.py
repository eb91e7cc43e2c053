"""rnn's Grid2DLSTM, and its sequence layers of normed weights, by their Lua sources, in numpy."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyescream_py.torch7 import from_module, load, save, to_module
from eyescream_py.torch7.graph import GraphModule, GraphNode
from eyescream_py.torch7.layers.shapes import Narrow
from eyescream_py.torch7.layers.tables import CAddTable, CMulTable

from ..class_cases import modules, node, random, same

T, N, D, H, R = 4, 3, 5, 4, 2  # steps, batch, inputs, hidden, projected


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(gates: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cell and output of gates in the order input, forget, output, new."""
    i, f, o, new = np.split(gates, 4, 1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(new)
    return cell, sigmoid(o) * np.tanh(cell)


def normed(v: np.ndarray, g: np.ndarray) -> np.ndarray:
    return v * g / np.sqrt((v**2).sum(0, keepdims=True))


def normed_lstm(x: np.ndarray, out: int, fields: dict[str, Any]) -> np.ndarray:
    v, g = fields["v"].numpy(), fields["g"].numpy()
    weight = np.concatenate([normed(v[:D], g[:1]), normed(v[D:], g[1:])])
    h, cell, outputs = np.zeros((N, out)), np.zeros((N, H)), []
    for step in x:
        cell, h = lstm(np.concatenate([step, h], 1) @ weight + fields["bias"].numpy(), cell)
        h = h @ normed(fields["vO"].numpy(), fields["gO"].numpy()) if "vO" in fields else h
        outputs.append(h)
    return np.stack(outputs)


def normed_gru(x: np.ndarray, out: int, fields: dict[str, Any]) -> np.ndarray:
    v, g, bias = (fields[name].numpy() for name in ("v", "g", "bias"))
    w_x, w_h = normed(v[:D], g[:1]), normed(v[D:], g[1:])
    h, outputs = np.zeros((N, H)), []
    for step in x:
        gates = step @ w_x + bias
        r = sigmoid(gates[:, :H] + h @ w_h[:, :H])
        u = sigmoid(gates[:, H : 2 * H] + h @ w_h[:, H : 2 * H])
        new = np.tanh(gates[:, 2 * H :] + (r * h) @ w_h[:, 2 * H :])
        h = (1 - u) * new + u * h
        outputs.append(h)
    return np.stack(outputs)


def normed_fields(out: int, gates: int, projects: bool) -> dict[str, Any]:
    columns = gates * H
    fields = {
        "weight": random(D + out, columns),  # stale: of before the last step of training
        "v": random(D + out, columns, seed=1),
        "g": random(2, columns, seed=2).abs() + 0.5,
        "bias": random(columns, seed=3),
    }
    if projects:
        fields |= {"weightO": random(H, out), "vO": random(H, out, seed=4)}
        fields["gO"] = random(1, out, seed=5).abs() + 0.5
    return {name: tensor.double() for name, tensor in fields.items()}


SIZES = {"inputsize": D, "hiddensize": H, "inputSize": D, "outputSize": H}
KINDS = [
    ("SeqLSTM_WN", 4, H, normed_lstm),
    ("SeqLSTMP_WN", 4, R, normed_lstm),
    ("SeqGRU_WN", 3, H, normed_gru),
]


@pytest.mark.parametrize(("name", "gates", "out", "formula"), KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_normed_weights(name: str, gates: int, out: int, formula: Any, batch_first: bool) -> None:
    fields = normed_fields(out, gates, name == "SeqLSTMP_WN")
    made = {**SIZES, "outputsize": out, "batchfirst": batch_first, "_remember": "neither"}
    layer: Any = to_module(node(f"nn.{name}", **made, **fields), None)
    assert [n for n, _ in layer.named_parameters()][:3] == ["g", "v", "bias"]
    x = random(T, N, D, seed=6).double()
    given = x.transpose(0, 1) if batch_first else x
    expected = formula(x.numpy(), out, fields)
    expected = expected.swapaxes(0, 1) if batch_first else expected
    written = to_module(load(save(None, from_module(layer))), None)
    for opened in (layer, copy.deepcopy(layer), written):
        same(opened(given).detach(), expected)
    layer(given).square().sum().backward()
    for key in ("g", "v", "bias", *(["gO", "vO"] if out == R else [])):
        slope = layer.get_parameter(key).grad
        place = tuple(n // 2 for n in fields[key].shape)
        losses = []
        for step in (1e-6, -1e-6):
            moved = {**fields, key: fields[key].clone()}
            moved[key][place] += step
            losses.append((formula(x.numpy(), out, moved) ** 2).sum())
        assert slope[place].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


class Builder:
    """A graph, node by node."""

    def __init__(self, inputs: int) -> None:
        self.nodes = [GraphNode(()), *(GraphNode((0,), select=1 + i) for i in range(inputs))]
        self.children: dict[str, nn.Module] = {}

    def add(self, module: nn.Module, *sources: int) -> int:
        name = f"m{len(self.nodes)}"
        self.children[name] = module
        self.nodes.append(GraphNode(sources, name))
        return len(self.nodes) - 1

    def lstm(self, a: int, b: int, cell: int) -> tuple[int, int]:
        total = self.add(CAddTable(), a, b)
        i, f, o, new = (self.add(Narrow(2, 1 + H * k, H), total) for k in range(4))
        kept = self.add(CMulTable(), self.add(nn.Sigmoid(), f), cell)
        put = self.add(CMulTable(), self.add(nn.Sigmoid(), i), self.add(nn.Tanh(), new))
        cell = self.add(CAddTable(), kept, put)
        return cell, self.add(CMulTable(), self.add(nn.Sigmoid(), o), self.add(nn.Tanh(), cell))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_grid_of_steps_and_layers(layers: int) -> None:
    def linear() -> nn.Linear:
        return nn.Linear(H, 4 * H).double()

    tied, graph = (linear(), linear()), Builder(2 + 2 * layers)
    in_time = [(linear(), linear()) for _ in range(layers)]
    c_d, h_d, outputs = 1, 2, []
    for layer, (of_time, of_depth) in enumerate(in_time):
        a, b = graph.add(of_time, 4 + 2 * layer), graph.add(of_depth, h_d)
        c_t, h_t = graph.lstm(a, b, 3 + 2 * layer)
        outputs += [c_t, h_t]
        c_d, h_d = graph.lstm(graph.add(tied[0], h_t), graph.add(tied[1], h_d), c_d)
    inputs = 2 + 2 * layers
    step = from_module(GraphModule(graph.nodes, graph.children, [*outputs, h_d], inputs))
    fields = {"nb_layers": layers, "outputSize": H, "rho": 99, "recurrentModule": step}
    net: Any = to_module(node("nn.Grid2DLSTM", **fields, modules=modules(step)), None)
    x = random(T, N, H, seed=7).double()

    def apply(linear: nn.Linear, value: np.ndarray) -> np.ndarray:
        return value @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()

    states = [(np.zeros((N, H)), np.zeros((N, H))) for _ in range(layers)]
    expected = []
    for value in x.numpy():
        cell, h = np.zeros((N, H)), value
        for layer, (of_time, of_depth) in enumerate(in_time):
            c_t, h_t = states[layer]
            states[layer] = lstm(apply(of_time, h_t) + apply(of_depth, h), c_t)
            cell, h = lstm(apply(tied[0], states[layer][1]) + apply(tied[1], h), cell)
        expected.append(h)
    for again in (net, to_module(load(save(None, from_module(net))), None)):
        for value, wanted in zip(x, expected, strict=True):
            same(again(value).detach(), wanted)
        again.forget()
        same(again(x[0]).detach(), expected[0])
    steps = node("nn.Sequencer", module=node("nn.Grid2DLSTM", **fields), _remember="neither")
    sequence = to_module(steps, None).train()
    same(torch.stack(list(sequence(list(x)))).detach(), np.stack(expected))


def cell(inputs: int, hidden: int) -> Any:
    """rnnlib's cells: {last output, input} -> {output, output}, of tanh."""
    nodes = [GraphNode(()), GraphNode((0,), select=1), GraphNode((0,), select=2)]
    nodes += [GraphNode((1,), "h"), GraphNode((2,), "x"), GraphNode((3, 4), "sum")]
    nodes += [GraphNode((5,), "out")]
    layers = {"h": nn.Linear(hidden, hidden), "x": nn.Linear(inputs, hidden, bias=False)}
    children = {**layers, "sum": CAddTable(), "out": nn.Tanh()}
    return from_module(GraphModule(nodes, children, [6, 6], 2))


def test_rnnlib_runs_steps_within_layers() -> None:
    """{states of the layers, steps} -> {states, by layer and step; outputs, by layer and step}."""
    cells = [cell(D, H), cell(H, R)]
    clones = [modules(one, from_module(to_module(one))) for one in cells]
    layers = [node("nn.RecurrentTable", dim=2, modules=listed) for listed in clones]
    net: Any = to_module(node("nn.SequenceTable", dim=1, modules=modules(*layers)))
    assert len(list(net.parameters())) == 6
    first, second = random(N, H).requires_grad_(), random(N, R, seed=1).requires_grad_()
    steps = list(random(T, N, D, seed=2))
    for again in (net, to_module(load(save(None, from_module(net))))):
        states, outputs = again([[first, second], steps])
        values, before = steps, [first, second]
        for number, weights in enumerate(to_module(one) for one in cells):
            h, made = before[number].detach().numpy(), []
            for value in values:
                into = np.asarray(value) @ weights.linear_2.weight.detach().numpy().T
                bias = weights.linear_1.bias.detach().numpy()
                h = np.tanh(h @ weights.linear_1.weight.detach().numpy().T + bias + into)
                made.append(h)
            same(torch.stack(states[number]).detach(), np.stack(made))
            same(torch.stack(outputs[number]).detach(), np.stack(made))
            values = made
    assert not any(state.requires_grad for layer in states for state in layer[:-1])  # as in Lua
    states[0][-1].sum().backward()
    assert first.grad is not None
    assert second.grad is None
    with pytest.raises(ValueError, match="3 entries for 2 modules"):
        net([[first, second, first], steps])


def test_a_dropout_of_whole_sequences() -> None:
    layer: Any = to_module(node("nn.SeqDropout", p=0.5, v2=True, train=True))
    x = torch.ones(4, 50, 3)
    y = layer(x)
    assert set(y.unique().tolist()) == {0, 2}
    assert all(torch.equal(part, y[0]) for part in y)
    assert torch.equal(layer.eval()(x), x)
    old: Any = to_module(node("nn.SeqDropout", p=0.5, train=False))
    assert torch.equal(old(x), x / 2)
    assert from_module(layer, as_read=False).typename == "nn.SeqDropout"
