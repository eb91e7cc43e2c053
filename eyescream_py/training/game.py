"""An adversarial game as a training task: printed lines, figures, checkpoints. `train` and
`train_c2f` share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from eyescream_py.game.adversarial import Game
from eyescream_py.game.averaging import Ema
from eyescream_py.game.capture import CapturedIteration
from eyescream_py.networks import checkpoints
from eyescream_py.plots.windows import Plots
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training.run import Schedule

SATURATED_EPOCHS = 5
CURVES = {  # window -> title, label, {curve: key in the metrics}
    "loss": ("loss of D and G", "loss", {"D": "D_loss", "G": "G_loss"}),
    "accuracy": ("accuracy of D", "share right", {"D": "D_accuracy"}),
    "parzen": ("distance to the truth (Parzen)", "2-norm", {"G": "parzen"}),
    "quality": ("distance to real pictures (SWD x1000)", "SWD", {"G": "swd"}),
}


class GameTask:
    """All of a `training.Task` but the windows (`show`) and the pictures (`save_pictures`)."""

    confusion_title = "Confusion of D:"

    def __init__(
        self,
        game: Game,
        schedule: Schedule,
        source: RandomSource,
        plots: Plots,
        file_name: str,
        option_table: Mapping[str, Any],
        ema: Ema | None = None,
    ) -> None:
        self.game, self.schedule, self.source, self.plots = game, schedule, source, plots
        self.file_name, self.option_table, self.ema = file_name, dict(option_table), ema
        self._saturated = 0
        self._step: Callable[..., None] = game.iteration
        if game.figures.device.type == "cuda":
            self._step = CapturedIteration(game, schedule.batch, source)

    @property
    def sampler(self) -> nn.Module:
        """The generator whose pictures are shown: the averaged one where there is one."""
        return self.ema.average if self.ema else self.game.G.network

    def begin_epoch(self) -> None:
        self.game.feed.begin_epoch()
        self.game.figures.zero()
        print(f"<dataset> loaded {self.schedule.length} random examples")

    def iteration(self, n: int, log: Callable[[str, float | None], None] | None) -> None:
        self._step(n, log)
        if self.ema:
            self.ema.update()

    def end_epoch(self, epoch: int, seconds: float) -> dict[str, Any]:
        figures, length = self.game.figures, self.schedule.length
        steps = len(self.schedule) * self.game.D_iterations
        trained = int(figures.sums["D_trained"])
        print(f"<trainer> time required for this epoch = {seconds:.0f} s")
        print(f"<trainer> time to learn 1 sample = {1000 * seconds / length:f} ms")
        print(f"<trainer> trained D {trained} of {steps} times.")
        print(self.confusion_title)
        print(figures.confusion)
        cells = figures.confusion.counts.tolist()
        record = {
            "images_per_second": round(length / seconds, 1),
            "D_loss": float(figures.sums["D_loss"]) / max(steps, 1),
            "G_loss": float(figures.sums["G_loss"])
            / max(len(self.schedule) * self.game.G_iterations, 1),
            "D_accuracy": (cells[0] + cells[3]) / max(sum(cells), 1),
            "D_trained": trained,
            "D_steps": steps,
        }
        print(
            "<trainer> epoch {}: loss D {D_loss:.4f}, G {G_loss:.4f}, "
            "accuracy of D {D_accuracy:.1%}, {images_per_second:.0f} images/s".format(
                epoch, **record
            )
        )
        self._hint_at_saturation(record["D_accuracy"])
        return record

    def curves(self, epoch: int, record: Mapping[str, Any]) -> None:
        for window, (title, label, series) in CURVES.items():
            values = {name: record[key] for name, key in series.items() if key in record}
            if values:
                self.plots.curve(window, epoch, values, title, "epoch", label)

    def _hint_at_saturation(self, accuracy: float) -> None:
        self._saturated = self._saturated + 1 if accuracy > 0.995 else 0
        if self._saturated == SATURATED_EPOCHS:
            print(
                f"D has been right about every picture for {SATURATED_EPOCHS} epochs, so G learns "
                "little: --D_maxAcc=0.9 holds D back, --D_L2 or a smaller --D_adam_lr tame it."
            )
            self._saturated = 0

    def is_finite(self) -> bool:
        sums = self.game.figures.sums
        if not all(math.isfinite(float(sums[name])) for name in ("D_loss", "G_loss")):
            return False
        return all(player.optimizer.is_finite() for player in (self.game.D, self.game.G))

    def halve_learning_rate(self) -> None:
        for player in (self.game.D, self.game.G):
            player.optimizer.param_groups[0]["lr"] /= 2
        if isinstance(self._step, CapturedIteration):
            self._step.reset()

    def networks(self) -> dict[str, nn.Module]:
        networks = {"D": self.game.D.network, "G": self.game.G.network}
        return {**networks, "G_ema": self.ema.average} if self.ema else networks

    def content(self, epoch: int) -> dict[str, Any]:
        return {"opt": self.option_table, "epoch": epoch}

    def state(self) -> dict[str, Any]:
        game = self.game
        return {
            "D_optimizer": game.D.optimizer.export_state(),
            "G_optimizer": game.G.optimizer.export_state(),
            "figures": game.figures.state(),
            "gate": {"accuracies": game.gate.accuracies, "count": game.gate.count},
            "feed": game.feed.state(),
            "random": self.source.state(),
            "taming": game.taming.state(),
            "averaged": self.ema.updates if self.ema else 0,
        }

    def load(self, content: Any, path: Path) -> bool:
        game = self.game
        for name, network in (("D", game.D.network), ("G", game.G.network)):
            checkpoints.copy_into(network, content, name, path)
        if self.ema:
            checkpoints.copy_into(
                self.ema.average, content, "G_ema" if "G_ema" in content else "G", path
            )
        if "resume" in content:
            return self._load_state(content["resume"]["state"], path)
        print(f"{path} holds no optimizer state (a file of the Lua program): starting it anew.")
        return True

    def _load_state(self, state: Any, path: Path) -> bool:
        game = self.game
        try:
            game.D.optimizer.import_state(state["D_optimizer"])
            game.G.optimizer.import_state(state["G_optimizer"])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--network={path}: {error}; give the --D_optmethod and "
                "--G_optmethod it was trained with"
            ) from error
        game.figures.set_state(state["figures"])
        self._load_gate(state["gate"])
        game.taming.set_state(state.get("taming", {}))
        if self.ema:
            self.ema.updates = int(state.get("averaged", 0))
        try:
            self.source.set_state(state["random"])
        except KeyError as error:
            raise UserError(f"--network={path} was trained with another --rng") from error
        return game.feed.set_state(state["feed"])

    def _load_gate(self, gate: Any) -> None:
        ours = self.game.gate
        if len(gate["accuracies"]) == len(ours.accuracies):  # its length follows the batch size
            ours.accuracies.copy_(gate["accuracies"])
            ours.count.copy_(gate["count"])
