"""Lua nn's layers as they use memory: forward overwrites, backward reads what is there then.

Written from the Lua package nn, without autograd, to hold networks read by `to_module` against.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from eyescream_py.torch7 import TorchObject

from .class_cases import modules, node, storage

WIDTH = 4


class Layer:
    """``forward`` keeps ``output``; ``backward`` returns the gradient of the input."""

    output: Any
    grads: list[Tensor]

    def __init__(self) -> None:
        self.grads = []

    def parameters(self) -> list[Tensor]:
        return self.grads


class Linear(Layer):
    def __init__(self, inputs: int = WIDTH) -> None:
        self.weight = torch.randn(WIDTH, inputs, dtype=torch.double)
        self.bias = torch.randn(WIDTH, dtype=torch.double)
        self.grads = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def obj(self) -> TorchObject:
        return node("nn.Linear", weight=self.weight.clone(), bias=self.bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        self.output = x @ self.weight.t() + self.bias
        return self.output

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        self.grads[0] += grad.t() @ x
        self.grads[1] += grad.sum(0)
        return grad @ self.weight


# name -> value of the input; gradient by input, output and the output's gradient
PLAIN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "Tanh": (torch.tanh, lambda x, y, g: g * (1 - y * y)),
    "Sigmoid": (torch.sigmoid, lambda x, y, g: g * (1 - y) * y),
    "Square": (torch.square, lambda x, y, g: g * 2 * x),
    "Exp": (torch.exp, lambda x, y, g: g * y),
    "Abs": (torch.abs, lambda x, y, g: torch.where(x >= 0, g, -g)),
    "SoftPlus": (lambda x: x.exp().log1p(), lambda x, y, g: g * (y.exp() - 1) / y.exp()),
    "SoftSign": (lambda x: x / (1 + x.abs()), lambda x, y, g: g / (1 + x.abs()).square()),
    "SoftMax": (
        lambda x: x.softmax(1),
        lambda x, y, g: y * (g - (g * y).sum(1, keepdim=True)),
    ),
    "LogSoftMax": (
        lambda x: x.log_softmax(1),
        lambda x, y, g: g - y.exp() * g.sum(1, keepdim=True),
    ),
}


class Plain(Layer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def obj(self) -> TorchObject:
        return node(f"nn.{self.name}")

    def forward(self, x: Tensor) -> Tensor:
        self.output = PLAIN[self.name][0](x)
        return self.output

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        return PLAIN[self.name][1](x, self.output, grad)


# name -> fields, value of the input, slope by what input and output hold at the backward pass
INPLACE: dict[str, tuple[dict[str, Any], Callable[..., Tensor], Callable[..., Any]]] = {
    "ReLU": ({"threshold": 0, "val": 0}, lambda x: x.clamp(min=0), lambda x, y: x > 0),
    "Threshold": (
        {"threshold": 0.2, "val": 0.9},
        lambda x: torch.where(x > 0.2, x, 0.9),
        lambda x, y: x > 0.2,
    ),
    "LeakyReLU": (
        {"negval": 0.3},
        lambda x: torch.where(x > 0, x, 0.3 * x),
        lambda x, y: torch.where(x > 0, torch.ones_like(x), 0.3),
    ),
    "ELU": (
        {"alpha": 1},
        lambda x: torch.where(x > 0, x, x.exp() - 1),
        lambda x, y: torch.where(y <= 0, y + 1, 1),
    ),
    "HardTanh": (
        {"min_val": -0.6, "max_val": 0.7},
        lambda x: x.clamp(-0.6, 0.7),
        lambda x, y: (x > -0.6) & (x < 0.7),
    ),
    "MulConstant": ({"constant_scalar": 1.7}, lambda x: x * 1.7, lambda x, y: 1.7),
    "AddConstant": ({"constant_scalar": 0.4}, lambda x: x + 0.4, lambda x, y: 1),
    "Dropout": ({"p": 0.3}, lambda x: x * 0.7, lambda x, y: 0.7),  # of 2013, in evaluation
}
UNDO: dict[str, Callable[[Tensor], Tensor]] = {
    "MulConstant": lambda x: x.div_(1.7),
    "AddConstant": lambda x: x.sub_(0.4),
}


class Elementwise(Layer):
    def __init__(self, name: str, inplace: bool) -> None:
        super().__init__()
        self.name, self.inplace = name, inplace

    def obj(self) -> TorchObject:
        return node(f"nn.{self.name}", inplace=self.inplace, **INPLACE[self.name][0])

    def forward(self, x: Tensor) -> Tensor:
        y = INPLACE[self.name][1](x.clone())
        self.output = x.copy_(y) if self.inplace else y
        return self.output

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        slope = INPLACE[self.name][2](x, self.output)
        if not self.inplace:
            return grad * slope
        grad.mul_(slope)
        if self.name in UNDO:
            UNDO[self.name](x)
        return grad


class PassOn(Layer):
    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view

    def obj(self) -> TorchObject:
        view = node("nn.View", size=storage(WIDTH), numElements=WIDTH)
        return view if self.view else node("nn.Identity")

    def forward(self, x: Tensor) -> Tensor:
        self.output = x
        return x

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        return grad


class Sequential(Layer):
    name = "nn.Sequential"
    fields: ClassVar[dict[str, Any]] = {}

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def obj(self) -> TorchObject:
        return node(self.name, modules=modules(*(p.obj() for p in self.parts)), **self.fields)

    def parameters(self) -> list[Tensor]:
        return [grad for part in self.parts for grad in part.parameters()]

    def forward(self, x: Tensor) -> Any:
        self.output = x
        for part in self.parts:
            self.output = part.forward(self.output)
        return self.output

    def backward(self, x: Tensor, grad: Any) -> Tensor:
        inputs = [x, *(part.output for part in self.parts[:-1])]
        for part, given in zip(self.parts[::-1], inputs[::-1], strict=True):
            grad = part.backward(given, grad)
        return grad


class ConcatTable(Sequential):
    name = "nn.ConcatTable"

    def forward(self, x: Tensor) -> list[Tensor]:
        self.output = [part.forward(x) for part in self.parts]
        return self.output

    def backward(self, x: Tensor, grad: list[Tensor]) -> Tensor:
        total = None
        for part, own in zip(self.parts, grad, strict=True):
            found = part.backward(x, own)
            total = found.clone() if total is None else total.add_(found)
        assert total is not None
        return total


class Concat(ConcatTable):
    name = "nn.Concat"
    fields: ClassVar[dict[str, Any]] = {"dimension": 2}

    def forward(self, x: Tensor) -> Any:
        self.output = torch.cat(super().forward(x), 1)
        return self.output

    def backward(self, x: Tensor, grad: Any) -> Tensor:
        return super().backward(x, grad.split(WIDTH, 1))


class Sum(Layer):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def obj(self) -> TorchObject:
        return node("nn.CAddTable", inplace=self.inplace)

    def forward(self, x: list[Tensor]) -> Tensor:
        self.output = x[0] if self.inplace else x[0].clone()
        for part in x[1:]:
            self.output += part
        return self.output

    def backward(self, x: list[Tensor], grad: Tensor) -> list[Tensor]:
        return [grad if self.inplace else grad.clone() for _ in x]


class Join(Layer):
    def obj(self) -> TorchObject:
        return node("nn.JoinTable", dimension=2)

    def forward(self, x: list[Tensor]) -> Tensor:
        self.output = torch.cat(x, 1)
        return self.output

    def backward(self, x: list[Tensor], grad: Tensor) -> list[Tensor]:
        return [part.clone() for part in grad.split(WIDTH, 1)]


def random_layer(draw: random.Random, depth: int) -> Any:
    """A layer, or with ``depth`` branches that are joined again; (N,WIDTH) -> (N,WIDTH)."""
    if depth > 0 and draw.random() < 0.5:
        branches = [random_branch(draw, depth) for _ in range(draw.randint(2, 3))]
        wide = Linear(WIDTH * len(branches))
        return draw.choice([
            Sequential(ConcatTable(*branches), Sum(draw.random() < 0.7)),
            Sequential(ConcatTable(*branches), Join(), wide),
            Sequential(Concat(*branches), wide),
        ])  # fmt: skip
    kind = draw.random()
    if kind < 0.45:
        return Elementwise(draw.choice(list(INPLACE)), draw.random() < 0.75)
    if kind < 0.7:
        return Plain(draw.choice(list(PLAIN)))
    return Linear() if kind < 0.85 else PassOn(draw.random() < 0.5)


def random_branch(draw: random.Random, depth: int) -> Any:
    if draw.random() < 0.5:
        return random_layer(draw, 0)
    return Sequential(*(random_layer(draw, depth - 1) for _ in range(draw.randint(1, 3))))


def random_network(seed: int) -> Sequential:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    first = [Linear()] if draw.random() < 0.5 else []
    depth = seed % 3
    return Sequential(*first, *(random_layer(draw, depth) for _ in range(draw.randint(1, 4))))
