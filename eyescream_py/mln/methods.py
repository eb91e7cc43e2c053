"""The methods that need no training, by name, with one set of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eyescream_py.mln.baselines import adjoint_image, cg_sense, wavelet_l1
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.total_variation import total_variation
from eyescream_py.mln.trajectories import density_compensation, is_on_grid

Method = Callable[[Tensor], Tensor]
TITLES = {
    "mln": "MLN",
    "adjoint": "adjoint",
    "cg": "CG-SENSE",
    "wavelet": "wavelet-L1",
    "tv": "TV",
}


@dataclass(frozen=True)
class Settings:
    """Steps of each method; the weights of wavelet-L1 and TV are relative to the largest value of
    the adjoint image.
    """

    cg_steps: int = 12
    wavelet_steps: int = 40
    wavelet_weight: float = 0.005
    tv_steps: int = 40
    tv_weight: float = 0.005


def model_methods(protocol: Protocol, settings: Settings | None = None) -> dict[str, Method]:
    """adjoint (density-compensated, or zero-filled on a Cartesian grid), cg, wavelet and tv with
    the protocol's own model: (B, C, M) -> (B, bands, N, N).
    """
    s, acquisition = settings or Settings(), protocol.acquisition
    on_grid = is_on_grid(protocol.trajectory, acquisition.operator.side)
    weights = None if on_grid else torch.from_numpy(density_compensation(protocol.trajectory))
    return {
        "adjoint": lambda signal: adjoint_image(acquisition, signal, weights),
        "cg": lambda signal: cg_sense(acquisition, signal, s.cg_steps),
        "wavelet": lambda signal: wavelet_l1(
            acquisition, signal, s.wavelet_steps, s.wavelet_weight
        ),
        "tv": lambda signal: total_variation(acquisition, signal, s.tv_weight, s.tv_steps),
    }
