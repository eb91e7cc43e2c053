"""D's last layer on CUDA: a Linear to one number, in a kernel of its own."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from eyescream_py.networks.fused_layers import Tools, lacks_batch
from eyescream_py.networks.modes import FastForward, InFull


class _Number(torch.autograd.Function):
    """A Linear to one number, of (x [N,K], weight [1,K], bias [1])."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernels: Any) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.kernels = kernels
        y: Tensor = kernels.head(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        learns = ctx.needs_input_grad[1]
        return *ctx.kernels.head_backward(grads[0].contiguous(), x, weight, learns), None


class Head(InFull, FastForward):
    """D's last Linear, to one number, in full: it reads 16 bits and adds in 32."""

    def __init__(self, layer: nn.Linear, kernels: Any) -> None:
        super().__init__(layer)
        self.kernels, self.otherwise = kernels, InFull(layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = super().__deepcopy__(memo)
        twin.otherwise = InFull(twin.layer)
        return twin

    def __call__(self, x: Tensor) -> Tensor:
        if lacks_batch(x, self.layer):
            return self(x[None])[0]
        y: Tensor = _Number.apply(x, self.layer.weight, self.layer.bias, self.kernels)
        return y


def fuse_head(D: nn.Module, tools: Tools) -> None:
    """Let D's last layer with weights, which computes in full (`exact_output`), do so in a kernel,
    if it is a Linear to one number.
    """
    for layer in D.modules():
        if isinstance(layer.__dict__.get("forward"), InFull) and _is_head(layer):
            Head(layer, tools.kernels).install()  # type: ignore[arg-type]


def _is_head(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.out_features == 1 and layer.bias is not None
