"""A whole synthetic protocol and scan in the original's file formats, for a machine without real
data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eyescream_py.mln.data import random_phase
from eyescream_py.mln.formats.mat import demand_free, write_mat
from eyescream_py.mln.forward import Acquisition, segment_phases, signal_to_feature
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.params import Params
from eyescream_py.mln.phantoms import b0_field, coil_maps, disc_mask, shepp_logan
from eyescream_py.mln.protocol import Protocol, write_b0, write_maps, write_params
from eyescream_py.mln.trajectories import (
    cartesian,
    poisson_disc_mask,
    sample_times,
    segment_interpolation,
    spiral,
)
from eyescream_py.system.folders import make_folder

FILES = "Params.txt", "TrajForNUFT.mat", "SensCC1.mat", "B0TS.mat", "Scan_01.mat", "Truth.mat"


@dataclass(frozen=True)
class Setup:
    """side N in pixels; kind "spiral" or "mask"; samples of the spiral; turns; acceleration of the
    mask; b0_hz: peak off-resonance (0: none); readout in ms; noise: standard deviation per real
    number.
    """

    side: int = 64
    coils: int = 8
    kind: str = "spiral"
    samples: int = 2000
    turns: float = 12.0
    acceleration: float = 6.0
    b0_hz: float = 0.0
    readout_ms: float = 10.0
    segments: int = 7
    noise: float = 0.02
    seed: int = 1


def make_protocol(setup: Setup) -> tuple[Protocol, torch.Tensor]:
    """The setup's Protocol and its B0 map (N, N) in Hz."""
    rng = np.random.default_rng([setup.seed, 3])
    if setup.kind == "spiral":
        trajectory = spiral(setup.samples, setup.turns, setup.side / 2, 1.2)
    else:
        trajectory = cartesian(poisson_disc_mask(setup.side, setup.acceleration, rng))
    mask = disc_mask(setup.side)
    coils = torch.from_numpy(coil_maps(setup.side, setup.coils, mask)).to(torch.complex64)
    b0 = torch.from_numpy(b0_field(setup.side, setup.b0_hz, rng)).float()
    phases = weights = None
    if setup.b0_hz:
        phases = segment_phases(b0, setup.segments, setup.readout_ms / 1000)[None]
        times = sample_times(trajectory.shape[1], setup.readout_ms / 1000)
        weights = torch.from_numpy(segment_interpolation(times, setup.segments)).to(
            torch.complex64
        )[None]
    operator = choose_operator(trajectory, setup.side)
    acquisition = Acquisition(operator, coils[None], phases, weights)
    return Protocol(trajectory, acquisition, torch.from_numpy(mask)[None]), b0


def write_simulation(setup: Setup, out: Path) -> Params:
    """Write TrajForNUFT.mat, SensCC1.mat, B0TS.mat (with B0), Scan_01.mat, Truth.mat and Params.txt
    to `out`.

    The scan shows a Shepp-Logan head with a random smooth phase. Returns the Params written. Raises
    UserError when the folder already holds one of them, OSError when it cannot be written.
    """
    demand_free("--out", str(out), [out / name for name in FILES], "choose another folder")
    make_folder(out)
    protocol, b0 = make_protocol(setup)
    acquisition = protocol.acquisition
    write_mat(out / "TrajForNUFT.mat", {"Trajm2": protocol.trajectory})
    write_maps(out / "SensCC1.mat", acquisition.coils[0], protocol.mask[0])
    if acquisition.phases is not None and acquisition.interpolation is not None:
        write_b0(out / "B0TS.mat", acquisition.phases[0], acquisition.interpolation[0], b0)
    truth = _truth(setup, protocol)
    generator = torch.Generator().manual_seed(setup.seed)
    feature = signal_to_feature(acquisition.forward(truth[None, None]))
    feature = feature + setup.noise * torch.randn(feature.shape, generator=generator)
    write_mat(out / "Scan_01.mat", {"Data": feature.numpy()})
    write_mat(out / "Truth.mat", {"x": truth.numpy()})
    return write_params(
        out,
        "Simulated",
        protocol.samples,
        setup.side,
        setup.coils,
        segments=min(setup.coils, 8) * (2 if setup.b0_hz else 1),
        init_examples=200,
        readout_ms=setup.readout_ms,
        noise=setup.noise,
        show_scan=1,
        scan_file=str(out.resolve() / "Scan_01.mat"),
    )


def _truth(setup: Setup, protocol: Protocol) -> torch.Tensor:
    phase = random_phase(setup.side, np.random.default_rng([setup.seed, 4]), 1.0, 0.05, 1.0)
    image = torch.from_numpy(shepp_logan(setup.side) * np.exp(1j * phase)).to(torch.complex64)
    return image * protocol.mask[0]
