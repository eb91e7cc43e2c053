"""Where the project keeps pictures when nobody says otherwise, and the type of path options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

AWS_FOLDER = "/mnt/datasets/out_aug_64x64"  # where the Lua program's --aws looked
_CHECKOUT = Path(__file__).resolve().parents[2]
TYPED = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


class PathText(click.ParamType):
    """A path: `~` becomes the home folder (shells leave `--save=~/x` as it is); an empty one that
    a person typed is refused."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        text = os.fspath(value)
        if not text and ctx and param and ctx.get_parameter_source(param.name) in TYPED:
            self.fail("give a path; it is empty.", param, ctx)
        if "\0" in text:
            self.fail("a path cannot hold the character NUL.", param, ctx)
        expanded = os.path.expanduser(text)
        if text.startswith("~") and expanded == text and not os.path.lexists(text):
            self.fail(f"{text}: that home folder is not known; give a full path.", param, ctx)
        return expanded


PATH = PathText()


def dataset_folder() -> Path:
    """`dataset/` of the checkout; of the working directory where the package is installed."""
    beside = _CHECKOUT / "dataset"
    return beside if (beside / "generate_dataset.py").is_file() else Path("dataset").absolute()


def chosen_pictures(dataset: str | None, aws: bool) -> str | None:
    """What `--dataset` names, else the folder of `--aws`; None where neither was given."""
    return AWS_FOLDER if aws and dataset is None else dataset
