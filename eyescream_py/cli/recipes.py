"""`--recipe`: other defaults for `train.py`, found by `benchmarks/recipes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from eyescream_py.networks.names import D_SMALL, G_SMALL

BEST: Mapping[str, Any] = {
    "G_arch": "conv",
    "D_arch": "small",
    "batch_size": 32,  # 16 real and 16 generated pictures
    "shared_pictures": True,
    "D_adam_lr": 1e-3,
    "G_adam_lr": 1e-3,
    "adam_beta1": 0.5,
    "adam_beta2": 0.99,
    "lr_fall": 0.5,
    "D_r1": 0.05,
    "D_r1_every": 8,
    "G_ema_power": 13.0,
    # what Lua's networks needed and these do not
    "D_L2": 0.0,
    "D_clamp": 0.0,
    "G_clamp": 0.0,
    "evaluate_every": 5,
}
# an epoch takes two to three times as long, and draws fewer faults: docs/evaluate.md
LARGE = {"G_arch": "deep", "D_arch": "deep", "G_planes": 192, "D_planes": 192}
RECIPES: dict[str, Mapping[str, Any]] = {"lua": {}, "best": BEST, "large": {**BEST, **LARGE}}


def option(command: Any) -> Any:
    """`--recipe`: the defaults of all flags that are not typed."""
    return click.option(
        "--recipe",
        type=click.Choice(list(RECIPES)),
        default="lua",
        show_default=True,
        help="Defaults of the flags not given. lua: the Lua program's; best: of the best faces in "
        "minutes; large: bigger networks, for 32 px and more and from ten minutes on.",
    )(command)


def follow(values: Mapping[str, Any], typed: frozenset[str]) -> dict[str, Any]:
    """`values` of a command's parameters with the chosen recipe's for those that nobody typed.

    The context of the command in progress is told, so that what is saved as `opt` is what was used.
    """
    chosen = RECIPES[values["recipe"]]
    ours = {name: value for name, value in chosen.items() if name not in typed}
    if "G_ema" in typed:  # which --G_ema_power would silence
        ours.pop("G_ema_power", None)
    ours = of_use(values, ours)
    click.get_current_context().params.update(ours)
    return {name: v for name, v in {**values, **ours}.items() if name != "recipe"}


def of_use(values: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """What of `added`, which nobody typed, the networks of both have a use for: an autoencoder's G
    is no choice, and only networks of the recipes have so many planes.
    """
    both, idle = {**values, **added}, set()
    for player, kinds in (("G", G_SMALL), ("D", D_SMALL)):
        if both.get(f"{player}_arch") not in kinds:
            idle.add(f"{player}_planes")
    if both.get("autoencoder"):
        idle |= {"G_arch", "G_planes"}
    return {name: value for name, value in added.items() if name not in idle}


def of_less_memory(values: Mapping[str, Any]) -> str:
    """What a person may give a smaller number of, or another recipe, where memory runs out."""
    planes = [f"--{name}" for name in ("G_planes", "D_planes") if values[name]]
    flags = ", ".join([*planes, "--scale, --batchSize or --noiseDim"])
    is_large = click.get_current_context().params["recipe"] == "large"
    return f"{flags}, or --recipe=best" if is_large else flags
