"""Reconstruct scans with a trained network, and compare it with the model-based methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eyescream_py.mln.baselines import adjoint_image, cg_sense, wavelet_l1
from eyescream_py.mln.checkpoints import Checkpoint, restore_network
from eyescream_py.mln.data import Batch
from eyescream_py.mln.mat import write_mat
from eyescream_py.mln.metrics import nrmse, ssim
from eyescream_py.mln.networks import MinimalLinearNetwork, to_label
from eyescream_py.mln.protocol import Protocol, read_scan
from eyescream_py.mln.trajectories import density_compensation, is_on_grid
from eyescream_py.system.errors import UserError

Method = Callable[[Tensor], Tensor]


def reconstruct(network: MinimalLinearNetwork, signal: Tensor, at_once: int = 16) -> Tensor:
    """(B, C, M) -> (B, outputs, N, N), a few at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([network(part) for part in signal.split(at_once)])


def run_on_files(
    checkpoint: Checkpoint,
    prefix: str,
    out: Path,
    count: int,
    device: torch.device,
    say: Callable[[str], None],
) -> list[Path]:
    """<prefix>01.mat .. <prefix>count.mat -> OnRealData01.mat .. (x: (rows, N, N * outputs, 2)) in
    `out`.

    Every file is read and checked before the first is written. Raises UserError naming file and
    numbers.
    """
    network = restore_network(checkpoint).to(device)
    params, coils = checkpoint.params, checkpoint.shape.coils
    in_data = params.coils_in_scan or params.coils_in_data or coils
    sources = [f"{prefix}{number:02d}.mat" for number in range(1, count + 1)]
    signals = [read_scan(path, checkpoint.samples, in_data, coils, "scan") for path in sources]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    targets = []
    for number, (source, signal) in enumerate(zip(sources, signals, strict=True), 1):
        begun = time.perf_counter()
        images = reconstruct(network, signal.to(device), params.batch_size)
        seconds = time.perf_counter() - begun
        targets.append(out / f"OnRealData{number:02d}.mat")
        write_mat(targets[-1], {"x": to_label(images).cpu().numpy()})
        each = 1000 * seconds / len(images)
        say(f"{source} -> {targets[-1]}  ({len(images)} images, {each:.0f} ms each)")
    return targets


@dataclass(frozen=True)
class Score:
    """One method's mean figures over a batch: NRMSE (complex, inside the mask), SSIM of magnitudes,
    ms per image.
    """

    method: str
    nrmse: float
    ssim: float
    milliseconds: float


def baseline_methods(
    protocol: Protocol, iterations: int, wavelet: bool = False
) -> dict[str, Method]:
    """adjoint (or zero-filled), CG-SENSE and optionally wavelet-L1 with the protocol's own
    model.
    """
    acquisition = protocol.acquisition
    on_grid = is_on_grid(protocol.trajectory, acquisition.operator.side)
    weights = None if on_grid else torch.from_numpy(density_compensation(protocol.trajectory))
    methods: dict[str, Method] = {
        "zero-filled" if on_grid else "adjoint": lambda s: adjoint_image(acquisition, s, weights),
        "CG-SENSE": lambda s: cg_sense(acquisition, s, iterations),
    }
    if wavelet:
        methods["wavelet-L1"] = lambda s: wavelet_l1(acquisition, s)
    return methods


def compare(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    batch: Batch,
    iterations: int = 20,
    wavelet: bool = False,
) -> list[Score]:
    """Score MLN and the baselines on a batch that has labels. The baselines' echoes are not
    modelled: for a multi-echo network only MLN is scored.
    """
    methods: dict[str, Method] = {"MLN": lambda s: reconstruct(network, s)}
    if protocol.echoes is None:
        methods |= baseline_methods(protocol, iterations, wavelet)
    return [_score(name, method, batch, protocol) for name, method in methods.items()]


def _score(name: str, method: Method, batch: Batch, protocol: Protocol) -> Score:
    method(batch.signal[:1])  # plans and caches are made here, not in the timing
    begun = time.perf_counter()
    images = method(batch.signal)
    milliseconds = 1000 * (time.perf_counter() - begun) / len(images)
    mask = protocol.mask.cpu().numpy()
    pairs = list(zip(images.cpu().numpy(), batch.label.cpu().numpy(), strict=True))
    errors = [nrmse(image, truth, mask) for image, truth in pairs]
    likeness = [
        ssim(one * inside, two)
        for image, truth in pairs
        for one, two, inside in zip(image, truth, np.broadcast_to(mask, truth.shape), strict=True)
    ]
    return Score(name, float(np.mean(errors)), float(np.mean(likeness)), milliseconds)


def score_table(scores: Iterable[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| method | NRMSE | SSIM | ms per image |", "|---|---|---|---|"]
    lines += [
        f"| {s.method} | {s.nrmse:.4f} | {s.ssim:.4f} | {s.milliseconds:.1f} |" for s in scores
    ]
    return "\n".join(lines)


def score_records(scores: Iterable[Score]) -> list[dict[str, object]]:
    """The scores as plain dictionaries for JSON."""
    return [asdict(score) for score in scores]
