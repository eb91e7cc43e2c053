"""Readers of `layers/facebook.py`: fairseq-lua's convolutional model, and fbnn."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..files.classes import lua_class
from ..files.values import Table
from ..layers import facebook
from ..layers.arithmetic import Normalize
from ..layers.containers import MM
from ..layers.pooling import SpatialUpSamplingNearest
from ..layers.simple import Constant
from ..layers.stochastic import Dropout
from ..layers.temporal import TemporalConvolution
from .codec import Node
from .linear import shape_of
from .registry import register
from .weights import read_linear, without_memory


def build_time_first(node: Node) -> nn.Module:
    sizes = node.count("nIn"), node.count("nOut"), node.count("kw"), node.integer("pad", 0)
    return node.fill(without_memory(lambda: facebook.TemporalConvolutionTBC(*sizes)))


def build_unfolded(node: Node) -> nn.Module:
    frames = node.count("inputFrameSize"), node.count("outputFrameSize")
    sizes = *frames, node.count("kW"), 1, node.integer("pad", 0), node.has("bias")
    return node.fill(without_memory(lambda: TemporalConvolution(*sizes)))


def build_weighted_lookup(node: Node) -> nn.Module:
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (indices, outputs)")
    make: Any = facebook.WeightedLookupTable
    return node.fill(without_memory(lambda: make(*shape, node.integer("paddingValue", 0))))


def build_lookup(node: Node) -> nn.Module:
    """fbcunn's LookupTableGPU, and FasterLookup of fbnn."""
    shape = shape_of(node, "weight", 2)
    by_freq, second = node.boolean("scaleGradByFreq", False), node.boolean("featuresInDim2", False)
    make: Any = facebook.LookupTableGPU
    module = without_memory(lambda: make(*shape, 0, by_freq, second))
    return node.fill(module)


def build_leaky_relu(node: Node) -> nn.Module:
    if node.tensor("weight").numel() != 1:
        raise node.fail("the field weight is no single slope")
    return node.fill(without_memory(facebook.LeakyReLU))


def build_locally_connected(node: Node) -> nn.Module:
    """On a GPU Lua kept the weights in another order, and so did files from there."""
    planes, made = node.count("nInputPlane"), node.count("nOutputPlane")
    kernel, image = ([node.count(f"{kind}{side}") for side in "HW"] for kind in "ki")
    stride = node.count("dH", 1), node.count("dW", 1)
    if kernel[0] > image[0] or kernel[1] > image[1]:
        raise node.fail(f"kernels of {kernel} are larger than images of {image}")
    places = [(n - k) // s + 1 for n, k, s in zip(image, kernel, stride, strict=True)]
    shapes = [(made, *places, planes, *kernel), (*places, *kernel, made, planes)]
    shape = tuple(node.tensor("weight").shape)
    if shape not in shapes:
        raise node.fail(f"weight has shape {shape}, expected {shapes[0]}")
    on_gpu = lua_class(node.tensor("weight"))[0].startswith("torch.Cuda")
    interleaved = shape == shapes[1] and (on_gpu or shape != shapes[0])
    bias = node.parameter("bias", (*places, made) if interleaved else (made, *places))
    return facebook.LocallyConnected(node.parameter("weight"), bias, stride, interleaved)


def as_kind(python: type[nn.Linear]) -> Any:
    """The reader of a class with a Linear's fields."""

    def build(node: Node) -> nn.Module:
        plain: Any = read_linear(node)
        if plain.bias is None:
            raise node.fail("the field bias is missing")
        module: Any = without_memory(lambda: python(plain.in_features, plain.out_features))
        module.weight, module.bias = plain.weight, plain.bias
        return module

    return build


def build_train_test(node: Node) -> nn.Module:
    """The layers for training, of whose weights those for single steps are copies."""
    listed = node.obj.fields.get("modules")
    first = listed.get(1) if isinstance(listed, Table) else None
    return node.reader.module(first, f"{node.place} > (1)")


def build_matrix_product(node: Node) -> nn.Module:
    """Its beams only make decoding faster in Lua."""
    turned = node.boolean("transA", False), node.boolean("transB", False)
    return MM(*turned)


def register_facebook() -> None:
    _register_fairseq()
    fbnn = facebook
    register("nn.UnfoldedTemporalConvolution", build_unfolded)
    register("nn.WeightedLookupTable", build_weighted_lookup)
    register("nn.LinearNoBackprop", as_kind(fbnn.LinearNoBackprop))
    register("fbnn.NormalizedLinearNoBias", as_kind(fbnn.NormalizedLinear))
    name = "fbnn.ProjectiveGradientNormalization"
    register(name, lambda node: fbnn.ProjectiveGradientNormalization())
    for name in ("nn.LookupTableGPU", "nn.FasterLookup"):
        register(name, build_lookup)
    register("fbnn.LeakyReLU", build_leaky_relu)
    register("nn.LocallyConnected", build_locally_connected)
    register("fbnn.NestedDropout", lambda node: fbnn.NestedDropout(node.number("p", 0.01)))
    register("fbnn.L2Normalize", lambda node: Normalize(2, 0))
    register("fbnn.Dropout", lambda node: Dropout(node.number("p", 0.5), scaled=False))
    register(
        "fbnn.IndividualDropout",
        lambda node: fbnn.IndividualDropout(node.buffer("p", (node.tensor("p").numel(),))),
    )
    register("fbnn.Probe", Node.first_child)
    register(
        "fbnn.Constant",
        lambda node: Constant(node.buffer("value", node.tensor("value").shape), 0),
    )
    register("nn.Upsample", lambda node: SpatialUpSamplingNearest(node.count("factor")))


def _register_fairseq() -> None:
    fairseq = facebook
    register("nn.TemporalConvolutionTBC", build_time_first)
    register("nn.AppendBias", lambda node: fairseq.AppendBias())
    register(
        "nn.CAddTableMulConstant",
        lambda node: fairseq.CAddTableMulConstant(node.number("constant_scalar")),
    )
    register("nn.SeqMultiply", lambda node: fairseq.SeqMultiply())
    register("nn.ZipAlong", lambda node: fairseq.ZipAlong())
    register(
        "nn.GradMultiply",
        lambda node: fairseq.GradMultiply(node.first_child(), node.number("factor")),
    )
    register("nn.BeamableMM", build_matrix_product)
    for name in ("nn.TrainTestLayer", "nn.ConvBlockTrainTestLayer"):
        register(name, build_train_test)
