"""Weights without gradient descent: least-squares ones for any protocol."""

from __future__ import annotations

import torch
from torch import Tensor

from eyescream_py.mln.data import Batch, Examples
from eyescream_py.mln.forward import Acquisition
from eyescream_py.mln.networks import MinimalLinearNetwork, fourier_line, fourier_matrix
from eyescream_py.mln.protocol import Protocol

ROUNDING = 1e-12  # of a slope's squared size: single precision has about seven digits


def set_regression_weights(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    examples: Examples,
    count: int,
    ridge: float,
    channels: int = 1,
    sweeps: int = 0,
    noise: float = 0.0,
) -> list[float]:
    """A least-squares start from `count` simulated examples; T = time parts x `channels` of the
    segments.

    Each channel is a virtual coil image: the object times one of the first coil maps (times 1 for
    one channel). At each grid point R predicts the channels' spectra, as they stand with the
    off-resonance phase at the time when that part of k-space is sampled, from the neighbouring
    samples; time parts share it by linear interpolation. L undoes each part's phase and combines
    the channels. Segment number = part * channels + channel. `ridge` is the assumed noise power
    over the mean signal power; `noise` adds the power of that standard deviation per real number.

    Raises ValueError for several outputs, mixing Fourier layers, or T no multiple of `channels`.
    """
    check_start(network, protocol, channels)
    batch = simulated(examples, count)
    times = grid_times(network, protocol.acquisition) if network.shape.segments > channels else None
    maps, _ = channel_maps(protocol, channels)
    target = torch.stack(
        [
            grid_spectra(network, protocol.acquisition, batch.label[:, 0] * one, times)
            for one in maps
        ],
        1,
    )  # [K*K,channels,E]
    total = noise_power(batch.signal, ridge, noise)
    factors = normal_factors(network, batch.signal, total)
    weight = ridge_regression(network, batch.signal, target, factors)  # [K*K,P,channels]
    set_weights(network, protocol, weight, times, channels)
    return refine_k_layer(network, batch, total, factors, sweeps)


def check_start(network: MinimalLinearNetwork, protocol: Protocol, channels: int) -> None:
    """Raise ValueError where no start but random weights is known."""
    shape = network.shape
    if protocol.outputs != 1 or (shape.trainable_fourier and not shape.shared_fourier):
        raise ValueError("this start serves single-image networks with Fourier layers only")
    if shape.segments % channels or channels > shape.coils:
        raise ValueError(
            f"{channels} channels do not divide {shape.segments} segments or exceed the coils"
        )


def set_weights(
    network: MinimalLinearNetwork,
    protocol: Protocol,
    weight: Tensor,
    times: Tensor | None,
    channels: int,
) -> None:
    """Kernels (K*K, P, channels) for the grid points' `times` -> R and L of all time parts."""
    parts = network.shape.segments // channels
    share = interpolation(times, parts) if times is not None else weight.new_ones(len(weight), 1)
    undo = _conjugate_phases(protocol, parts)  # [N,N,parts]
    _, combination = channel_maps(protocol, channels)
    with torch.no_grad():
        network.k_layer.weight.copy_((weight[:, :, None] * share[:, None, :, None]).flatten(2))
        pixels = undo[..., None] * combination.permute(1, 2, 0)[:, :, None]  # [N,N,parts,channels]
        network.i_layer.weight.copy_(pixels.flatten(2)[..., None])


def channel_maps(protocol: Protocol, channels: int) -> tuple[Tensor, Tensor]:
    """Maps V (channels, N, N) and the combination conj(V) / sum |V|^2 inside the mask, its
    least-squares inverse.
    """
    mask = protocol.mask[0]
    if channels == 1:
        return mask[None].to(torch.complex64), mask[None].to(torch.complex64)
    maps = protocol.acquisition.coils[0, :channels]
    power = maps.abs().square().sum(0)
    return maps, maps.conj() * mask / power.clamp_min(1e-3 * power.max())


def simulated(examples: Examples, count: int, at_once: int = 16) -> Batch:
    """Examples 0 .. count - 1 of a stream, simulated a few at a time. Raises ValueError where all
    are zero.
    """
    parts = [
        examples.simulate(list(range(first, min(first + at_once, count))))
        for first in range(0, count, at_once)
    ]
    signal, label = torch.cat([p.signal for p in parts]), torch.cat([p.label for p in parts])
    if not min(float(signal.norm()), float(label.norm())) > 0:
        raise ValueError("the training images or SensCC are zero wherever SensMsk is not")
    return Batch(signal, label)


def turns_per_readout(acquisition: Acquisition) -> Tensor:
    """Off-resonance in turns over the readout, (N, N), from the first two segments; 0 without a B0
    map.

    Right while the phase between two segments stays below half a turn.
    """
    if acquisition.phases is None:
        return torch.zeros(acquisition.coils.shape[-2:], device=acquisition.coils.device)
    first, second = acquisition.phases[0, :2]
    return -torch.angle(second * first.conj()) * (len(acquisition.phases[0]) - 1) / (2 * torch.pi)


def sample_times(acquisition: Acquisition, samples: int) -> Tensor:
    """When each sample is taken, (M,), 0..1 of the readout; all 0 without a B0 map."""
    if acquisition.interpolation is None:
        return torch.zeros(samples, device=acquisition.coils.device)
    weights = acquisition.interpolation[0].abs()  # [Q,M]
    return torch.linspace(0, 1, len(weights), device=weights.device) @ weights


def grid_times(network: MinimalLinearNetwork, acquisition: Acquisition) -> Tensor:
    """When k-space around each grid point is sampled, (K*K,), 0..1 of the readout: its neighbours'
    mean time.
    """
    times = sample_times(acquisition, acquisition.operator.samples)
    return times[network.k_layer.index].mean(1)


def interpolation(times: Tensor, segments: int) -> Tensor:
    """Linear shares (X, T) of times (X,), 0..1, among equally spaced segments."""
    place = torch.arange(segments, device=times.device)
    return (1 - (times[:, None] * (segments - 1) - place).abs()).clamp_min(0)


def grid_spectra(
    network: MinimalLinearNetwork, acquisition: Acquisition, images: Tensor, times: Tensor | None
) -> Tensor:
    """The values (K*K, E) whose transform by the Fourier layers is the image, for images (E, N, N).

    With `times` each grid point's value carries the off-resonance phase of its own time.
    """
    shape = network.shape
    step = float(fourier_line(shape)[1] - fourier_line(shape)[0])
    matrix = torch.from_numpy(fourier_matrix(shape)).to(images) * (step / shape.image_side)  # [K,N]
    if times is None or acquisition.phases is None:
        return (matrix.conj() @ images @ matrix.conj().T).flatten(1).T
    phases = acquisition.phases[0]
    share = interpolation(times, len(phases)).T  # [Q,K*K]
    spectra = torch.zeros(len(times), len(images), dtype=images.dtype, device=images.device)
    for phase, weight in zip(phases, share, strict=True):
        spectrum = (matrix.conj() @ (images * phase) @ matrix.conj().T).flatten(1).T
        spectra += weight[:, None] * spectrum
    return spectra


def normal_factors(
    network: MinimalLinearNetwork, signal: Tensor, noise: float, chunk: int = 512
) -> Tensor:
    """Cholesky factors (K*K, P, P) of conj(G) G^T + noise, G (P, E) the gathered examples.

    signal (E, C, M). This is the least-squares start's largest tensor: 8 K^2 P^2 bytes.
    """
    by_sample = signal.permute(2, 1, 0).contiguous()  # [M,C,E]
    eye = torch.eye(network.shape.taps, dtype=signal.dtype, device=signal.device) * noise
    factors = []
    for index in network.k_layer.index.split(chunk):
        gathered = by_sample[index].flatten(1, 2)  # [rows,P,E]
        factors.append(torch.linalg.cholesky(gathered.conj() @ gathered.transpose(1, 2) + eye))
    return torch.cat(factors)


def noise_power(signal: Tensor, ridge: float, noise: float = 0.0) -> float:
    """E (ridge mean|signal|^2 + 2 noise^2): what stands for noise in the normal matrices of E
    examples.
    """
    return (ridge * signal.abs().square().mean().item() + 2 * noise**2) * len(signal)


def ridge_regression(
    network: MinimalLinearNetwork, signal: Tensor, target: Tensor, factors: Tensor, chunk: int = 512
) -> Tensor:
    """R (K*K, P, channels) minimising sum_e |sum_p R g_p - target|^2 + noise |R|^2 per grid point.

    signal (E, C, M), target (K*K, channels, E), factors from `normal_factors`.
    """
    by_sample = signal.permute(2, 1, 0).contiguous()
    weights = []
    for index, wanted, factor in zip(
        network.k_layer.index.split(chunk), target.split(chunk), factors.split(chunk), strict=True
    ):
        gathered = by_sample[index].flatten(1, 2)
        weights.append(torch.cholesky_solve(gathered.conj() @ wanted.transpose(1, 2), factor))
    return torch.cat(weights)


class _Images:
    """The network as a linear map A of the k-layer's weights, for the examples of one batch."""

    def __init__(self, network: MinimalLinearNetwork, batch: Batch, at_once: int = 64) -> None:
        self._network, self._parts = network, batch.signal.split(at_once)
        self._at_once = at_once

    def of(self, weight: Tensor) -> Tensor:
        """A weight: the images (E, 1, N, N) that the network makes with it."""
        with torch.no_grad():
            return torch.cat([self._call(weight, part) for part in self._parts])

    def adjoint(self, error: Tensor, weight: Tensor) -> Tensor:
        """A^H error, shaped like `weight`."""
        total = torch.zeros_like(weight)
        variable = weight.detach().requires_grad_(True)
        for part, wrong in zip(self._parts, error.split(self._at_once), strict=True):
            total += torch.autograd.grad(self._call(variable, part), variable, wrong)[0]
        return total

    def _call(self, weight: Tensor, signal: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(
            self._network, {"k_layer.weight": weight}, (signal,)
        )
        return output


def refine_k_layer(
    network: MinimalLinearNetwork, batch: Batch, noise: float, factors: Tensor, sweeps: int
) -> list[float]:
    """Improve R for the given L by `sweeps` steps of preconditioned conjugate gradients.

    Minimises the squared image error over the batch plus what samples' noise of that power adds to
    it; the preconditioner is each grid point's own normal matrix (`normal_factors`). Few sweeps
    also keep R from fitting the examples' accidents. They end early where nothing but rounding is
    left of the slope, which further steps would only amplify. Returns the relative error
    |A R - label| / |label| over the batch before the first and after every sweep.
    """
    images, weight = _Images(network, batch), network.k_layer.weight.detach().clone()
    combined = network.i_layer.weight.detach().abs().square().mean().item()
    damping = noise * combined * network.shape.image_side**2
    error = batch.label - images.of(weight)
    scale = batch.label.norm()
    errors = [float(error.norm() / scale)]
    direction, power, first = torch.zeros_like(weight), 1.0, 0.0
    for _ in range(sweeps):
        slope = images.adjoint(error, weight) - damping * weight
        step = torch.cholesky_solve(slope, factors)
        fresh = float((slope.conj() * step).real.sum())
        first = first or fresh
        if fresh <= ROUNDING * first:
            break
        direction = step + (fresh / power if len(errors) > 1 else 0.0) * direction
        power = fresh
        change = images.of(direction)
        length = power / float(
            change.abs().square().sum() + damping * direction.abs().square().sum()
        )
        weight += length * direction
        error -= length * change
        errors.append(float(error.norm() / scale))
    with torch.no_grad():
        network.k_layer.weight.copy_(weight)
    return errors


def _conjugate_phases(protocol: Protocol, parts: int) -> Tensor:
    """exp(+2 pi i turns tau) for each time part, (N, N, parts); 1 for one part."""
    turns = turns_per_readout(protocol.acquisition) * (parts > 1)
    angle = 2 * torch.pi * turns[..., None] * torch.linspace(0, 1, parts, device=turns.device)
    return torch.polar(torch.ones_like(angle), angle)
