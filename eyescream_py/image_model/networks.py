"""The five generators, the discriminator, and the encoder and decoder of the semi-supervised model.

Layers follow TensorFlow 1 as the seed used it: SAME padding, Glorot-uniform kernels, zero biases,
leaky ReLU with slope 0.01, normalisation (when on) between layer and activation, that of batches on
output and dense layers too, as there. All networks map (N, C, S, S) to (N, C, S, S) or to (N, K)
scores; S must be a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 32
NOISE = 100
NU_LIMIT = 512  # pixels; its dense layer has about S^4/256 weights, 270 million there
M = TypeVar("M", bound=nn.Module)


def _normalisation(norm: str, planes: int) -> nn.Module:
    if norm == "instance":
        return nn.InstanceNorm2d(planes, eps=1e-3, affine=True)
    batch = norm in ("batch", "conv")
    return nn.BatchNorm2d(planes, eps=1e-3, momentum=0.1) if batch else nn.Identity()


def _dense_normalisation(norm: str, width: int) -> nn.Module:
    return nn.BatchNorm1d(width, eps=1e-3, momentum=0.1) if norm == "batch" else nn.Identity()


def _of_output(norm: str) -> str:
    """An instance-normalised output could choose neither its brightness nor its contrast."""
    return "none" if norm == "instance" else norm


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01)


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Conv(nn.Module):
    """SAME convolution or, with `up`, its transpose (doubles the side), BN, `activation`.

    TensorFlow pads a stride-2 5x5 kernel on an even side by 1 before and 2 after, and crops the
    transpose alike.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        up: bool = False,
        norm: str = "none",
        activation: Callable[[Tensor], Tensor] = _leaky,
    ) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.before = (kernel - stride) // 2
        self.extra = kernel - stride - 2 * self.before  # one pixel more after, where SAME is uneven
        self.up = up
        self.conv = kind(inputs, outputs, kernel, stride, padding=self.before)
        _initialise(self.conv)
        self.norm = _normalisation(norm, outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            height, width = 2 * x.shape[-2], 2 * x.shape[-1]
            # oneDNN's transpose takes a third longer when it adds the bias itself
            x = F.conv_transpose2d(x, self.conv.weight, stride=2, padding=self.before)
            x = x[..., :height, :width] + self.conv.get_parameter("bias")[:, None, None]
        elif self.conv.kernel_size == (1, 1):
            x = self._of_channels(x)
        else:
            x = F.pad(x, (0, self.extra, 0, self.extra)) if self.extra else x
            slopes_only = x.requires_grad and not self.conv.weight.requires_grad
            x = self._of_windows(x) if slopes_only and x.shape[1] == 1 else self.conv(x)
        return self.activation(self.norm(x))

    def _of_windows(self, x: Tensor) -> Tensor:
        """The convolution as a product with all windows of x: oneDNN is slow at the slopes of a
        single plane, which G's step asks of D.
        """
        conv = self.conv
        windows = F.unfold(x, conv.kernel_size, padding=self.before, stride=conv.stride)
        rows = F.linear(windows.transpose(1, 2), conv.weight.flatten(1), conv.bias)
        side = (x.shape[-2] + 2 * self.before - conv.kernel_size[0]) // conv.stride[0] + 1
        return rows.transpose(1, 2).unflatten(2, (side, -1))

    def _of_channels(self, x: Tensor) -> Tensor:
        """A 1x1 convolution, which leaves the channels of a pixel side by side in memory."""
        rows = F.linear(x.permute(0, 2, 3, 1), self.conv.weight.flatten(1), self.conv.bias)
        return rows.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """(N, C, S, S) -> code (N, 32, S/4, S/4): half of V, and the shared encoder."""

    def __init__(self, channels: int, norm: str = "none") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(channels, WIDTH, 5, 2, norm=norm),
            Conv(WIDTH, WIDTH, 5, 2, norm=norm),
            Conv(WIDTH, WIDTH, 3, norm=norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Decoder(nn.Module):
    """Code (N, 32, S/4, S/4) -> image (N, C, S, S) in (-1, 1), without skips."""

    def __init__(self, channels: int, norm: str = "none") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(WIDTH, WIDTH, 5, 2, up=True, norm=norm),
            Conv(WIDTH, WIDTH, 5, 2, up=True, norm=norm),
            Conv(WIDTH, channels, 1, norm=_of_output(norm), activation=torch.tanh),
        )

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code)


class EncodedGenerator(nn.Module):
    """A decoder behind an encoder: generator V, and both stages of the semi-supervised model."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class UGenerator(nn.Module):
    """Encoder-decoder with skips at full and half size; with `noise_size` > 0 it is NU.

    NU squeezes the bottleneck to one plane, appends 100 normal draws and mixes them in a dense
    layer, which fixes the image size: `noise_size` is S. The draws come from `noise` when given,
    else from torch's global generator.
    """

    def __init__(self, channels: int, norm: str = "none", noise_size: int = 0) -> None:
        super().__init__()
        self.c1 = Conv(channels, WIDTH, 1, norm=norm)
        self.c2 = Conv(WIDTH, WIDTH, 5, 2, norm=norm)
        self.c3 = Conv(WIDTH, WIDTH, 5, 2, norm=norm)
        self.mix = NoiseMixer(noise_size, norm) if noise_size else None
        self.c4 = Conv(WIDTH, WIDTH, 3, norm=norm)
        self.d1 = Conv(WIDTH, WIDTH, 5, 2, up=True, norm=norm)
        self.d2 = Conv(2 * WIDTH, WIDTH, 5, 2, up=True, norm=norm)
        self.out = Conv(2 * WIDTH, channels, 1, norm=_of_output(norm), activation=torch.tanh)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        full = self.c1(x)  # [N,32,S,S]
        half = self.c2(full)  # [N,32,S/2,S/2]
        code = self.c3(half)  # [N,32,S/4,S/4]
        if self.mix is not None:
            code = self.mix(code, noise)
        up = self.d1(self.c4(code))
        up = self.d2(torch.cat([half, up], 1))
        return self.out(torch.cat([full, up], 1))


class NoiseMixer(nn.Module):
    """(N, 32, S/4, S/4) -> the same shape, through one plane mixed with 100 normal draws."""

    def __init__(self, image_size: int, norm: str = "none") -> None:
        super().__init__()
        self.side = image_size // 4
        self.squeeze = Conv(WIDTH, 1, 1, norm=norm)
        self.dense = nn.Linear(NOISE + self.side**2, self.side**2)
        _initialise(self.dense)
        self.dense_norm = _dense_normalisation(norm, self.side**2)
        self.widen = Conv(1, WIDTH, 1, norm=norm)

    def forward(self, code: Tensor, noise: Tensor | None) -> Tensor:
        plane = self.squeeze(code).flatten(1)
        if noise is None:
            noise = torch.randn(len(code), NOISE, device=code.device, dtype=code.dtype)
        mixed = F.relu(self.dense_norm(self.dense(torch.cat([noise, plane], 1))))
        return self.widen(mixed.view(-1, 1, self.side, self.side))


class FGenerator(nn.Sequential):
    """Four 3x3 layers at full size, then 1x1."""

    def __init__(self, channels: int, norm: str = "none") -> None:
        sizes = [channels] + 4 * [WIDTH]
        layers = [Conv(a, b, 3, norm=norm) for a, b in pairwise(sizes)]
        out = Conv(WIDTH, channels, 1, norm=_of_output(norm), activation=torch.tanh)
        super().__init__(*layers, out)


class PixGenerator(nn.Module):
    """The U-Net of pix2pix (Isola et al. 2017, arXiv 1611.07004) at half its width: halves the side
    down to 2 (or an odd one) with a skip at each size, so that a pixel can depend on the whole
    picture and on its own place. Drop-out in the innermost layers, in training only.
    """

    def __init__(self, channels: int, image_size: int, norm: str = "none") -> None:
        super().__init__()
        widths = _halving_widths(image_size)
        self.first = Conv(channels, widths[0], 4, 2)
        self.down = nn.ModuleList(Conv(a, b, 4, 2, norm=norm) for a, b in pairwise(widths))
        sizes = list(pairwise(widths[::-1]))
        self.up = nn.ModuleList(
            Conv(a if i == 0 else 2 * a, b, 4, 2, up=True, norm=norm)
            for i, (a, b) in enumerate(sizes)
        )
        self.drop = nn.ModuleList(nn.Dropout(0.5 if i < 2 else 0) for i in range(len(sizes)))
        last = widths[0] * (2 if sizes else 1)
        self.out = Conv(last, channels, 4, 2, up=True, activation=torch.tanh)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]  # [N,32,S/2,S/2]
        for layer in self.down:
            skips.append(layer(skips[-1]))  # [N,64,S/4,S/4], ...
        code = skips.pop()
        for layer, drop in zip(self.up, self.drop, strict=True):
            code = torch.cat([skips.pop(), drop(layer(code))], 1)
        return self.out(code)


def _halving_widths(image_size: int) -> list[int]:
    """Planes after each halving of `image_size`: twice as many each time, 256 at most."""
    widths: list[int] = []
    side = image_size
    while side % 2 == 0 and side > 2:
        side //= 2
        widths.append(min(WIDTH << len(widths), 8 * WIDTH))
    return widths


class Discriminator(nn.Module):
    """(N, C, S, S) -> (N, 1) unbounded scores; with the log loss they are logits."""

    def __init__(self, channels: int, image_size: int, norm: str = "none") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(channels, WIDTH, 5, 2, norm=norm),
            Conv(WIDTH, WIDTH, 5, 2, norm=norm),
            Conv(WIDTH, 16, 3, norm=norm),
        )
        self.dense = nn.Linear(image_size**2, 1)  # 16 planes of (S/4)^2 are S^2 values
        _initialise(self.dense)
        self.dense_norm = _dense_normalisation(norm, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_norm(self.dense(self.layers(x).flatten(1)))


class PatchDiscriminator(nn.Module):
    """(N, C, S, S) -> (N, (S/4)^2) scores, each of a patch of 21 pixels (Isola et al. 2017)."""

    def __init__(self, channels: int, norm: str = "none") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv(channels, WIDTH, 5, 2),
            Conv(WIDTH, 2 * WIDTH, 5, 2, norm=norm),
            Conv(2 * WIDTH, 2 * WIDTH, 3, norm=norm),
            Conv(2 * WIDTH, 1, 1, activation=nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)


def channels_last(network: M) -> M:
    """The network with weights whose channels lie side by side, as its activations then do: a step
    copies less, except in PIX.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def build_critic(kind: str, channels: int, image_size: int, norm: str = "none") -> nn.Module:
    """The discriminator `kind` (see options.CRITICS) for (N, channels, image_size, image_size)."""
    if kind == "patch":
        return channels_last(PatchDiscriminator(channels, norm))
    return channels_last(Discriminator(channels, image_size, norm))


def build_generator(arch: str, channels: int, image_size: int, norm: str = "none") -> nn.Module:
    """Generator `arch` (see options.GENERATORS) for (N, channels, image_size, image_size)."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "U": lambda: UGenerator(channels, norm),
        "V": lambda: EncodedGenerator(Encoder(channels, norm), Decoder(channels, norm)),
        "F": lambda: FGenerator(channels, norm),
        "NU": lambda: UGenerator(channels, norm, noise_size=image_size),
        "PIX": lambda: PixGenerator(channels, image_size, norm),
    }
    if arch not in builders:
        raise ValueError(f"no generator is called {arch!r}, only {', '.join(builders)}")
    network = builders[arch]()
    return network if arch == "PIX" else channels_last(network)
