"""What a training run tells while it runs: progress lines, metrics.jsonl, curves, sample sheets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eyescream_py.srez.batches import held_out_pictures
from eyescream_py.srez.data import Faces
from eyescream_py.srez.evaluation import enlarge, finest_level, psnr, sliced_wasserstein
from eyescream_py.srez.networks import Generator
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.options import Options
from eyescream_py.srez.pictures import bicubic, save_png, sheet, strip
from eyescream_py.system.errors import UserError
from eyescream_py.system.folders import make_again
from eyescream_py.system.json_lines import JsonLines
from eyescream_py.system.saves import spared

if TYPE_CHECKING:
    from eyescream_py.plots.windows import Plots

REPORT_PERIOD = 10  # batches
SHEET_ROWS = 8
FORK_SHEET_ROWS = 10
STRIP_LENGTH = 10
FORK_TEST_COUNT = 10  # the fork sums its two qualities over the first ten


class DivergedError(UserError):
    """A run that holds values which are no numbers any more."""

    def __init__(self, batch: int, what: str) -> None:
        super().__init__(
            f"the {what} are no numbers any more at batch {batch}; checkpoints written before stay "
            "as they are: try a smaller --learning_rate_start"
        )


def metrics_path(options: Options) -> Path:
    """The file of a run's measurements, one JSON object per line."""
    return Path(options.summary_dir) / "metrics.jsonl"


class Report:
    """Writes beside a run; `resumed_at` batches the metrics file is cut back to."""

    def __init__(
        self,
        options: Options,
        test: Faces,
        device: torch.device,
        plots: Plots | None,
        say: Callable[[str], None],
        resumed_at: int = 0,
    ) -> None:
        self.options, self.plots, self.say = options, plots, say
        self.inputs, self.label = held_out_pictures(test, options, device)
        path = metrics_path(options)
        keep = (lambda record: record.get("batch", 0) <= resumed_at) if resumed_at else None
        self.metrics = JsonLines(path, keep)

    def progress(self, batch: int, seconds: float, losses: dict[str, Tensor]) -> None:
        """One line and one record; DivergedError where a loss is no longer a number."""
        values = {name: float(value) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise DivergedError(batch, "losses")
        total = self.options.train_time
        done = max(
            seconds / 60 / total,
            batch / self.options.max_batches if self.options.max_batches else 0,
        )
        left = seconds / 60 * (1 / max(done, 1e-9) - 1)
        self.say(
            f"Progress[{min(100, int(100 * done)):3d}%], ETA[{int(left):4d}m], Batch [{batch:4d}], "
            f"G_Loss[{values.get('generator_loss', float('nan')):3.3f}], "
            f"D_Real_Loss[{values['discriminator_real_loss']:3.3f}], "
            f"D_Fake_Loss[{values['discriminator_fake_loss']:3.3f}]"
        )
        self.metrics.write({"batch": batch, "seconds": round(seconds, 3), **values})
        if self.plots:
            losses_only = {k: v for k, v in values.items() if k.endswith("loss")}
            self.plots.curve("srez losses", batch, losses_only, "losses", "batch", "loss")
            distance = {"estimate": values["wasserstein_estimate"]}
            self.plots.curve("srez distance", batch, distance, "Wasserstein estimate", "batch")

    def samples(self, batch: int, seconds: float, generator: Generator) -> None:
        """The sheet (or, from noise, the strip) of held-out faces and, where there is a truth,
        their quality.
        """
        generated = enlarge(generator, self.inputs, self.options)
        with spared(f"pictures to {self.options.train_dir}"):
            self._save_pictures(batch, generated)
        if self.options.input != "noise":
            self._quality(batch, seconds, generated)
        if self.plots:
            self.plots.images("srez samples", generated[:50].cpu(), f"outputs, batch {batch}")

    def _save_pictures(self, batch: int, generated: Tensor) -> None:
        folder = Path(self.options.train_dir)
        make_again(folder)
        from_noise, fork = self.options.input == "noise", self.options.preset == "2017"
        if from_noise:
            save_png(folder / f"gen_batch{batch:06d}_out_s.png", strip(generated, STRIP_LENGTH))
        if fork or not from_noise:
            rows, ending = (FORK_SHEET_ROWS, "out_l") if fork else (SHEET_ROWS, "out")
            inputs = self.inputs.clamp(0, 1)
            picture = sheet(inputs, generated, self.label, rows)
            save_png(folder / f"batch{batch:06d}_{ending}.png", picture)

    def _quality(self, batch: int, seconds: float, generated: Tensor) -> None:
        difference = generated[:FORK_TEST_COUNT] - self.label[:FORK_TEST_COUNT]
        quality = {
            "l1_quality": float(difference.abs().sum((1, 2, 3)).mean()),
            "mse_quality": float(difference.square().sum((1, 2, 3)).mean()),
            "psnr": psnr(generated, self.label),
            "psnr_bicubic": psnr(bicubic(self.inputs, self.label.shape[-1]), self.label),
            "consistency": float(tie_loss(generated, self.inputs)),
            "detail_swd": sliced_wasserstein(finest_level(self.label), finest_level(generated)),
        }
        self.metrics.write({"batch": batch, "seconds": round(seconds, 3), **quality})
        if self.plots:
            shown = {k: quality[k] for k in ("psnr", "psnr_bicubic")}
            self.plots.curve("srez psnr", batch, shown, "PSNR of held-out faces", "batch", "dB")

    def close(self) -> None:
        self.metrics.close()
