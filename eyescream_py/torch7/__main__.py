"""Look into Torch 7 files (.t7, .net) and convert them: python -m eyescream_py.torch7 --help"""

import signal

# while modules are imported Ctrl-C ends this without a word; where it is ignored it stays so
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from .files.replacing import replaced

# endings of formats that somebody may hope for
OTHERS = (".npy", ".npz", ".json", ".pt", ".pth", ".h5", ".hdf5", ".mat", ".csv", ".pkl", ".pb")


class _FileError(click.ClickException):
    exit_code = 2


class _FilePath(click.Path):
    """A path, not empty, in which `~` is the home folder: shells leave `--source=~/model.py`."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not value:
            self.fail("give a path; it is empty.", param, ctx)
        return super().convert(os.path.expanduser(value), param, ctx)


class _Command(click.Command):
    """A command about FILE, for which the memory may not suffice."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (MemoryError, RuntimeError, ImportError) as error:
            from .errors import out_of_memory

            if not out_of_memory(error):
                raise
            reason = "there is not enough memory for it; free some"
            raise _FileError(f"{context.params['file']}: {reason}") from error


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, help="Look into Torch 7 files (.t7, .net) and convert them.")
def main() -> None:
    pass


def _form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--in-long-size and --in-ascii: how to read a file where finding out fails."""
    command = click.option(
        "--in-long-size",
        type=click.Choice(["4", "8"]),
        help="Bytes of a long in FILE [default: find out].",
    )(command)
    return click.option(
        "--in-ascii/--in-binary", default=None, help="The form of FILE [default: find out]."
    )(command)


@main.command()
@click.argument("file", type=_FilePath(dir_okay=False))
@_form_options
def show(file: str, in_long_size: str | None, in_ascii: bool | None) -> None:
    """Print what FILE holds: epoch, options, networks with shapes and parameter counts."""
    value = _load(file, in_long_size, in_ascii)
    from .describe import describe

    try:
        for line in describe(value):
            click.echo(line)
    except BrokenPipeError:  # as `| head` does; click ends without a word
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again
        _fail("standard output", error)


@main.command()
@click.argument("file", type=_FilePath(dir_okay=False))
@click.argument("out", type=_FilePath(dir_okay=False))
@click.option("--ascii", is_flag=True, help="Write the ASCII form.")
@click.option("--long-size", type=click.Choice(["4", "8"]), help="Bytes of a long in OUT.")
@click.option("--safetensors", is_flag=True, help="Write the tensors as safetensors.")
@click.option(
    "--source",
    type=_FilePath(dir_okay=False),
    metavar="MODEL.py",
    help="Write the network as Python source too, which loads OUT (.safetensors).",
)
@click.option("--network", default="", metavar="KEYS", help="The network within FILE, as G.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="The input of a .pt2 or .onnx: 1x3x64x64, or 1x10:long for indices; once for each.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@_form_options
def convert(
    file: str,
    out: str,
    ascii: bool,
    long_size: str | None,
    safetensors: bool,
    source: str | None,
    network: str,
    inputs: tuple[str, ...],
    overwrite: bool,
    in_long_size: str | None,
    in_ascii: bool | None,
) -> None:
    """Write what FILE holds to OUT, by default in binary with 8-byte longs.

    OUT.safetensors (or --safetensors): each tensor is named by its keys (G.modules.1.weight), one
    that is met again is left out, and numbers, strings and class names become metadata.

    OUT.safetensors with --source MODEL.py: the weights of one network, and a Python file that
    defines it and loads them, without this package.

    OUT.pt2, OUT.onnx: one network as torch.export or ONNX has it, for inputs of one shape.
    """
    kind = Path(out).suffix.lower()
    safetensors = safetensors or kind == ".safetensors"
    if ascii + bool(long_size) + safetensors + (kind in (".pt2", ".onnx")) > 1:
        raise click.UsageError("--ascii, --long-size and --safetensors exclude each other")
    if source and not safetensors:
        raise click.UsageError("--source goes with an OUT that ends in .safetensors")
    if kind in OTHERS and not safetensors and not ascii:
        raise click.UsageError(
            f"{out}: no {kind} is written; let OUT end in .t7, .net, .safetensors, .pt2 or .onnx"
        )
    _demand_free(file, {"OUT": out} | ({"--source": source} if source else {}), overwrite)
    value = _load(file, in_long_size, in_ascii)
    if source or kind in (".pt2", ".onnx"):
        _convert_network(file, value, network, out, source, inputs)
        return
    value = _within(file, value, network, inputs)
    _convert_value(value, out, safetensors, ascii, int(long_size or 8))


def _demand_free(file: str, made: dict[str, str], overwrite: bool) -> None:
    """Refuse what would be read and written at once, and without `overwrite` what is there."""
    _demand_different(FILE=file, **made)
    for name, path in made.items():
        if os.path.isfile(path) and not overwrite:
            raise click.UsageError(f"{name} {path} is there already: give --overwrite")


def _demand_different(**paths: str) -> None:
    """Refuse names of which one is the file of another."""
    names = list(paths.items())
    for number, (name, path) in enumerate(names):
        for other, earlier in names[:number]:
            if os.path.realpath(path) == os.path.realpath(earlier):
                raise click.UsageError(f"{name} is {other} ({path}): give another name")


def _within(file: str, value: Any, keys: str, inputs: tuple[str, ...]) -> Any:
    """The network of --network, or without it all that the file holds; no shape is asked for."""
    if inputs:
        raise click.UsageError("--input goes with an OUT that ends in .pt2 or .onnx")
    from .errors import T7Error
    from .export.convert import network_of

    try:
        return network_of(value, keys) if keys else value
    except T7Error as error:
        _fail(file, error)


def _convert_value(value: Any, out: str, safetensors: bool, ascii: bool, long_size: int) -> None:
    from .errors import T7Error
    from .export.tensors import safetensors_bytes
    from .files.serialization import save

    try:
        with replaced(Path(out)) as target:
            if safetensors:
                target.write(safetensors_bytes(value))
            else:
                save(target, value, ascii=ascii, long_size=long_size)
    except (T7Error, OSError) as error:
        _fail(out, error)


def _convert_network(
    file: str, value: Any, keys: str, out: str, source: str | None, inputs: tuple[str, ...]
) -> None:
    """Write one network: its weights with the source that loads them, or exported."""
    from .errors import T7Error
    from .export import convert as converting
    from .export.source_code import real_type
    from .modules.conversion import to_module

    try:
        obj = converting.network_of(value, keys)
        module = to_module(obj, None, keys)
        if source:
            title = f"{obj.typename} of {Path(file).name}{f', {keys}' * bool(keys)}"
            seen_from_there = os.path.relpath(out, os.path.dirname(source) or ".")
            weights, text = converting.weights_and_source(module, seen_from_there, title)
            made = {out: weights, source: text.encode()}
        else:
            real = real_type(module)
            shapes = [converting.example_input(text, real) for text in inputs]
            made = {out: converting.exported(module, shapes, Path(out).suffix.lower())}
        for path, content in made.items():
            with replaced(Path(path)) as target:
                target.write(content)
    except (T7Error, OSError) as error:
        _fail(file if isinstance(error, T7Error) else out, error)


def _load(file: str, long_size: str | None, ascii: bool | None) -> Any:
    from .errors import T7Error
    from .files.serialization import load_file

    try:
        value, rest = load_file(file, int(long_size) if long_size else None, ascii)
    except (T7Error, OSError) as error:
        _fail(file, error)
    if rest:
        note = f"{file}: only its first value is read; {rest} bytes follow it"
        click.echo(f"{note} (load of an open file reads value after value)", err=True)
    return value


def _fail(path: str, error: Exception) -> NoReturn:
    reason = error.strerror if isinstance(error, OSError) else None
    raise _FileError(f"{path}: {reason or error}") from error


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main(prog_name="python -m eyescream_py.torch7")
