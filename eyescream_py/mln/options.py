"""Options that several MLN commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click

from eyescream_py.mln.formats.text_format import parse_text
from eyescream_py.mln.params import (
    PATH_FIELDS,
    Params,
    key_fields,
    params_from,
    params_text,
    read_params,
)
from eyescream_py.system.numbers import FINITE
from eyescream_py.system.places import PATH

if TYPE_CHECKING:
    import torch

Command = Callable[..., Any]
_TYPES = {int: click.INT, float: FINITE, str: click.STRING}

# What says how a scan was taken, for commands that train nothing.
PROTOCOL_KEYS = (
    "LabelsH", "LabelsW", "nTraj", "DataH", "nccInData", "nccToUse", "RealDatancc", "BaseTSDataP",
    "BaseNUFTDataP", "UseB0", "nSimSegments", "AcqTime",
)  # fmt: skip


def params_options(keys: Collection[str] | None = None) -> Callable[[Command], Command]:
    """--params, --ignore-unknown and one flag per key of Params.txt (or the given ones only); the
    flag wins over the file.
    """

    def decorated(command: Command) -> Command:
        for key, item in reversed(key_fields().items()):
            if keys is not None and key not in keys:
                continue
            kind = PATH if item.name in PATH_FIELDS else _TYPES[type(item.default)]
            shown = f" [{item.default}]" if item.default != "" else ""
            text = item.metadata["help"] + shown
            command = click.option(f"--{key}", f"key_{key}", type=kind, default=None, help=text)(
                command
            )
        command = click.option(
            "--ignore-unknown",
            is_flag=True,
            help="Go on although Params.txt has keys this program does not know.",
        )(command)
        return click.option(
            "--params",
            "params_file",
            type=PATH,
            metavar="FILE",
            default=None,
            help="Params.txt; flags win over it.",
        )(command)

    return decorated


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that are there.")
threads_option = click.option("--threads", type=click.IntRange(1), default=4, show_default=True)


def machine_options(command: Command) -> Command:
    """--gpu and --threads, as in every program of the package."""
    return click.option(
        "--gpu", type=int, default=0, show_default=True, help="CUDA device; -1 is the CPU."
    )(threads_option(command))


def chosen_keys(flags: dict[str, Any]) -> dict[str, Any]:
    """The keys of Params.txt that were given as flags."""
    return {name.removeprefix("key_"): value for name, value in flags.items() if value is not None}


def given_params(params_file: str | None, ignore_unknown: bool, flags: dict[str, Any]) -> Params:
    """Params.txt under the flags."""
    if params_file is None:
        return params_from(chosen_keys(flags))
    return read_params(params_file, chosen_keys(flags), ignore_unknown)


def kept_params(saved: Params, file: str, flags: dict[str, Any]) -> Params:
    """The parameters that a checkpoint `file` has `saved`, under the flags."""
    chosen = chosen_keys(flags)
    name = f"{file} and the flags" if chosen else file
    return params_from(parse_text(params_text(saved)) | chosen, name)


def chosen_device(gpu: int, threads: int) -> torch.device:
    """The device of --gpu, after --threads has been set.

    CUDA multiplies whole float32 numbers here: images are compared to parts of a thousand.
    """
    from eyescream_py.system.device import choose_device, prepare_cuda, set_threads

    source = click.get_current_context().get_parameter_source
    given = click.core.ParameterSource.COMMANDLINE
    set_threads(threads, source("threads") == given)
    device = choose_device(gpu, source("gpu") == given)
    prepare_cuda(device, fast=False, strict=True)
    return device
