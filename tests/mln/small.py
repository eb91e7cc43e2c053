"""Small protocols that several tests share."""

from pathlib import Path

import numpy as np
import torch

from eyescream_py.mln.formats.mat import write_mat
from eyescream_py.mln.params import Params, params_from
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.simulation import Setup, make_protocol

SIDE = 16


def spiral_protocol(coils: int = 3, b0_hz: float = 0.0, side: int = SIDE) -> Protocol:
    setup = Setup(side=side, coils=coils, samples=20 * side, turns=side / 3, b0_hz=b0_hz)
    return make_protocol(setup)[0]


def small_params(**keys: object) -> Params:
    sizes = {"LabelsH": SIDE, "LabelsW": SIDE, "aDataH": SIDE, "aDataW": SIDE, "kMax": SIDE / 2}
    common = {"nNeighbors": 4, "nTimeSegments": 1, "batch_size": 4, "RandomPhaseScaleFac": 0.2}
    return params_from(sizes | common | {"kGrid": "matched"} | keys)


def phantoms(count: int = 4, side: int = SIDE) -> np.ndarray:
    from eyescream_py.mln.phantoms import random_ellipses

    rng = np.random.default_rng(5)
    return np.stack([random_ellipses(side + 4, rng, 12) for _ in range(count)]).astype(np.float32)


def random_images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def write_protocol_files(folder: Path, coils: int = 3, samples: int = 320) -> None:
    """TrajForNUFT.mat and SensCC1.mat for SIDE pixels, and a scan of random numbers scan01.mat."""
    rng = np.random.default_rng(0)
    protocol = spiral_protocol(coils)
    write_mat(folder / "TrajForNUFT.mat", {"Trajm2": protocol.trajectory[:, :samples]})
    maps = protocol.acquisition.coils[0].permute(1, 2, 0).numpy()
    write_mat(folder / "SensCC1.mat", {"SensCC": maps, "SensMsk": protocol.mask[0].numpy()})
    write_mat(folder / "scan01.mat", {"Data": rng.standard_normal((2, 2 * samples * coils))})
