"""One step, one batch, one evaluation: what a run does between its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from eyescream_py.ganless_hd.averaging import FlatParameters, make_averaging
from eyescream_py.ganless_hd.checkpoints import Tensors
from eyescream_py.ganless_hd.data import Pair, to_network
from eyescream_py.ganless_hd.losses import LossParts, PerceptualLoss, Reference
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.system.recording import Recorder

STEPS_PER_BATCH = 2
BETAS = (0.9, 0.999)
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class Trainer:
    """Network, optimizer, averaging and loss of a run."""

    def __init__(
        self, network: UNet, loss: PerceptualLoss, options: Options, device: torch.device
    ) -> None:
        self.network, self.loss, self.device = network.to(device), loss, device
        self.flat = FlatParameters(network)
        self.averaging = make_averaging(options.averaging, self.flat, options.ema_decay)
        on_cuda = device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            [self.flat.vector], lr=options.lr, betas=BETAS, amsgrad=True, fused=True,
            capturable=on_cuda,
        )  # fmt: skip
        self.precision = chosen_precision(options.precision, device)
        if on_cuda and self.precision != torch.float32:
            loss.features.to(self.precision)  # or autocast would round them in each pass
        recorder = Recorder(device, options.capture, "give --no-capture")
        self._look, self._descend = recorder.step(self._looked), recorder.step(self._descended)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # total, features, pixels
        self.steps = 0  # that `sums` is over

    def train_batch(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Two steps on a batch of (N, 3, S, S) in -1..1; the output before the last step."""
        reference = Reference(targets, self._look(targets))
        for _ in range(STEPS_PER_BATCH):
            outputs = self.step(inputs, reference)
        return outputs

    def step(self, inputs: torch.Tensor, reference: Reference) -> torch.Tensor:
        """One optimizer step, and the averaging after it; the loss is added up."""
        outputs, row = self._descend(inputs, reference.pictures, *reference.activations)
        self.averaging.after_step(self.flat)
        self.sums += row
        self.steps += 1
        return outputs

    def _looked(self, targets: torch.Tensor) -> list[torch.Tensor]:
        with self._autocast():
            return self.loss.reference(targets).activations

    def _descended(
        self, inputs: torch.Tensor, targets: torch.Tensor, *activations: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is done on the device alone: one optimizer step; outputs and losses before it."""
        outputs, parts = self.forward(inputs, Reference(targets, list(activations)))
        self.flat.zero_grad()
        parts.total.backward()
        self.optimizer.step()
        return outputs.detach(), as_row(parts)

    def forward(self, inputs: torch.Tensor, reference: Reference) -> tuple[torch.Tensor, LossParts]:
        """Outputs in -1..1 and how far they are from the reference."""
        with self._autocast():
            outputs = self.network(inputs)
            return outputs, self.loss(outputs, reference)

    def _autocast(self) -> torch.autocast:
        reduced = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced)

    @torch.no_grad()
    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs in -1..1 of the present weights."""
        with self._autocast():
            return self.network(inputs)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Pair]) -> dict[str, float]:
        """Mean losses of the present weights over (input, target) batches of uint8."""
        sums, count = torch.zeros_like(self.sums), 0
        for pair in batches:
            inputs, targets = (to_network(half, self.device) for half in pair)
            with self._autocast():
                reference = self.loss.reference(targets)
            sums += len(inputs) * as_row(self.forward(inputs, reference)[1])
            count += len(inputs)
        return named(sums / count)

    def take_sums(self) -> tuple[torch.Tensor, int]:
        """Sums of total, features and pixels on the CPU, over how many steps; counting starts anew.

        The only call that waits for the device.
        """
        sums, steps = self.sums.cpu(), self.steps
        self.sums, self.steps = torch.zeros_like(self.sums), 0
        return sums, steps

    def averaged_weights(self) -> torch.Tensor:
        """The weights that a finished network consists of, (count,)."""
        teacher = self.averaging.teacher()
        return self.flat.vector.detach() if teacher is None else teacher

    def raw_weights(self) -> torch.Tensor:
        """The newest weights as the optimizer left them, before any averaging: (count,)."""
        raw = self.averaging.raw()
        return self.flat.vector.detach() if raw is None else raw

    def state(self) -> Tensors:
        """All that the next step depends on, as named tensors."""
        adam = self.optimizer.state[self.flat.vector]
        return {
            "weights": self.flat.vector,
            **{f"adam.{name}": adam[name] for name in ADAM_STATE if name in adam},
            **{f"averaging.{name}": value for name, value in self.averaging.state().items()},
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back the tensors that `state` returned."""
        self.flat.set(state["weights"])
        if "adam.step" in state:
            adam = {name: state[f"adam.{name}"].to(self.device) for name in ADAM_STATE}
            self.optimizer.state[self.flat.vector] = adam
        prefix = "averaging."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.averaging.restore(kept)


def chosen_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA devices that have it and float32 elsewhere."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def as_row(parts: LossParts) -> torch.Tensor:
    """Total, features, pixels: (3,) float64 on the device."""
    return torch.stack((parts.total, parts.features, parts.pixels)).detach().double()


def named(row: torch.Tensor) -> dict[str, float]:
    """The parts of a loss by name, from a row of `as_row`; waits for the device."""
    return dict(zip(("total", "features", "pixels"), row.tolist(), strict=True))
