"""Weights from the protocol alone: the best linear kernels for an image of white noise.

For an image whose pixels are independent, the covariance of two samples depends only on their
coils, the distance of their positions and the time between them: E s s'* is the transform of
S S'* T at that distance. So every kernel of the k-layer follows from the coil maps and the B0 map
by one small linear system per grid point, without any training image. Kernels made from the coil
maps over a neighbourhood of k-space are those of PARS (Yeh et al., Magn. Reson. Med. 53:1383,
2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eyescream_py.mln.analytic import (
    channel_maps,
    check_start,
    grid_times,
    noise_power,
    refine_k_layer,
    sample_times,
    set_weights,
    simulated,
    turns_per_readout,
)
from eyescream_py.mln.data import Examples
from eyescream_py.mln.networks import MinimalLinearNetwork, fourier_line, pixel_shift
from eyescream_py.mln.nufft import choose_operator
from eyescream_py.mln.protocol import Protocol
from eyescream_py.mln.trajectories import is_on_grid

TURNS_PER_STEP = 1 / 32  # off-resonance within one step of time
TABLE_BYTES = 1 << 28


def covariance_start(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    examples: Examples,
    count: int,
    ridge: float,
    channels: int = 1,
    sweeps: int = 0,
    noise: float = 0.0,
) -> list[float]:
    """`set_covariance_weights` for the power that `count` examples have around each grid point,
    then `sweeps` of `refine_k_layer` over them.

    `noise` is its standard deviation per real number of the samples: where images have little
    power, kernels shall trust them little. Returns the relative errors of `refine_k_layer`. Raises
    ValueError as `set_regression_weights`.
    """
    batch = simulated(examples, count)
    power = local_power(network, batch.signal)
    local = ridge + 2 * noise**2 / power.clamp_min(1e-12 * float(power.max()))
    factors = set_covariance_weights(network, protocol, local, channels, sweeps > 0)
    if not sweeps:
        return []
    factors *= power.sqrt()[:, None, None]
    total = noise_power(batch.signal, ridge, noise)
    return refine_k_layer(network, batch, total, factors, sweeps)


def local_power(network: MinimalLinearNetwork, signal: Tensor) -> Tensor:
    """Mean |sample|^2 of the signals (E, C, M) among each grid point's neighbours, (K*K,)."""
    return signal.abs().square().mean((0, 1))[network.k_layer.index].mean(1)


def set_covariance_weights(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    ridge: float | Tensor,
    channels: int = 1,
    keep_factors: bool = False,
) -> Tensor:
    """R and L from trajectory, coil maps and B0 map; segments as `set_regression_weights` has them.

    `ridge`, one or per grid point (K*K,), is the noise power over that of the samples. Positions
    that are not all integers are rounded to 1/32 or, for long neighbourhoods, less finely. Returns
    the Cholesky factors (K*K, P, P) of the samples' covariances if `keep_factors`, which take
    8 K^2 P^2 bytes, else an empty tensor. Raises ValueError as `set_regression_weights`.
    """
    check_start(network, protocol, channels)
    acquisition, index = protocol.acquisition, network.k_layer.index
    times = grid_times(network, acquisition) if network.shape.segments > channels else None
    samples, grid, steps = _places(network, protocol, times)
    reach, span = _extent(samples, grid, index)
    table = _Table(protocol, acquisition.coils[0], steps, reach, span)
    maps, _ = channel_maps(protocol, channels)
    targets = table if channels > 1 else _Table(protocol, maps, steps, reach, span)
    scale = _target_scale(network)
    ridges = torch.as_tensor(ridge, device=index.device).expand(len(index))
    weights, factors = [], []
    for rows in torch.arange(len(index), device=index.device).split(256):
        near = samples.at(index[rows])
        factor = _factor(table, near, ridges[rows])
        cross = targets(grid.at(rows[:, None]), near)[..., :channels, :]  # [rows,n,channels,C]
        wanted = cross.transpose(2, 3).flatten(1, 2)  # [rows,P,channels]
        weights.append(torch.cholesky_solve(wanted, factor) * scale[rows, None, None])
        factors += [factor] if keep_factors else []
    set_weights(network, protocol, torch.cat(weights), times, channels)
    return torch.cat(factors) if keep_factors else scale.new_empty(0)


@dataclass(frozen=True)
class _Places:
    """Where (..., 2) and when (...), in whole steps."""

    k: Tensor
    time: Tensor

    def at(self, index: Tensor) -> _Places:
        return _Places(self.k[index], self.time[index])

    def __sub__(self, other: _Places) -> _Places:
        return _Places(self.k - other.k, self.time - other.time)


class _Table:
    """E y_a(p) s_c(q)* by p - q: y and s the samples of a white image through `left` and the coils.

    Covers distances of up to `reach` steps of k per axis and `span` steps of time; 0 beyond.
    """

    def __init__(
        self,
        protocol: Protocol,
        left: Tensor,
        steps: tuple[float, float],
        reach: int,
        span: int,
    ) -> None:
        """left (A, N, N); steps of k in 1/FOV and of time as a share of the readout."""
        coils = protocol.acquisition.coils[0]
        turns = turns_per_readout(protocol.acquisition)
        line = np.arange(-reach, reach + 1) * steps[0]
        points = np.stack(np.meshgrid(line, line, indexing="ij")).reshape(2, -1)
        operator = choose_operator(points, coils.shape[-1], coils.device, 1e-6)
        products = (left[:, None] * coils.conj()).flatten(0, 1)  # [A*C,N,N]
        levels = []
        for number in range(-span, span + 1):
            angle = -2 * torch.pi * turns * (number * steps[1])
            phase = torch.polar(torch.ones_like(angle), angle)
            levels.append(operator.forward(products * phase).T / coils.shape[-1])
        self._rows = torch.cat(levels)  # [time * k * k, A*C]
        self._reach, self._span, self._pair = reach, span, (len(left), len(coils))

    def __call__(self, left: _Places, right: _Places) -> Tensor:
        """(..., A, C) for places that broadcast."""
        gap = left - right
        inside = (gap.k.abs() <= self._reach).all(-1) & (gap.time.abs() <= self._span)
        k = gap.k.clamp(-self._reach, self._reach) + self._reach
        time = gap.time.clamp(-self._span, self._span) + self._span
        width = 2 * self._reach + 1
        values = self._rows[(time * width + k[..., 0]) * width + k[..., 1]]
        if not bool(inside.all()):
            values *= inside[..., None]
        return values.unflatten(-1, self._pair)


def _factor(table: _Table, near: _Places, ridge: Tensor) -> Tensor:
    """Cholesky factors (rows, P, P) of the neighbours' covariances, conjugated, plus the ridge."""
    left = _Places(near.k[:, :, None], near.time[:, :, None])
    right = _Places(near.k[:, None], near.time[:, None])
    blocks = table(left, right)  # [rows,n,n,C,C]
    full = blocks.permute(0, 2, 4, 1, 3).flatten(3, 4).flatten(1, 2)  # Hermitian: the conjugate
    diagonal = full.diagonal(dim1=1, dim2=2)
    diagonal += ridge[:, None] * diagonal.real.mean(1, keepdim=True)
    return torch.linalg.cholesky(full)


def _places(
    network: MinimalLinearNetwork, protocol: Protocol, times: Tensor | None
) -> tuple[_Places, _Places, tuple[float, float]]:
    """Samples and grid points on a common lattice, and its steps of k and time."""
    device = network.k_layer.index.device
    trajectory = torch.from_numpy(protocol.trajectory.T.copy()).to(device)  # [M,2]
    line = torch.from_numpy(np.asarray(fourier_line(network.shape))).to(device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
    peak = float(turns_per_readout(protocol.acquisition).abs().max())
    moments = sample_times(protocol.acquisition, len(trajectory))
    targets = torch.zeros(len(grid), device=device) if times is None else times
    time_step = 1.0 / max(1, math.ceil(peak / TURNS_PER_STEP))
    if not peak:
        moments, targets = torch.zeros_like(moments), torch.zeros_like(targets)
    clock = [(moment / time_step).round().long() for moment in (moments, targets)]
    k_step = _k_step(network, protocol, clock)
    return (
        _Places((trajectory / k_step).round().long(), clock[0]),
        _Places((grid / k_step).round().long(), clock[1]),
        (k_step, time_step),
    )


def _k_step(network: MinimalLinearNetwork, protocol: Protocol, clock: list[Tensor]) -> float:
    """1 where all positions are integers, else the finest of 1/32 .. 1/4 whose table is small."""
    integers = is_on_grid(protocol.trajectory, 1 << 20) and network.shape.k_grid == "matched"
    if integers:
        return 1.0
    trajectory = torch.from_numpy(protocol.trajectory.T.copy()).to(clock[0].device)
    origin = torch.zeros(len(network.k_layer.index), 2, device=clock[0].device)
    for fineness in (32, 16, 8):
        samples = _Places((trajectory * fineness).round().long(), clock[0])
        reach, span = _extent(samples, _Places(origin.long(), clock[1]), network.k_layer.index)
        cells = (2 * reach + 1) ** 2 * (2 * span + 1)
        if cells * network.shape.coils**2 * 8 <= TABLE_BYTES:
            return 1 / fineness
    return 1 / 4


def _extent(samples: _Places, grid: _Places, index: Tensor) -> tuple[int, int]:
    """The largest distances: of k between a grid point's neighbours, of time to the point as well.

    Grid points further from their neighbours than that lie outside the sampled region.
    """
    near = samples.at(index)  # [X,n]
    reach = int((near.k.amax(1) - near.k.amin(1)).max())
    times = torch.cat([near.time, grid.time[:, None]], 1)
    return max(reach, 1), int((times.amax(1) - times.amin(1)).max())


def _target_scale(network: MinimalLinearNetwork) -> Tensor:
    """(K*K,): from a sample at a grid point to the value that the Fourier layers take there."""
    shape = network.shape
    line = fourier_line(shape)
    step = float(line[1] - line[0]) if len(line) > 1 else 1.0
    shift = pixel_shift(shape)
    waves = torch.from_numpy(np.exp(-2j * np.pi * line * shift / shape.image_side))
    waves = waves.to(network.k_layer.weight) * step
    return (waves[:, None] * waves).flatten() / shape.image_side
