"""`--network`: what shapes the networks is taken from the file where nobody typed it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import click

from eyescream_py.cli.recipes import of_use
from eyescream_py.system.errors import UserError, first_line
from eyescream_py.system.ranks import is_first
from eyescream_py.system.voice import as_typed, say

SHAPING = {
    "scale", "grayscale", "noiseDim", "coarseSize", "fineSize", "G_arch", "D_arch", "G_planes",
    "D_planes", "autoencoder",
}  # fmt: skip
# of the place where a run is done, and of what is looked at: no part of what is learned
OF_THE_PLACE = {
    "save", "saveFreq", "network", "noplot", "plot", "threads", "gpu", "window", "aws", "dataset",
    "log_every", "visdom_server", "visdom_port", "visdom_env", "precision", "strict", "fast",
    "no_capture", "no_fuse", "on_nan", "recipe", "denoise", "weightsVisFreq", "evaluate_every",
    "seed", "K", "hidden_G", "hidden_D",
}  # fmt: skip
Follow = Callable[[Mapping[str, Any], frozenset[str]], dict[str, Any]]


def follow(
    values: Mapping[str, Any], typed: frozenset[str], recipe: Follow | None = None
) -> tuple[dict[str, Any], frozenset[str]]:
    """`values` of a trainer's parameters and which of them are chosen, with what the file of
    `--network` adds to either, and then `recipe`, which leaves alone what is chosen.

    Where the file's options lack what shapes its networks, or contradict them, the networks decide.
    Says what it takes over, and which other options the file's run had: those count again only
    where they are typed, as in Lua. The context of the command in progress is told, so that what
    is saved as `opt` is what was used.
    """
    path, stored, shown = _stored(values, typed) if values["network"] else (Path(), {}, {})
    _, nonsense = _differing(values, typed, stored, SHAPING)
    if nonsense:
        raise UserError(f"--network={path}: its option {nonsense[0]}")
    taken, _ = _differing(values, typed, {**stored, **shown}, SHAPING)
    taken = of_use(values, taken)
    click.get_current_context().params.update(taken)
    values, typed = {**values, **taken}, typed | taken.keys()
    # a recipe's networks are for new runs: those of a file stay, also where they are the defaults
    kept = typed | SHAPING if stored or shown else typed
    values = recipe(values, kept) if recipe else values
    had, _ = _differing(values, typed, stored, stored.keys() - SHAPING - OF_THE_PLACE)
    _tell(f"Taken from {path}:", taken)
    _tell(f"Type these to go on as {path} did:", had)
    return dict(values), typed


def _stored(
    values: Mapping[str, Any], typed: frozenset[str]
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file of `--network`, the options it keeps by flag, and those that its networks show
    better: sizes, and architectures that no option names.
    """
    from eyescream_py.networks import checkpoints
    from eyescream_py.results.shown import SIZES, shown_options

    path = checkpoints.find(values["network"], Path(values["save"]))
    content = checkpoints.read(path)
    kept = content.get("opt")
    stored = {str(k): v for k, v in kept.items()} if isinstance(kept, Mapping) else {}
    shown = shown_options(content, path)
    _demand_own_kind(shown, path)
    name = stored.get("autoencoder")
    if name and "autoencoder" not in typed and not _is_there(name, values["save"]):
        if "AE_decoder" in content:  # its G corrects what that makes
            raise UserError(
                f"--network={path} was trained with --autoencoder={name}, which is no file now; "
                "type --autoencoder=FILE"
            )
        del stored["autoencoder"]
    del content, kept
    gc.collect()  # a file's tables hold one another: all of it would stay until the run reads it
    return path, stored, {k: v for k, v in shown.items() if k in SIZES or k not in stored}


def _is_there(name: Any, save: str) -> bool:
    """Whether `--autoencoder` finds a file of that name."""
    from eyescream_py.networks import checkpoints

    try:
        checkpoints.find(str(name), Path(save))
    except UserError:
        return False
    return True


def _demand_own_kind(shown: Mapping[str, Any], path: Path) -> None:
    """Refuse the file of an upscaler where faces are trained, and the other way round: both hold a
    G and a D, and would be found fault with layer by layer."""
    refines = any("--fineSize" in p.opts for p in click.get_current_context().command.params)
    if shown and ("fineSize" in shown) != refines:
        kind = "no upscaler of train_c2f.py" if refines else "an upscaler, of train_c2f.py"
        raise UserError(f"--network={path} holds {kind}; give a file of this trainer")


def _differing(
    values: Mapping[str, Any], typed: frozenset[str], stored: Mapping[str, Any], names: Set[str]
) -> tuple[dict[str, Any], list[str]]:
    """The stored options among `names` that nobody typed and that are not the present ones, by
    parameter; and what is wrong with those that no flag could have set.
    """
    context = click.get_current_context()
    found, nonsense = {}, []
    for parameter in context.command.params:
        flag, name = parameter.opts[-1], parameter.name or ""
        value = stored.get(flag[2:]) if flag[2:] in names else None
        # Lua's false and "" stand for what was not given
        given = value is not None and value is not False and value != ""
        if not given or name in typed or name not in values:
            continue
        try:
            chosen = _converted(parameter, value, context)
        except (click.BadParameter, TypeError, ValueError, OverflowError) as error:
            why = first_line(getattr(error, "message", error))
            nonsense.append(f"{flag[2:]} makes no sense ({why}); type {flag}")
            continue
        if chosen != values[name]:
            found[name] = chosen
    return found, nonsense


def _converted(parameter: click.Parameter, value: Any, context: click.Context) -> Any:
    """`value` as if it had been typed."""
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"it is a {type(value).__name__}")
    if isinstance(value, bool) is not isinstance(parameter.type, click.types.BoolParamType):
        raise ValueError(f"it is {value!r}")
    text = value if isinstance(value, bool) else str(value)
    return parameter.type.convert(text, parameter, context)


def _tell(words: str, chosen: Mapping[str, Any]) -> None:
    if not chosen or not is_first():
        return
    flags = {p.name: p.opts[-1] for p in click.get_current_context().command.params}
    said = [flags[n] if v is True else f"{flags[n]}={_text(v)}" for n, v in chosen.items()]
    say(f"{words} {' '.join(said)}")


def _text(value: Any) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return as_typed(text.removesuffix(".0") if isinstance(value, float) else text)
