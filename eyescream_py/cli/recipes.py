"""`--recipe`: other defaults for `train.py`, found by `benchmarks/recipes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

RECIPES: dict[str, Mapping[str, Any]] = {
    "lua": {},
    "best": {"D_r1": 0.1, "G_ema": 0.98},
}


def option(command: Any) -> Any:
    return click.option(
        "--recipe",
        type=click.Choice(list(RECIPES)),
        default="lua",
        show_default=True,
        help="best: what gave the best faces in ten minutes, for all flags not given.",
    )(command)


def follow(values: Mapping[str, Any], typed: frozenset[str]) -> dict[str, Any]:
    """`values` of a command's parameters with the chosen recipe's for those that nobody typed.

    The context of the command in progress is told, so that what is saved as `opt` is what was used.
    """
    chosen = RECIPES[values["recipe"]]
    ours = {name: value for name, value in chosen.items() if name not in typed}
    click.get_current_context().params.update(ours)
    return {name: v for name, v in {**values, **ours}.items() if name != "recipe"}
