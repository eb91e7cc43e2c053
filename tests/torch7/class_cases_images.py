"""The cases of `class_cases` for the layers with weights and those on images."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .class_cases import IMAGES, LINEAR, ROWS, SCALE, Case, channels, random, storage

KERNELS, OFFSETS = random(6, 4, 3, 5, seed=2), random(6, seed=3)
PLANES = {"nInputPlane": 4, "nOutputPlane": 6, "kW": 5, "kH": 3}
WINDOW = {"kW": 2, "kH": 3, "dW": 1, "dH": 2}
SHIFT, MEAN = random(4, seed=5), random(4, seed=6)
VARIANCE = random(4, seed=7).square() + 0.5
NORM = {"weight": SCALE, "bias": SHIFT, "running_mean": MEAN, "running_var": VARIANCE}


def convolve(x: Tensor, **options: Any) -> Tensor:
    return F.conv2d(x, KERNELS, OFFSETS, **options)


def lrn(x: Tensor) -> Tensor:
    """Each channel divided by a power of the mean square over itself and its neighbours."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 1, 1))
    around = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    return x / (2 + 0.1 / 3 * around) ** 0.75


def standardise(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-3).sqrt()


WEIGHTS = [
    Case(
        "nn.Linear",
        ROWS[:, :3],
        lambda x: torch.einsum("ni,oi->no", x, LINEAR.fields["weight"]),
        {"weight": LINEAR.fields["weight"]},
    ),
    Case(
        "nn.LinearNB",
        ROWS[:, :3],
        lambda x: torch.einsum("ni,oi->no", x, LINEAR.fields["weight"]),
        {"weight": LINEAR.fields["weight"]},
    ),
    Case("nn.Add", ROWS, lambda x: x + MEAN[0], {"bias": MEAN[:1], "scalar": True}),
    Case("nn.Add", IMAGES, lambda x: x + random(4, 6, 5), {"bias": random(120)}),
    Case("nn.Mul", ROWS, lambda x: x * 3, {"weight": torch.tensor([3.0])}),
    Case("nn.CMul", IMAGES, lambda x: x * channels(SCALE), {"weight": SCALE.view(1, 4, 1, 1)}),
    Case("nn.CMul", ROWS, lambda x: x * OFFSETS, {"weight": OFFSETS, "size": storage(6)}),
    Case(
        "nn.LookupTable",
        torch.tensor([[1, 4], [2, 4]]),
        lambda x: torch.stack([ROWS[[0, 3]], ROWS[[1, 3]]]),
        {"weight": ROWS},
    ),
    Case("nn.Dictionary", torch.tensor([2, 4]), lambda x: ROWS[[1, 3]], {"weight": ROWS}),
    Case(
        "nn.SpatialConvolution",
        IMAGES,
        lambda x: convolve(x, stride=(2, 1), padding=(1, 2)),
        {**PLANES, "dW": 1, "dH": 2, "padW": 2, "padH": 1, "weight": KERNELS, "bias": OFFSETS},
    ),
    Case(
        "nn.SpatialConvolutionCuFFT",
        IMAGES,
        convolve,
        {**PLANES, "dW": 1, "dH": 1, "weight": KERNELS, "bias": OFFSETS},
    ),
    Case(
        "nn.SpatialConvolutionMM",
        IMAGES,
        lambda x: convolve(x, padding=1),
        {**PLANES, "padding": 1, "weight": KERNELS.view(6, 60), "bias": OFFSETS},
    ),
    Case(
        "cudnn.SpatialConvolution",
        IMAGES,
        lambda x: torch.cat(
            [F.conv2d(x[:, :2], KERNELS[:3, :2]), F.conv2d(x[:, 2:], KERNELS[3:, :2])], 1
        ),
        {**PLANES, "groups": 2, "weight": KERNELS[:, :2].contiguous()},
    ),
    Case(
        "nn.SpatialDilatedConvolution",
        IMAGES,
        lambda x: convolve(x, dilation=(2, 1)),
        {**PLANES, "dilationW": 1, "dilationH": 2, "weight": KERNELS, "bias": OFFSETS},
    ),
    Case(
        "nn.SpatialFullConvolution",
        random(2, 6, 4, 3),
        # The transposed convolution is the gradient of the convolution.
        lambda x: torch.nn.grad.conv2d_input((2, 4, 8, 7), KERNELS, x, (2, 1), (1, 0)),
        {
            "nInputPlane": 6,
            "nOutputPlane": 4,
            "kW": 5,
            "kH": 3,
            "dW": 1,
            "dH": 2,
            "padH": 1,
            "adjH": 1,
            "weight": KERNELS,
        },
    ),
    Case(
        "cudnn.SpatialConvolutionUpsample",
        IMAGES,
        lambda x: F.conv2d(x, random(12, 4, 3, 3), padding=1).view(2, 3, 12, 10),
        {
            "nInputPlane": 4,
            "nOutputPlane": 12,
            "nInputPlaneU": 4,
            "nOutputPlaneU": 3,
            "kW": 3,
            "kH": 3,
            "padW": 1,
            "padH": 1,
            "factor": 2,
            "weight": random(12, 4, 3, 3),
        },
    ),
    Case(
        "nn.BatchNormalization",
        random(5, 4),
        lambda x: standardise(x, (0,)) * SCALE + SHIFT,
        {**NORM, "eps": 1e-3},
        version=2,
    ),
    Case(
        "cudnn.SpatialBatchNormalization",
        IMAGES,
        lambda x: (
            (x - channels(MEAN)) / channels(VARIANCE + 1e-5).sqrt() * channels(SCALE)
            + channels(SHIFT)
        ),
        {**NORM, "train": False},
        version=2,
    ),
    Case(
        "nn.VolumetricBatchNormalization",
        IMAGES[..., None],
        lambda x: standardise(x, (0, 2, 3, 4)),
        {"running_mean": MEAN, "running_var": VARIANCE, "eps": 1e-3, "affine": False},
        version=2,
    ),
    Case(
        "nn.InstanceNormalization",
        IMAGES,
        lambda x: standardise(x, (2, 3)) * channels(SCALE) + channels(SHIFT),
        {"nOutput": 4, "eps": 1e-3, "weight": SCALE, "bias": SHIFT, "train": False},
    ),
    Case(
        "nn.InstanceNormalization",  # AdaIN-style's, switched off
        IMAGES,
        lambda x: x,
        {"nOutput": 4, "eps": 1e-3, "weight": SCALE, "bias": SHIFT, "disabled": True},
    ),
]

SPATIAL = [
    Case(
        "nn.SpatialMaxPooling",
        IMAGES,
        lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1).amax((-1, -2)),
        WINDOW,
    ),
    Case(
        "cudnn.SpatialMaxPooling",  # ceil_mode: a last window that hangs over the edge
        IMAGES,
        lambda x: F.pad(x, (0, 0, 0, 1), value=-9e9).unfold(2, 3, 2).unfold(3, 2, 1).amax((-1, -2)),
        {**WINDOW, "ceil_mode": True},
    ),
    Case(
        "nn.SpatialDilatedMaxPooling",
        IMAGES,
        lambda x: torch.maximum(x[..., :-2], x[..., 2:]),
        {"kW": 2, "kH": 1, "dW": 1, "dH": 1, "dilationW": 2, "dilationH": 1},
    ),
    Case(
        "nn.SpatialAveragePooling",
        IMAGES,
        lambda x: F.pad(x, (1, 1)).unfold(2, 3, 2).unfold(3, 2, 1).mean((-1, -2)),
        {**WINDOW, "padW": 1, "divide": True},
    ),
    Case(
        "nn.SpatialAveragePooling",
        IMAGES,
        lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1).sum((-1, -2)),
        {**WINDOW, "divide": False},
    ),
    Case(
        "nn.SpatialAdaptiveMaxPooling",
        IMAGES,
        lambda x: x.view(2, 4, 3, 2, 5).amax((3, 4))[..., None],
        {"W": 1, "H": 3},
    ),
    Case(
        "nn.SpatialAdaptiveAveragePooling",
        IMAGES,
        lambda x: x.view(2, 4, 3, 2, 5).mean((3, 4))[..., None],
        {"W": 1, "H": 3},
    ),
    Case(
        "nn.SpatialZeroPadding",
        IMAGES,
        lambda x: torch.cat([torch.zeros(2, 4, 6, 2), x[..., :-1]], 3),
        {"pad_l": 2, "pad_r": -1, "pad_t": 0, "pad_b": 0},
    ),
    Case(
        "nn.SpatialReflectionPadding",
        IMAGES,
        lambda x: x[..., [1, 0, 1, 2, 3, 4]],
        {"pad_l": 1, "pad_r": 0, "pad_t": 0, "pad_b": 0},
    ),
    Case(
        "nn.SpatialReplicationPadding",
        IMAGES,
        lambda x: x[..., [0, 0, 1, 2, 3, 4]],
        {"pad_l": 1, "pad_r": 0, "pad_t": 0, "pad_b": 0},
    ),
    Case(
        "nn.SpatialUpSamplingNearest",
        IMAGES[0],
        lambda x: x.repeat_interleave(3, 1).repeat_interleave(3, 2),
        {"scale_factor": 3},
    ),
    Case(
        "nn.SpatialUpSamplingBilinear",
        torch.tensor([[[0.0, 3.0]]]),
        lambda x: torch.tensor([[[0.0, 1.0, 2.0, 3.0]] * 2]),
        {"scale_factor": 2},
    ),
    Case(
        "nn.PixelShuffle",
        IMAGES,
        lambda x: x.view(2, 2, 2, 6, 5).permute(0, 3, 1, 4, 2).reshape(2, 1, 12, 10),
        {"upscaleFactor": 2},
    ),
    Case("cudnn.SpatialCrossMapLRN", IMAGES, lrn, {"size": 3, "alpha": 0.1, "beta": 0.75, "k": 2}),
]

IMAGE_CASES = [*WEIGHTS, *SPATIAL]
