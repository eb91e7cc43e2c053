"""Which of the trainers' options can change nothing beside their others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyescream_py.system.idle import PLOTS, say_idle


def tell_of_game(values: Mapping[str, Any]) -> None:
    """Name the flags of `train.py` and `train_c2f.py` that were typed and can change nothing."""
    methods = {player: values[f"{player}_optmethod"] for player in "DG"}
    for player, method in methods.items():
        when = f"with --{player}_optmethod={method}"
        sgd = [f"{player}_{name}" for name in ("SGD_lr", "SGD_momentum", "sgd_lr", "sgd_momentum")]
        say_idle((method != "sgd", when, sgd), (method != "adam", when, [f"{player}_adam_lr"]))
    say_idle(
        ("adam" not in methods.values(), "without Adam", ("adam_beta1", "adam_beta2")),
        (not values.get("D_r1"), "without --D_r1", ("D_r1_every",)),
        (values.get("G_ema_power"), "with --G_ema_power", ("G_ema",)),
    )
    _tell_of_run(values)
    say_idle((values["noplot"], "with --noplot", ("weights_vis_freq", "denoise")))


def tell_of_reconstruction(values: Mapping[str, Any], method: str = "adam") -> None:
    """The same for `train_autoencoder.py` and `train_denoiser.py`; `method` optimizes."""
    say_idle(
        (method != "sgd", f"with --optmethod={method}", ("learning_rate", "momentum")),
        (True, "by this program", ("K", "hidden_G", "hidden_D")),
    )
    _tell_of_run(values)


def _tell_of_run(values: Mapping[str, Any]) -> None:
    say_idle(
        (values["dataset"], "with --dataset", ("aws",)),
        (values["noplot"], "where no windows are shown", PLOTS),
    )
