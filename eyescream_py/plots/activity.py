"""`--weightsVisFreq`: what D's convolutions and wide Linears do with a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eyescream_py.networks.modes import evaluating, plain

WIDE = 64  # outputs from which a Linear is worth a picture


def activities(network: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
    """(layer's name, its outputs as pictures in 0..1) for each convolution and wide Linear.

    image: (1,C,H,W). A convolution makes one picture per plane (P,1,h,w), a Linear a single one
    whose pixels are its outputs, row by row.
    """
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, output, name=f"{name} {layer}": seen.append((name, output))
        )
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        or (isinstance(layer, nn.Linear) and layer.out_features >= WIDE)
    ]
    try:
        # each layer on its own: with others joined to it, it would show less than its output
        with evaluating(network), plain(network):
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, _as_pictures(output[0].float())) for name, output in seen]


def _as_pictures(output: Tensor) -> Tensor:
    """(P,h,w) or (F) -> (P,1,h,w) or (1,1,rows,columns), the smallest value 0 and the largest 1."""
    if output.ndim == 1:
        columns = math.ceil(math.sqrt(len(output)))
        rows = math.ceil(len(output) / columns)
        padded = torch.full((rows * columns,), float(output.min()), device=output.device)
        padded[: len(output)] = output
        output = padded.view(1, rows, columns)
    low, high = output.min(), output.max()
    return ((output - low) / (high - low).clamp(min=1e-12))[:, None]
