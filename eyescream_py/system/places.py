"""Where the project and its pictures are, and the type of path options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from eyescream_py.system.voice import as_typed

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


def as_module(name: str = "") -> str:
    """`python -m eyescream_py.NAME`, as it works from the present folder."""
    command = f"python -m eyescream_py.{name}" if name else "python -m eyescream_py"
    return command if _found_here() else f"PYTHONPATH={as_typed(_CHECKOUT)} {command}"


def as_script(name: str) -> str:
    """`python NAME.py`, as it works from the present folder; installed, `eyescream NAME`."""
    if not (_CHECKOUT / "train.py").is_file():
        return f"eyescream {Path(name).name.replace('_', '-')}"
    return f"python {as_typed(f'{name}.py' if _found_here() else _CHECKOUT / f'{name}.py')}"


def _found_here() -> bool:
    """Whether Python finds the package from the present folder: it is installed, or lies here."""
    if not (_CHECKOUT / "train.py").is_file():
        return True
    try:
        return os.path.samefile(os.curdir, _CHECKOUT)
    except OSError:  # the present folder was removed
        return False


def dataset_folder() -> Path:
    """`dataset/` of the checkout; of the working directory where the package is installed."""
    beside = _CHECKOUT / "dataset"
    return beside if (beside / "generate_dataset.py").is_file() else Path("dataset").absolute()


def own_cache() -> Path:
    """The folder of this user for what can be made again. OSError where there is none."""
    own = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(own):  # to be ignored, by its specification
        own = os.path.expanduser("~/.cache")
    if not os.path.isabs(own):
        raise OSError("this user has no home folder")
    return Path(own) / "eyescream_py"


def chosen_pictures(dataset: str | None, aws: bool) -> str | None:
    """What `--dataset` names, else the folder of `--aws`; None where neither was given."""
    return AWS_FOLDER if aws and dataset is None else dataset
