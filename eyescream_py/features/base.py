"""What all feature networks have in common."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class FeatureNetwork(nn.Module, abc.ABC):
    """Pictures (N, 3, H, W) in -1..1 -> five activation maps, from fine to coarse.

    `title` says in words what the network is.
    """

    title = ""

    @abc.abstractmethod
    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]: ...

    def vectors(self, pictures: torch.Tensor) -> torch.Tensor:
        """One vector per picture: (N, D)."""
        return self(pictures)[-1].mean((2, 3))

    @abc.abstractmethod
    def foldable(self) -> Iterable[tuple[nn.Module, str, str]]:
        """(owner, convolution's name, normalisation's name) of all that `frozen` folds."""


def frozen(network: FeatureNetwork) -> FeatureNetwork:
    """The network for use in a loss: no weight gradients, normalisations folded away.

    `network` itself is changed and returned, on its device; save its state dict before. A second
    call changes nothing.
    """
    device = next(network.parameters()).device
    # A GPU's square roots end in other bits, and one calibrated there has to become the network
    # that a continued run reads from its file.
    network.cpu().eval()
    for owner, conv, norm in list(network.foldable()):
        if isinstance(getattr(owner, norm), nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(
                cast(nn.Conv2d, owner.get_submodule(conv)),
                cast(nn.BatchNorm2d, owner.get_submodule(norm)),
            )
            setattr(owner, conv, fused)
            setattr(owner, norm, nn.Identity())
    for parameter in network.requires_grad_(False).parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.contiguous(memory_format=torch.channels_last)
    return network.to(device)


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of every batch normalisation to the mean over `batches`."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    network.train()
    for batch in batches:
        network(batch)
    network.eval()
