"""ganless-hd: milliseconds per training batch (two steps) beside the plainest implementation.

python -m benchmarks.ganless_hd [--size 256] [--batch 4] [--width 1] [--rounds 3] [--features lite0]
    [--capture] [--gpu -1] [--ours]

The plain side does what the published program is described to do: kernels composed layer by layer
in NCHW float32, SELU before pooling, a ResNet-18 with separate normalisations whose weights gather
gradients, the target's features computed in every step and with a graph, Adam in its default form,
and the six last weight vectors kept and averaged in NumPy. Both sides get the same start values and
data, and the losses of their first steps have to agree. They run alternately; medians. Times are
wall clock on CUDA and CPU time on a CPU; on CUDA each side's peak memory is printed, too.
`--features` may be the file of a state dict (that of lite0: features.lite0.installed_file()).
`--ours` leaves the plain side out, which takes several times the memory, and tables our step as
written and, on CUDA, as recorded: large pictures fit then.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import cast

import click
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.report import Table
from eyescream_py.features import FeatureNetwork, calibrate, chosen, frozen, load
from eyescream_py.ganless_hd.averaging import WEIGHTS
from eyescream_py.ganless_hd.losses import PerceptualLoss
from eyescream_py.ganless_hd.networks import BasisConv2d, DecoderLevel, UNet, parameter_count
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.trainer import STEPS_PER_BATCH, Trainer
from eyescream_py.system.device import choose_device, prepare_cuda
from eyescream_py.system.recording import WARM_UP

# of the losses of the first batches, which the steps before have moved by then
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


class PlainTrainer:
    """One straightforward reading of the published training step."""

    def __init__(self, network: UNet, features: torch.nn.Module, device: torch.device) -> None:
        self.network, self.features = network.to(device), features.to(device).eval()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, amsgrad=True)
        self.history: list[np.ndarray] = []
        self.losses: list[float] = []

    def train_batch(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        for _ in range(STEPS_PER_BATCH):
            outputs = self.forward(inputs)
            taps = zip(self.features(outputs), self.features(targets), strict=True)
            correlations = sum(self.pearson(a, b) for a, b in taps)
            loss = F.mse_loss(outputs, targets) - correlations
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average()
            self.losses.append(loss.item())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        network, skips = self.network, []
        for level in network.encoderLevels:
            x = F.max_pool2d(F.selu(plain_conv(cast(BasisConv2d, level), x)), 2)
            skips.append(x)
        x = skips.pop()
        for decoder in reversed(network.decoderLevels):
            x = F.selu(plain_conv(cast(DecoderLevel, decoder).node, x))
            x = F.interpolate(x, scale_factor=2.0)
            if skips:
                x = torch.cat((skips.pop(), x), 1)
        return torch.tanh(network.collapse(F.selu(plain_conv(network.finalDecoder, x))))

    @staticmethod
    def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / (a.norm() * b.norm())

    def average(self) -> None:
        parameters = list(self.network.parameters())
        flat = np.concatenate([p.detach().cpu().numpy().ravel() for p in parameters])
        self.history.append(flat)
        if len(self.history) < len(WEIGHTS):
            return
        mean = np.average(self.history, axis=0, weights=WEIGHTS)
        self.history.pop(0)
        start = 0
        for p in parameters:
            values = mean[start : start + p.numel()].astype(np.float32).reshape(p.shape)
            p.data = torch.from_numpy(values).to(p.device)
            start += p.numel()


def plain_conv(conv: BasisConv2d, x: torch.Tensor) -> torch.Tensor:
    mixes = conv.params.view(-1, 3) @ conv.basisWeights
    return F.conv2d(x, mixes.view(conv.outputs, conv.inputs, 3, 3), conv.bias, padding=1)


def pictures(batch: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random inputs and targets, (N,3,S,S) each."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, batch, 3, size // 8, size // 8, generator=generator) * 2 - 1
    inputs, targets = (F.interpolate(half, size=size, mode="bilinear") for half in coarse)
    return inputs.to(device), targets.to(device)


def seconds(trainer: Trainer | PlainTrainer, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Wall clock on CUDA; on a CPU the CPU time, which a busy machine changes less."""
    clock = time.perf_counter if batch[0].is_cuda else time.process_time
    start = clock()
    trainer.train_batch(*batch)
    if batch[0].is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def warmed_up(trainer: Trainer | PlainTrainer, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Most CUDA memory that its first batches took, in GB (10^9 bytes), beside what there was: our
    side's recording among them. 0 on a CPU.
    """
    if not batch[0].is_cuda:
        seconds(trainer, batch)
        return 0.0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP + 1):
        seconds(trainer, batch)
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def features_for(
    name: str, width: float, data: tuple[torch.Tensor, torch.Tensor]
) -> FeatureNetwork:
    """The network that sees, on the device of `data`."""
    network = load(name, width=width).to(data[0].device)
    if chosen(name) == "random":
        calibrate(network, [data[1]])
    return network


def ours_alone(
    data: tuple[torch.Tensor, torch.Tensor], width: float, recompute: bool, name: str, rounds: int
) -> None:
    """Print a table of our step on the batch, a row for each of its forms: the median batch, and
    the most memory that it took, from its first batch on. Raises UserError where a step cannot be
    recorded, after the other row.
    """
    device, (batch, _, size, _) = data[0].device, data[0].shape
    case = f"ganless-hd {size} px, batch {batch}, {chosen(name)}"
    table = Table("case", "step", "ms per batch", "peak GB")
    for capture in (False, True)[: 2 if device.type == "cuda" else 1]:
        loss = PerceptualLoss(frozen(features_for(name, width, data)))
        trainer = Trainer(UNet(width, recompute=recompute), loss, Options(capture=capture), device)
        peak = warmed_up(trainer, data)
        middle = statistics.median(seconds(trainer, data) for _ in range(rounds))
        form = f"{'recorded' if capture else 'written'} {trainer.precision}".replace("torch.", "")
        table.add(case, form, f"{1000 * middle:.1f}", f"{peak:.2f}")
        # all but the new row has been printed
        click.echo("\n".join(table.markdown().splitlines()[3 if capture else 0 :]))
        del trainer, loss
        gc.collect()


@click.command()
@click.option("--size", default=256, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--width", default=1.0, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--recompute", is_flag=True, help="Our side recomputes activations backwards.")
@click.option("--capture/--no-capture", default=False, help="On CUDA, record our side's steps.")
@click.option("--features", "name", default="random", show_default=True, help="Or lite0, FILE.")
@click.option("--gpu", default=-1, show_default=True)
@click.option("--ours", is_flag=True, help="Without the plain side.")
@click.option("--threads", default=1, show_default=True)
def main(
    size: int,
    batch: int,
    width: float,
    rounds: int,
    recompute: bool,
    capture: bool,
    name: str,
    gpu: int,
    ours: bool,
    threads: int,
) -> None:
    """Print a table of milliseconds per batch of two steps, and the ratio."""
    torch.set_num_threads(threads)
    device = choose_device(gpu, True)
    prepare_cuda(device, fast=False, strict=False)
    data = pictures(batch, size, device)
    if ours:
        ours_alone(data, width, recompute, name, rounds)
        return
    features = [features_for(name, width, data) for _ in range(2)]
    loss = PerceptualLoss(frozen(features[0]))
    trainer = Trainer(UNet(width, recompute=recompute), loss, Options(capture=capture), device)
    plain = PlainTrainer(UNet(width), features[1], device)
    compare(trainer, plain, data, rounds)


def compare(
    ours: Trainer, plain: PlainTrainer, data: tuple[torch.Tensor, torch.Tensor], rounds: int
) -> None:
    """Print both sides' losses, times and memory, and the ratio of the times."""
    device, (batch, _, size, _) = data[0].device, data[0].shape
    sides: dict[str, Trainer | PlainTrainer] = {"ours": ours, "plain": plain}
    peaks = {name: warmed_up(trainer, data) for name, trainer in sides.items()}
    (total, *_), steps = ours.take_sums()
    mean, theirs = float(total) / steps, float(np.mean(plain.losses[:steps]))
    click.echo(f"mean loss of the first {steps} steps: ours {mean:.4f}, plain {theirs:.4f}")
    if abs(mean - theirs) > CLOSE[ours.precision] * max(1.0, abs(theirs)):
        raise click.ClickException("the two sides do not compute the same")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, trainer in sides.items():
            times[name].append(seconds(trainer, data))
    middle = {name: statistics.median(values) for name, values in times.items()}
    click.echo(
        f"{size} px, batch {batch} ({parameter_count(ours.network):,} parameters), "
        f"{ours.precision}, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for name, value in middle.items():
        spread = ", ".join(f"{1000 * second:.1f}" for second in times[name])
        click.echo(f"{name:6} {1000 * value:8.1f} ms per batch  ({spread})")
        if device.type == "cuda":
            click.echo(f"{'':6} {peaks[name]:8.2f} GB at most")
    click.echo(f"ratio  {middle['plain'] / middle['ours']:8.2f}")


if __name__ == "__main__":
    main()
