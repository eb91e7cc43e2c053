"""Compare a trained network with the methods that need no training, on examples with labels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.data import Batch
from eyescream_py.mln.methods import Method, Settings, model_methods
from eyescream_py.mln.metrics import mean, nrmse, recorded, ssim, written
from eyescream_py.mln.networks import MinimalLinearNetwork
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.trajectories import is_on_grid

CG_STEPS = (3, 5, 8, 12, 20, 30)


def reconstruct(network: MinimalLinearNetwork, signal: Tensor, at_once: int = 16) -> Tensor:
    """(B, C, M) -> (B, outputs, N, N), a few at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([network(part) for part in signal.split(at_once)])


@dataclass(frozen=True)
class Score:
    """One method's mean figures over a batch: NRMSE (complex, inside the mask), SSIM of magnitudes
    (NaN where no image has any), ms per image.
    """

    method: str
    nrmse: float
    ssim: float
    milliseconds: float


def best_cg_steps(protocol: Protocol, batch: Batch) -> int:
    """The number of CG-SENSE steps with the least NRMSE on `batch`, of `CG_STEPS`; the usual one
    where `batch` has nothing inside the mask.
    """
    mask = protocol.mask.cpu().numpy()

    def error(steps: int) -> float:
        images = cg_sense(protocol.acquisition, batch.signal, steps).cpu().numpy()
        pairs = zip(images, batch.label.cpu().numpy(), strict=True)
        return mean(nrmse(image, truth, mask) for image, truth in pairs)

    errors = {steps: error(steps) for steps in CG_STEPS}
    if any(math.isnan(value) for value in errors.values()):
        return Settings().cg_steps
    return min(errors, key=errors.__getitem__)


def compare(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    batch: Batch,
    choose: Batch | None = None,
    wavelet: bool = False,
) -> list[Score]:
    """Score MLN and the other methods on a batch that has labels.

    CG-SENSE stands with its default steps and, where there are examples to `choose` them with, with
    the best number. `wavelet` adds wavelet-L1 and TV. Echoes are not modelled by the others: for a
    multi-echo network only MLN is scored.
    """
    methods: dict[str, Method] = {"MLN": lambda s: reconstruct(network, s)}
    if protocol.echoes is None:
        usual, known = Settings().cg_steps, model_methods(protocol)
        on_grid = is_on_grid(protocol.trajectory, protocol.acquisition.operator.side)
        methods["zero-filled" if on_grid else "adjoint"] = known["adjoint"]
        methods[f"CG-SENSE, {usual} steps"] = known["cg"]
        if choose is not None and (steps := best_cg_steps(protocol, choose)) != usual:
            best = model_methods(protocol, Settings(cg_steps=steps))["cg"]
            methods[f"CG-SENSE, best: {steps} steps"] = best
        if wavelet:
            methods |= {"wavelet-L1": known["wavelet"], "TV": known["tv"]}
    return [_score(name, method, batch, protocol) for name, method in methods.items()]


def verdict(scores: list[Score], outputs: int = 1) -> tuple[str, bool]:
    """The place of MLN with so many `outputs` (scores[0]) among the others in one sentence, which
    says what was not compared, and whether it lost even to the adjoint.
    """
    mln, others = scores[0], scores[1:]
    if math.isnan(mln.nrmse):
        return "No method was judged: the test images are zero wherever SensMsk is not", False
    if not others:
        return f"MLN: NRMSE {mln.nrmse:.4f}; no other method models its echoes", False
    best = min(others, key=lambda score: score.nrmse)
    all_there = any(score.method == "TV" for score in others)
    rest = "" if all_there else "; wavelet-L1 and TV were not compared (--wavelet)"
    if mln.nrmse > others[0].nrmse:
        start = "Init covariance, InitChannels = number of coils"  # of single images alone
        how = f"with {start}" if outputs == 1 else "longer"
        return (
            f"MLN ({mln.nrmse:.4f}) loses even to {others[0].method} ({others[0].nrmse:.4f}): "
            f"do not use this network; take {best.method} ({best.nrmse:.4f}), or train {how}",
            True,
        )
    if mln.nrmse > best.nrmse:
        return (
            f"{best.method} has the least error ({best.nrmse:.4f}; MLN {mln.nrmse:.4f}) at "
            f"{best.milliseconds / max(mln.milliseconds, 1e-6):.1f} times MLN's time per image"
            f"{rest}",
            False,
        )
    next_best = f"next {best.method} {best.nrmse:.4f}"
    return f"MLN has the least error ({mln.nrmse:.4f}; {next_best}){rest}", False


def _score(name: str, method: Method, batch: Batch, protocol: Protocol) -> Score:
    method(batch.signal[:1]).cpu()  # plans and caches are made here, not in the timing
    begun = time.perf_counter()
    images = method(batch.signal).cpu()  # a GPU is done only once they are here
    milliseconds = 1000 * (time.perf_counter() - begun) / len(images)
    mask = protocol.mask.cpu().numpy()
    pairs = list(zip(images.numpy(), batch.label.cpu().numpy(), strict=True))
    errors = [nrmse(image, truth, mask) for image, truth in pairs]
    likeness = [
        ssim(one * inside, two)
        for image, truth in pairs
        for one, two, inside in zip(image, truth, np.broadcast_to(mask, truth.shape), strict=True)
    ]
    return Score(name, mean(errors), mean(likeness), milliseconds)


def score_table(scores: Iterable[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| method | NRMSE | SSIM | ms per image |", "|---|---|---|---|"]
    lines += [
        f"| {s.method} | {written(s.nrmse)} | {written(s.ssim)} | {s.milliseconds:.1f} |"
        for s in scores
    ]
    return "\n".join(lines)


def score_records(scores: Iterable[Score]) -> list[dict[str, object]]:
    """The scores as plain dictionaries for JSON."""
    return [recorded(asdict(score)) for score in scores]
