"""Converters of the layers that hold weights: linear, convolution, normalisation, PReLU, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import T7Error
from ..layers.activations import PReLU
from ..layers.arithmetic import Add, CMul, Mul
from ..layers.convolution import SpatialConvolutionUpsample
from ..layers.normalization import (
    BatchNormalization,
    InstanceNormalization,
    SpatialBatchNormalization,
    VolumetricBatchNormalization,
)
from ..layers.shapes import Identity
from ..layers.volumetric import SpatialFullConvolution
from .codec import Codec, Node, Writer, long_storage

MAX_PLANES = 2**20  # of a layer that has no weights to show for them


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """torch's (height, width) of a kernel, stride, padding or dilation."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose tensors are shapes only, so that no random start weights are drawn for it."""
    with torch.device("meta"):
        return make()


def read_linear(node: Node) -> nn.Module:
    shape = node.tensor("weight").shape
    if len(shape) != 2:
        raise node.fail(f"weight has shape {tuple(shape)}, expected (outputs, inputs)")
    bias = node.has("bias")
    return node.fill(without_memory(lambda: nn.Linear(shape[1], shape[0], bias=bias)))


def write_weights(module: nn.Module, writer: Writer) -> dict[str, Any]:
    return writer.weights_of(module)


def read_planes(node: Node) -> tuple[int, int]:
    return node.count("nInputPlane"), node.count("nOutputPlane")


def read_geometry(node: Node, stride: tuple[int, int] | None = (1, 1)) -> dict[str, Any]:
    """kernel_size, stride and padding; no ``stride`` in the file: that one, or the kernel's."""
    kernel = node.count("kH"), node.count("kW")
    d_h, d_w = stride or kernel
    both = node.integer("padding", None)  # Torch's name for both before padW and padH
    pad_h, pad_w = (both, both) if both is not None else (None, None)
    return {
        "kernel_size": kernel,
        "stride": (node.count("dH", d_h), node.count("dW", d_w)),
        "padding": (
            node.integer("padH", 0) if pad_h is None else pad_h,
            node.integer("padW", 0) if pad_w is None else pad_w,
        ),
    }


def write_geometry(module: Any) -> dict[str, Any]:
    if isinstance(module.padding, str):
        raise T7Error(f"{type(module).__name__}: padding={module.padding!r} has to be a number")
    (k_h, k_w), (d_h, d_w) = pair(module.kernel_size), pair(module.stride)
    pad_h, pad_w = pair(module.padding)
    return {"kH": k_h, "kW": k_w, "dH": d_h, "dW": d_w, "padH": pad_h, "padW": pad_w}


def read_convolution(node: Node) -> nn.Module:
    """Weights may be 4-D or, in old files, 2-D; both have the elements in the same order."""
    planes = read_planes(node)
    geometry = read_geometry(node)
    dilation = node.count("dilationH", 1), node.count("dilationW", 1)
    groups, bias = node.count("groups", 1), node.has("bias")
    return node.fill(
        without_memory(
            lambda: nn.Conv2d(*planes, **geometry, dilation=dilation, groups=groups, bias=bias)
        )
    )


def write_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    if module.padding_mode != "zeros":
        raise T7Error(f"Conv2d: padding_mode={module.padding_mode!r} has no Lua class")
    return {
        "nInputPlane": module.in_channels,
        "nOutputPlane": module.out_channels,
        **write_geometry(module),
        **writer.weights_of(module),
        "finput": writer.empty(),
        "fgradInput": writer.empty(),
    }


def write_grouped(module: Any, writer: Writer) -> dict[str, Any]:
    if pair(module.dilation) != (1, 1):
        raise T7Error("Conv2d: no Lua class has both groups and dilation")
    return {**write_convolution(module, writer), "groups": module.groups}


def write_dilated(module: Any, writer: Writer) -> dict[str, Any]:
    dilation_h, dilation_w = pair(module.dilation)
    return {
        **write_convolution(module, writer),
        "dilationH": dilation_h,
        "dilationW": dilation_w,
    }


def read_full_convolution(node: Node) -> nn.Module:
    planes, geometry = read_planes(node), read_geometry(node)
    geometry["output_padding"] = node.integer("adjH", 0), node.integer("adjW", 0)
    geometry["groups"], bias = node.count("groups", 1), node.has("bias")  # cudnn's may have groups
    return node.fill(without_memory(lambda: SpatialFullConvolution(*planes, **geometry, bias=bias)))


def write_full_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    if module.groups != 1 or pair(module.dilation) != (1, 1):
        raise T7Error("ConvTranspose2d: groups and dilation have no Lua class")
    adj_h, adj_w = pair(module.output_padding)
    fields = write_convolution(module, writer)
    return {**fields, "adjH": adj_h, "adjW": adj_w, "ones": writer.empty()}


def read_upsample_convolution(node: Node) -> nn.Module:
    geometry = read_geometry(node)
    k_h, k_w = geometry["kernel_size"]
    if geometry["stride"] != (1, 1) or geometry["padding"] != ((k_h - 1) // 2, (k_w - 1) // 2):
        raise node.fail("stride and padding of this class have to be 1 and (kernel-1)/2")
    factor = node.count("factor", 2)
    in_planes, all_planes = read_planes(node)
    out_planes = node.count("nOutputPlaneU", all_planes // factor**2)
    groups = node.count("groups", 1)
    module = without_memory(
        lambda: SpatialConvolutionUpsample(
            in_planes, out_planes, k_w, k_h, factor, groups, bias=node.has("bias")
        )
    )
    return node.fill(module)


def write_upsample_convolution(module: Any, writer: Writer) -> dict[str, Any]:
    fields = write_grouped(module, writer)
    del fields["finput"], fields["fgradInput"]
    return {
        **fields,
        "factor": module.factor,
        "nInputPlaneU": module.in_channels,
        "nOutputPlaneU": module.out_planes,
    }


def read_batch_norm(python: type[nn.Module]) -> Callable[[Node], nn.Module]:
    def read(node: Node) -> nn.Module:
        shape = node.tensor("running_mean").shape
        eps, momentum = node.number("eps", 1e-5), node.number("momentum", 0.1)
        affine = node.has("weight")
        module: Any = without_memory(lambda: python(shape.numel(), eps, momentum, affine))
        if affine and not node.has("bias"):  # OpenNMT takes it away from some
            module.bias = None
        node.fill(module)
        module.running_mean = node.buffer("running_mean", shape)
        if node.has("running_std"):  # version 1 kept 1/sqrt(variance + eps)
            module.running_var = node.buffer("running_std", shape).pow(-2) - eps
        else:
            module.running_var = node.buffer("running_var", shape)
        module.num_batches_tracked = torch.tensor(0)
        return module

    return read


def write_batch_norm(module: Any, writer: Writer) -> dict[str, Any]:
    if module.running_mean is None or module.momentum is None:
        raise T7Error(f"{type(module).__name__}: Lua needs running statistics with a momentum")
    return {
        "eps": module.eps,
        "momentum": module.momentum,
        "affine": module.affine,
        "running_mean": writer.tensor(module.running_mean),
        "running_var": writer.tensor(module.running_var),
        **writer.weights_of(module),
    }


def read_instance_norm(node: Node) -> nn.Module:
    """Statistics of each image's own planes, in training and in evaluation.

    AdaIN-style's class of that name can be switched off.
    """
    if node.boolean("disabled", False):
        return Identity()
    affine = node.has("weight")
    planes = node.count("nOutput", node.tensor("weight").numel() if affine else None)
    if planes is None:
        raise node.fail("the field nOutput is missing")
    if not affine and planes > MAX_PLANES:  # they cost memory only when they are written
        raise node.fail(f"{planes} planes are more than {MAX_PLANES}")
    eps, momentum = node.number("eps", 1e-5), node.number("momentum", 0.1)
    return node.fill(without_memory(lambda: InstanceNormalization(planes, eps, momentum, affine)))


def write_instance_norm(module: Any, writer: Writer) -> dict[str, Any]:
    if module.track_running_stats:
        raise T7Error("InstanceNorm2d: Lua's class has no running statistics in evaluation")
    return {
        "nOutput": module.num_features,
        "eps": module.eps,
        "momentum": module.momentum,
        "affine": module.affine,
        "prev_batch_size": -1,
        "running_mean": torch.zeros(module.num_features, dtype=writer.dtype),
        "running_var": torch.ones(module.num_features, dtype=writer.dtype),
        **writer.weights_of(module),
    }


def read_prelu(node: Node) -> nn.Module:
    slopes = node.tensor("weight").numel()
    if node.integer("nOutputPlane", slopes if slopes > 1 else 0) == 0:
        return node.fill(without_memory(nn.PReLU))
    return node.fill(without_memory(lambda: PReLU(slopes)))


def write_prelu(module: Any, writer: Writer) -> dict[str, Any]:
    slopes = module.num_parameters
    return {"nOutputPlane": 0 if slopes == 1 else slopes, **writer.weights_of(module)}


def read_add(node: Node) -> nn.Module:
    size, scalar = node.tensor("bias").numel(), node.boolean("scalar", False)
    return node.fill(without_memory(lambda: Add(size, scalar)))


def write_add(module: Any, writer: Writer) -> dict[str, Any]:
    return {
        "scalar": module.scalar,
        "_ones": torch.ones(1, dtype=writer.dtype),
        **writer.weights_of(module),
    }


def read_cmul(node: Node) -> nn.Module:
    shape = node.tensor("weight").shape
    return node.fill(without_memory(lambda: CMul(*shape)))


def write_cmul(module: Any, writer: Writer) -> dict[str, Any]:
    return {"size": long_storage(module.weight.shape), **writer.weights_of(module)}


def read_mul(node: Node) -> nn.Module:
    return node.fill(without_memory(Mul))


def is_grouped(module: Any) -> bool:
    return module.groups > 1


def is_dilated(module: Any) -> bool:
    return pair(module.dilation) != (1, 1)


CODECS = [
    Codec(("Linear",), nn.Linear, read_linear, write_weights),
    Codec(
        ("SpatialConvolution",),
        nn.Conv2d,
        read_convolution,
        write_grouped,
        written="cudnn.SpatialConvolution",
        fits=is_grouped,
    ),
    Codec(
        ("SpatialDilatedConvolution",),
        nn.Conv2d,
        read_convolution,
        write_dilated,
        fits=is_dilated,
    ),
    Codec(
        ("SpatialConvolution", "SpatialConvolutionMM", "SpatialConvolutionCuFFT"),
        nn.Conv2d,
        read_convolution,
        write_convolution,
    ),
    Codec(
        ("SpatialFullConvolution",),
        nn.ConvTranspose2d,
        read_full_convolution,
        write_full_convolution,
    ),
    Codec(
        ("SpatialConvolutionUpsample",),
        SpatialConvolutionUpsample,
        read_upsample_convolution,
        write_upsample_convolution,
        written="cudnn.SpatialConvolutionUpsample",
    ),
    *(
        Codec((lua,), python, read_batch_norm(ours), write_batch_norm, version=version)
        for lua, python, ours, version in (
            ("BatchNormalization", nn.BatchNorm1d, BatchNormalization, 2),
            ("SpatialBatchNormalization", nn.BatchNorm2d, SpatialBatchNormalization, 2),
            ("VolumetricBatchNormalization", nn.BatchNorm3d, VolumetricBatchNormalization, 1),
        )
    ),
    Codec(("InstanceNormalization",), nn.InstanceNorm2d, read_instance_norm, write_instance_norm),
    Codec(("PReLU",), nn.PReLU, read_prelu, write_prelu),
    Codec(("Add",), Add, read_add, write_add),
    Codec(("Mul",), Mul, read_mul, write_weights),
    Codec(("CMul",), CMul, read_cmul, write_cmul),
]
