"""Which numbers of a Params.txt have to be positive, and what none of them may exceed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyescream_py.system.errors import UserError

POSITIVE = (
    "image_side",
    "grid_side",
    "k_max",
    "neighbours",
    "segments",
    "learning_rate",
    "half_life",
    "batch_size",
    "train_minutes",
    "picture_minutes",
    "checkpoint_minutes",
    "bank_uses",
    "images_to_load",
    "init_examples",
    "init_channels",
    "init_ridge",
    "readout_ms",
    "run_count",
)
NOT_NEGATIVE = (
    "samples",
    "coils_in_data",
    "coils",
    "coils_in_scan",
    "feature_size",
    "noise",
    "bank_size",
    "l1_weight",
    "l2_weight",
    "phase_only_weight",
    "init_sweeps",
    "seed",
    "show_scan",
    "run_on_data",
    "use_b0",
    "trainable_fourier",
    "shared_fourier",
    "complex_bias",
)


# Far above every real protocol, and low enough that no size overflows or fills a machine by itself.
MOST = {
    "image_side": 4096,
    "grid_side": 4096,
    "neighbours": 4096,
    "segments": 4096,
    "init_channels": 4096,
    "simulated_segments": 4096,
    "batch_size": 4096,
    "init_examples": 1 << 20,
    "init_sweeps": 1000,
    "run_count": 10_000,
    "seed": 1 << 40,
    "show_scan": 1,
    "run_on_data": 1,
    "use_b0": 1,
    "trainable_fourier": 1,
    "shared_fourier": 1,
    "complex_bias": 1,
    "learning_rate": 1e3,
    "l1_weight": 1e6,
    "l2_weight": 1e6,
    "phase_only_weight": 1e6,
    "noise": 1e3,
    "readout_ms": 1e6,
    "init_ridge": 1e6,
    "phase_linear": 1e3,
    "phase_quadratic": 1e3,
    "phase_scale": 1e3,
}


def check_ranges(values: Mapping[str, Any], keys: Mapping[str, str], name: str) -> None:
    """Compare the fields of a `Params` with the tables above. Raises UserError that begins with
    `name`, of a file, and names the first wrong field's key in such a file.
    """
    for item, most in MOST.items():
        if values[item] > most:
            raise UserError(f"{name}: {keys[item]} {values[item]}: give a number of at most {most}")
    for item in (*POSITIVE, *NOT_NEGATIVE):
        value = values[item]
        if value < 0 or (value == 0 and item in POSITIVE):
            least = "above 0" if item in POSITIVE else "of at least 0"
            raise UserError(f"{name}: {keys[item]} {value}: give a number {least}")
