"""Converters of `layers/dpnn.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..files.values import TorchObject
from ..layers import dpnn as dpnn
from .codec import Codec, Node, Plain, Writer, plain
from .weights import without_memory, write_weights


def read_inception(node: Node) -> nn.Module:
    return dpnn.InBatch(node.first_child(), 3)


def read_crop(node: Node) -> nn.Module:
    height = node.count("oheight")
    return dpnn.SpatialUniformCrop(height, node.count("owidth", height))


def write_crop(module: Any, writer: Writer) -> dict[str, Any]:
    return {"oheight": module.height, "owidth": module.width}


def read_draw(python: type[Any], name: str) -> Callable[[Node], nn.Module]:
    """A REINFORCE layer with a field ``name`` that is a number, a tensor, or missing."""

    def read(node: Node) -> nn.Module:
        value, draws = node.obj.fields.get(name), node.boolean("stochastic", False)
        if value is None or value is False:
            return python(None, draws)
        if isinstance(value, Tensor):
            return python(node.buffer(name, node.tensor(name).shape), draws)
        return python(torch.tensor(node.number(name), dtype=node.value_type()), draws)

    return read


def write_draw(name: str) -> Callable[[Any, Writer], dict[str, Any]]:
    def write(module: Any, writer: Writer) -> dict[str, Any]:
        value, draws = getattr(module, name), {"stochastic": module.stochastic}
        if value is None:
            return draws
        return {**draws, name: writer.tensor(value) if value.dim() else value.item()}

    return write


def read_simple_color(node: Node) -> nn.Module:
    return dpnn.ChannelNoise(node.buffer("range", (node.count("inputChannels"),)))


def read_pca_color(node: Node) -> nn.Module:
    channels = node.count("inputChannels")
    vectors = node.tensor("eigenVectors", (channels, channels)).reshape(channels, channels)
    values = node.tensor("eigenValues", (channels,)).reshape(channels)
    node.allowed(vectors)
    dtype = node.reader.dtype or vectors.dtype
    spread = (vectors * values).t().contiguous()  # Lua's components are the columns
    return dpnn.ChannelNoise(spread.to(dtype), node.number("std", 0.1))


def read_feat_normalization(node: Node) -> nn.Module:
    shape = (node.count("noOfFeats", node.tensor("mean").numel()),)
    return dpnn.SpatialFeatNormalization(node.buffer("mean", shape), node.buffer("std", shape))


def write_feat_normalization(module: Any, writer: Writer) -> dict[str, Any]:
    tensors = {"mean": writer.tensor(module.mean), "std": writer.tensor(module.std)}
    return {**tensors, "noOfFeats": module.mean.numel()}


def read_glimpse(node: Node) -> nn.Module:
    """Early files have one ``size`` for both sides."""
    both = node.count("size", None)
    size = node.count("height", both), node.count("width", both)
    if None in size:
        raise node.fail("the fields height and width are missing")
    depth, scale = node.count("depth", 3), node.count("scale", 2)
    shrinks = node.obj.fields.get("module")
    average = scale == 2
    if isinstance(shrinks, TorchObject):
        average = shrinks.typename == "nn.SpatialAveragePooling"
    return dpnn.SpatialGlimpse(size, depth, scale, average)


def read_nce(node: Node) -> nn.Module:
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (outputs, inputs)")
    bias, log = node.has("bias"), node.boolean("logsoftmax", False)
    normalized, k = node.boolean("normalized", False), node.count("k", 1)
    make = dpnn.NCEModule
    module: Any = without_memory(lambda: make(shape[1], shape[0], bias, log, normalized, k))
    if node.has("unigrams"):
        module.unigrams = node.buffer("unigrams", (shape[0],))
        if not (module.unigrams >= 0).all() or not 0 < module.unigrams.sum() < math.inf:
            raise node.fail("its unigrams are no likelihoods")
    elif not normalized:
        raise node.fail("the field unigrams is missing, by which it draws noise in every pass")
    if node.has("Z"):
        module.Z = node.buffer("Z", (1,))
    module.batch_noise = node.boolean("batchnoise", False)
    return node.fill(module)


def read_kmeans(node: Node) -> nn.Module:
    sizes, scale = (node.count("k"), node.count("dim")), node.number("scale", None)
    return node.fill(without_memory(lambda: dpnn.Kmeans(*sizes, scale)))


def write_kmeans(module: Any, writer: Writer) -> dict[str, Any]:
    k, dim = module.weight.shape
    counts = torch.zeros(k, dtype=writer.dtype)
    scale = {} if module.scale is None else {"scale": module.scale}
    fields = {"k": k, "dim": dim, "loss": 0, "clusterSampleCount": counts, **scale}
    return {**fields, **write_weights(module, writer)}


CODECS = [
    Codec(("Inception",), None, read_inception),
    plain("TotalDropout", dpnn.TotalDropout, Plain("p", "p", float, 0.5)),
    plain(
        "SpatialRegionDropout",
        dpnn.SpatialRegionDropout,
        Plain("p", "p", float, 0.2),
        buffers=("noise",),
    ),
    Codec(("SpatialUniformCrop",), dpnn.SpatialUniformCrop, read_crop, write_crop),
    *(
        Codec((python.__name__,), python, read_draw(python, name), write_draw(name))
        for python, name in ((dpnn.ReinforceNormal, "stdev"), (dpnn.ReinforceGamma, "scale"))
    ),
    *(
        plain(python.__name__, python, Plain("stochastic", "stochastic", bool, False))
        for python in (dpnn.ReinforceBernoulli, dpnn.ReinforceCategorical)
    ),
    Codec(
        ("CategoricalEntropy",),
        None,
        lambda node: dpnn.CategoricalEntropy(
            node.number("scale", 1.0),
            node.number("minEntropy", None),
            node.boolean("sizeAverage", True),
        ),
    ),
    Codec(("SimpleColorTransform",), None, read_simple_color),
    Codec(("PCAColorTransform",), None, read_pca_color),
    Codec(
        ("SpatialFeatNormalization",),
        dpnn.SpatialFeatNormalization,
        read_feat_normalization,
        write_feat_normalization,
    ),
    Codec(("SpatialGlimpse",), None, read_glimpse),
    plain("TemporalGlimpse", dpnn.TemporalGlimpse, Plain("size", "size", int), two_inputs=True),
    Codec(("NCEModule",), None, read_nce),
    Codec(("Kmeans",), dpnn.Kmeans, read_kmeans, write_kmeans),
]
