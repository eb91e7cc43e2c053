"""Objects made as Lua's constructors make them, and separate formulas of what they compute."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eyescream_py.torch7 import Storage, Table, TorchObject, to_module


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def storage(*sizes: int) -> Storage:
    return Storage(torch.tensor(sizes))


def tables(*pairs: tuple[int, int]) -> Table:
    return Table.from_list(Table.from_list(pair) for pair in pairs)


def node(name: str, **fields: Any) -> TorchObject:
    return TorchObject(name, Table(fields))


def modules(*children: TorchObject) -> Table:
    return Table.from_list(children)


def linear(outputs: int = 2, inputs: int = 3, **fields: Any) -> TorchObject:
    tensors = {"weight": torch.randn(outputs, inputs), "bias": torch.randn(outputs)}
    return TorchObject("nn.Linear", Table(**{**tensors, **fields}))


def sequential(*children: Any, typename: str = "nn.Sequential") -> TorchObject:
    return TorchObject(typename, Table(modules=Table.from_list(children)))


def run(name: str, x: Any, **fields: Any) -> Any:
    return to_module(node(name, **fields), dtype=None).eval()(x)


def same(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype))


LINEAR = node("nn.Linear", weight=random(2, 3), bias=random(2))
SQUARE = node("nn.Square")
ROWS = random(4, 6)
IMAGES = random(2, 4, 6, 5)
PAIR = [ROWS, random(4, 6, seed=1)]
SCALE = random(4, seed=4)


@dataclass
class Case:
    """An object's class and fields, an input, and what the output has to be."""

    name: str
    x: Any
    expected: Callable[[Any], Any]
    fields: dict[str, Any] = field(default_factory=dict)
    version: int = 1


def channels(values: Tensor) -> Tensor:
    return values[:, None, None]


def depth_concat(x: Tensor) -> Tensor:
    return torch.cat([x.square(), F.pad(F.max_pool2d(x, 3, 1), (1, 1, 1, 1))], 1)


def shrink(x: Tensor) -> Tensor:
    return torch.where(x > 0.3, x - 0.3, torch.where(x < -0.3, x + 0.3, 0.0))


ACTIVATIONS = [
    Case("nn.ReLU", ROWS, lambda x: x.clamp(min=0), {"inplace": True, "threshold": 0, "val": 0}),
    Case("cudnn.ReLU", ROWS, lambda x: x.clamp(min=0)),
    Case("nn.ReLU6", 5 * ROWS, lambda x: x.clamp(0, 6)),
    Case(
        "nn.Threshold", ROWS, lambda x: torch.where(x > 0.2, x, -1.0), {"threshold": 0.2, "val": -1}
    ),
    Case("nn.LeakyReLU", ROWS, lambda x: torch.where(x > 0, x, 0.1 * x), {"negval": 0.1}),
    Case("LeakyReLU", ROWS, lambda x: torch.where(x > 0, x, 0.3 * x), {"negative_scale": 0.3}),
    Case("nn.ELU", ROWS, lambda x: torch.where(x > 0, x, 2 * (x.exp() - 1)), {"alpha": 2}),
    Case(
        "nn.RReLU",
        ROWS,
        lambda x: torch.where(x > 0, x, 0.3 * x),
        {"lower": 0.2, "upper": 0.4, "train": False},
    ),
    Case(
        "nn.PReLU", ROWS, lambda x: torch.where(x > 0, x, 0.7 * x), {"weight": torch.tensor([0.7])}
    ),
    Case(
        "nn.PReLU",
        IMAGES,
        lambda x: torch.where(x > 0, x, channels(SCALE) * x),
        {"weight": SCALE, "nOutputPlane": 4},
    ),
    Case("cudnn.ClippedReLU", 5 * ROWS, lambda x: x.clamp(0, 3), {"ceiling": 3}),
    Case("nn.Sigmoid", ROWS, lambda x: 1 / (1 + (-x).exp())),
    Case("nn.Tanh", ROWS, lambda x: 1 - 2 / ((2 * x).exp() + 1)),
    Case("nn.TanhShrink", ROWS, lambda x: x - x.tanh()),
    Case("nn.SoftPlus", ROWS, lambda x: (1 + (2 * x).exp()).log() / 2, {"beta": 2}),
    Case("nn.SoftSign", ROWS, lambda x: x / (1 + x.abs())),
    Case("nn.HardTanh", ROWS, lambda x: x.clamp(-0.5, 1), {"min_val": -0.5}),
    Case("nn.Clamp", ROWS, lambda x: x.clamp(-0.5, 0.2), {"min_val": -0.5, "max_val": 0.2}),
    Case("nn.LogSigmoid", ROWS, lambda x: -(1 + (-x).exp()).log()),
    Case("nn.SoftShrink", ROWS, shrink, {"lambda": 0.3}),
    Case("nn.HardShrink", ROWS, lambda x: x * (x.abs() > 0.3), {"lambda": 0.3}),
    Case("nn.SoftMax", ROWS, lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
    Case("nn.SpatialSoftMax", IMAGES[0], lambda x: x.exp() / x.exp().sum(0)),
    Case("nn.SoftMin", ROWS, lambda x: (-x).exp() / (-x).exp().sum(1, keepdim=True)),
    Case("nn.LogSoftMax", ROWS, lambda x: x - x.exp().sum(1, keepdim=True).log()),
    Case("cudnn.SpatialLogSoftMax", IMAGES, lambda x: x - x.exp().sum(1, keepdim=True).log()),
]

ARITHMETIC = [
    Case("nn.Identity", ROWS, lambda x: x),
    Case("nn.Contiguous", ROWS, lambda x: x),
    Case("nn.Copy", ROWS, lambda x: x),
    Case("nn.Abs", ROWS, lambda x: torch.where(x < 0, -x, x)),
    Case("nn.Square", ROWS, lambda x: x * x),
    Case("nn.Sqrt", ROWS.abs(), lambda x: x**0.5, {"eps": 0.5}),  # which Lua ignores
    Case("nn.Power", ROWS, lambda x: x * x * x, {"pow": 3}),
    Case("nn.Exp", ROWS, lambda x: torch.e**x),
    Case("nn.Log", ROWS.abs(), lambda x: x.log2() * 0.6931471805599453),
    Case("nn.MulConstant", ROWS, lambda x: x + x, {"constant_scalar": 2, "inplace": True}),
    Case("nn.AddConstant", ROWS, lambda x: x + 2, {"constant_scalar": 2}),
    Case("nn.ReinforceGamma", ROWS, lambda x: x + x, {"scale": 2, "train": False}),
    Case("nn.Normalize", ROWS, lambda x: x / x.square().sum(1, keepdim=True).sqrt(), {"p": 2}),
    Case(
        "nn.Normalize",
        ROWS,
        lambda x: x / x.abs().max(1, keepdim=True).values,
        {"p": float("inf")},
    ),
    Case("nn.Mean", IMAGES, lambda x: x.sum(2) / 6, {"dimension": 2, "nInputDims": 3}),
    Case("nn.Max", IMAGES, lambda x: x.amax(3), {"dimension": 4}),
    Case("nn.Min", IMAGES, lambda x: -(-x).amax(1), {"dimension": -3}),
    Case("nn.Sum", ROWS, lambda x: x @ torch.ones(6), {"dimension": 2}),
    Case(
        "nn.Sum",
        ROWS,
        lambda x: x @ torch.full((6, 1), 1 / 6),
        {"dimension": 2, "sizeAverage": True, "squeeze": False},
    ),
    Case("nn.Dropout", ROWS, lambda x: x, {"p": 0.5, "v2": True, "train": False}),
    Case("nn.Dropout", ROWS, lambda x: x * 0.8, {"p": 0.2, "train": False}),
    Case("nn.SpatialDropout", IMAGES, lambda x: x * 0.8, {"p": 0.2, "train": False}),
    Case("nn.WhiteNoise", ROWS, lambda x: x + 3, {"mean": 3, "std": 1, "train": False}),
]

TABLES = [
    Case("nn.CAddTable", [*PAIR, ROWS], lambda x: torch.stack(x).sum(0), {"inplace": True}),
    Case("nn.CMulTable", [*PAIR, ROWS], lambda x: torch.stack(x).prod(0)),
    Case("nn.CSubTable", PAIR, lambda x: -x[1] + x[0]),
    Case("nn.CDivTable", PAIR, lambda x: x[0] * (1 / x[1])),
    Case("nn.CMaxTable", PAIR, lambda x: torch.where(x[0] > x[1], x[0], x[1])),
    Case("nn.CMinTable", PAIR, lambda x: torch.where(x[0] < x[1], x[0], x[1])),
    Case("nn.DotProduct", PAIR, lambda x: torch.einsum("nf,nf->n", *x)),
    Case("nn.CosineDistance", PAIR, lambda x: F.cosine_similarity(*x)),
    Case("nn.PairwiseDistance", PAIR, lambda x: (x[0] - x[1]).abs().sum(1), {"norm": 1}),
    Case("nn.JoinTable", PAIR, lambda x: torch.hstack(x), {"dimension": 1, "nInputDims": 1}),
    Case("nn.SplitTable", ROWS, lambda x: [x[:, i] for i in range(6)], {"dimension": 2}),
    Case("nn.SelectTable", PAIR, lambda x: x[1], {"index": -1}),
    Case("nn.NarrowTable", [*PAIR, ROWS], lambda x: [x[1], x[2]], {"offset": 2, "length": 2}),
    Case("nn.FlattenTable", [ROWS, PAIR], lambda x: [x[0], x[1][0], x[1][1]]),
]

SHAPES = [
    Case("nn.View", ROWS, lambda x: x.reshape(4, 3, 2), {"size": storage(3, 2), "numElements": 6}),
    Case("nn.View", ROWS, lambda x: x, {"size": storage(-1), "numInputDims": 1, "numElements": 1}),
    Case("nn.Reshape", ROWS, lambda x: x.reshape(4, 3, 2), {"size": storage(3, 2)}),
    Case("nn.Reshape", ROWS, lambda x: x.ravel(), {"size": storage(24), "batchMode": False}),
    Case("nn.Narrow", ROWS, lambda x: x[:, 1:3], {"dimension": 2, "index": 2, "length": 2}),
    Case("nn.Select", IMAGES, lambda x: x[:, 2], {"dimension": 2, "index": 3}),
    Case("nn.Squeeze", ROWS[:, None], lambda x: x[:, 0]),
    Case("nn.Squeeze", ROWS[:, None], lambda x: x[:, 0], {"dim": 1, "numInputDims": 2}),
    Case("nn.Unsqueeze", ROWS, lambda x: x[:, None], {"pos": 1, "numInputDims": 1}),
    Case(
        "nn.Transpose", IMAGES, lambda x: x.movedim(1, -1), {"permutations": tables((2, 3), (3, 4))}
    ),
    Case("nn.Replicate", ROWS, lambda x: torch.stack([x] * 3, 1), {"nfeatures": 3, "dim": 2}),
    Case(
        "nn.Padding",
        ROWS,
        lambda x: torch.cat([torch.full((4, 2), 9.0), x], 1),
        {"dim": 1, "pad": -2, "nInputDim": 1, "value": 9, "index": 1},
    ),
]

CONTAINERS = [
    Case("nn.Sequential", ROWS, lambda x: x**4, {"modules": modules(SQUARE, SQUARE)}),
    Case("nn.SpatialLPPooling", ROWS, lambda x: x**4, {"modules": modules(SQUARE, SQUARE)}),
    Case(
        "nn.ConcatTable",
        ROWS[:, :3],
        lambda x: [x**2, x @ LINEAR.fields["weight"].T + LINEAR.fields["bias"]],
        {"modules": modules(SQUARE, LINEAR)},
    ),
    Case(
        "nn.ParallelTable",
        PAIR,
        lambda x: [x[0] ** 2, x[1]],
        {"modules": modules(SQUARE, node("nn.Copy"))},
    ),
    Case(
        "nn.Concat",
        ROWS,
        lambda x: torch.hstack([x**2, x]),
        {"dimension": 2, "modules": modules(SQUARE, node("nn.Identity"))},
    ),
    *(
        Case(
            f"nn.{name}",
            ROWS,
            lambda x: torch.hstack([x**2, x]),
            {"dimension": 2, "modules": modules(SQUARE, node("nn.Copy"))},
        )
        for name in ("ModelParallel", "ModelParallelTable")
    ),
    Case(
        "nn.SequentialSplitBatch",
        ROWS,
        lambda x: x**4,
        {"batch_size": 3, "modules": modules(SQUARE, SQUARE)},
    ),
    Case(
        "nn.DepthConcat",
        IMAGES,
        depth_concat,
        {
            "dimension": 2,
            "modules": modules(SQUARE, node("nn.SpatialMaxPooling", kW=3, kH=3, dW=1, dH=1)),
        },
    ),
    *(
        Case(f"nn.{name}", ROWS, lambda x: x**2, {"modules": modules(SQUARE)})
        for name in (
            "Decorator",
            "DontCast",
            "NoBackprop",
            "GPU",
            "DataParallelTable",
            "DataParallel",
            "ReverseUnreverse",
        )
    ),
]

PLAIN_CASES = [*ACTIVATIONS, *ARITHMETIC, *TABLES, *SHAPES, *CONTAINERS]
