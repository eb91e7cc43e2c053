"""What every command line of the package does around its work.

`@click.command(cls=Command)` and `@click.group(cls=Group)`, whose commands are of the same kind:
lines that cannot be written never end a command, and what the system refuses is one line.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from eyescream_py.system.device import memory_in_words
from eyescream_py.system.errors import UserError, remedy_of, why
from eyescream_py.system.folders import none_left_empty
from eyescream_py.system.interrupts import heard
from eyescream_py.system.numbers import bounded
from eyescream_py.system.places import TYPED, PathText
from eyescream_py.system.threads import NO_THREAD, is_refused
from eyescream_py.system.voice import make_unfailing, printable

BUSY = 2.0  # processes that want to run, per processor
LOADS = Path("/proc/loadavg")  # of Linux: how many did in the last minute, ..., do now
SHORT_WAIT = "2000"  # turns of OpenMP's waiting loop; by itself it takes 300,000
_LOOP = "Symlink loop from "


class Command(click.Command):
    """A command whose lines, its help and errors included, never end it; its plain integers are
    those that checkpoints can hold. `remedy` is what to do where the memory does not suffice."""

    remedy = "give smaller numbers or pictures"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            param.type = bounded(param.type)

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        _wait_asleep_where_busy()
        _prepare_matplotlib()
        return super().make_context(*args, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """click's; what Torch's command lines took, and these do not, is named with its remedy."""
        given = list(args)
        meant = _of_two_dashes(given, self.get_params(context))
        if meant and not context.resilient_parsing:
            raise click.NoSuchOption(meant[1:], possibilities=[meant], ctx=context)
        try:
            return super().parse_args(context, args)
        except click.BadParameter as error:
            words, kind, rest = error.message.rpartition(" integer range")  # click's, of one word
            if not kind:
                raise
            raise click.BadParameter(f"{words} integer{rest}", error.ctx, error.param) from None
        except click.UsageError as error:
            more = _of_no_value(given, error.message, self.params)
            if not more:
                raise
            raise click.UsageError(error.message + more, context) from None

    def invoke(self, context: click.Context) -> Any:
        _demand_folder()
        memory = memory_in_words(self.remedy)
        with heard(), none_left_empty(context), system_in_words(context), memory:
            return super().invoke(context)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        make_unfailing()
        return super().main(*args, **options)


def _of_two_dashes(given: list[str], params: list[click.Parameter]) -> str:
    """The flag that a word with one dash was to be, as Torch's own command lines have them; else
    "". click reads the word as letters: -scale=32 as an -s, where there is one, of cale=32."""
    flags = {name for param in params for name in param.opts}
    for word in given:
        name = word.partition("=")[0]
        if f"-{name}" in flags and name[:1] == "-" and name not in flags:
            return f"-{name}"
    return ""


def _of_no_value(given: list[str], message: str, params: list[click.Parameter]) -> str:
    """What to add to a `message` about an extra argument that follows a switch."""
    switches = {name for param in params if getattr(param, "is_flag", False) for name in param.opts}
    for flag, word in itertools.pairwise(given):
        if flag in switches and f"extra argument ({word})" in message:
            return f"; {flag} takes no value"
    return ""


def _prepare_matplotlib() -> None:
    """Let it keep to itself what is no one's to mend (a home folder that takes no cache of fonts),
    and show nothing: a notebook tells its commands to use a backend that it alone may have."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    os.environ["MPLBACKEND"] = "agg"


def _wait_asleep_where_busy() -> None:
    """Before torch is imported: where many want the processors, let OpenMP's threads (GNU's, in
    torch's wheels) soon sleep while they wait for one another. By default each turns for some
    milliseconds on a processor that the other may be waiting for (benchmarks/results/changes.md).
    Where they are alone it stays so, as to be woken takes time, too.
    """
    if _busy() and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SHORT_WAIT


def _busy() -> bool:
    """Whether many want the processors, now and in the last minute: what was there before may have
    ended a moment ago, and what is there now may end in a moment."""
    try:
        minute, _, _, now, _ = LOADS.read_text().split()
        wanting = min(float(minute), int(now.partition("/")[0]))
    except (OSError, ValueError):
        return False
    return wanting > BUSY * (os.cpu_count() or 1)


def _demand_folder() -> None:
    """Refuse to work in a folder that was removed: relative paths lead nowhere, and torch cannot
    load its libraries from there."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            "the folder that this is run in was removed; change to another (cd) and try again"
        ) from error


@contextlib.contextmanager
def system_in_words(context: click.Context) -> Iterator[None]:
    """What the system refuses (a full disk, rights, no folder for temporary files) as one line.
    It, and any other error about a file, names the flag of `context` that led there."""
    try:
        yield
    except OSError as error:
        raise UserError(_in_words(error, context)) from error
    except RuntimeError as error:
        if is_refused(error):  # a thread of Python's own pools
            raise UserError(NO_THREAD) from error
        if not str(error).startswith(_LOOP):  # Path.resolve's, before Python 3.13
            raise
        where = _where(printable(str(error).removeprefix(_LOOP).strip("'")), context)
        raise UserError(f"{where}: a link that leads to itself") from error
    except UserError as error:
        message = _with_flag(error.message, context)
        if message == error.message:
            raise
        raise UserError(message) from error


def _in_words(error: OSError, context: click.Context) -> str:
    if "temporary directory" in str(error.strerror):  # Python's words where /tmp and others fail
        return "no folder for temporary files can be written; set TMPDIR to one that can"
    where = _where(printable(error.filename), context) if error.filename else ""
    remedy = f"; {remedy_of(error)}" if remedy_of(error) else ""
    return f"{where}: {why(error)}{remedy}" if where else f"{why(error)}{remedy}"


def _with_flag(message: str, context: click.Context) -> str:
    """`message`, which may begin with a file and a colon, with the flag that led to the file; or,
    where it begins with the name of a flag that was typed, with that flag.
    """
    # "Params.txt and the flags: batch_size 0: ..." where settings of a file are flags, too
    told = message.rpartition("flags: ")[2]
    if f"--{told.partition(' ')[0]}" in _typed_flags(context):
        return f"--{told}"
    for flag, text in sorted(_typed_paths(context), key=lambda pair: -len(pair[1])):
        rest = message.removeprefix(text)
        if rest != message and rest.startswith((": ", "/", ", ")):
            return f"{flag}={text}{rest}" if rest[0] != "/" else f"{flag}={text}: {message}"
    return message


def _where(path: str, context: click.Context) -> str:
    """A printable path behind the flag that led to it, if any did: `--flag=path` where that is what
    was typed, `--flag=folder: path` where it lies below."""
    flag = _flag_of(path, context)
    return ": ".join(part for part in (flag, "" if flag.endswith(f"={path}") else path) if part)


def _flag_of(path: str, context: click.Context) -> str:
    """`--flag=value` of the innermost path that a person typed and `path` is or lies in; else of
    one that `path` only adds an ending to, or that lies in `path`. "" for none."""
    around = (Path(path), *Path(path).parents)
    found: dict[int, str] = {}  # by how far `path` lies below
    for flag, text in _typed_paths(context):
        if Path(text) in around:
            found.setdefault(around.index(Path(text)), f"{flag}={text}")
        elif _is_longer(path, text) or (text != "." and Path(path) in Path(text).parents):
            found.setdefault(len(around), f"{flag}={text}")
    return found[min(found)] if found else ""


def _is_longer(path: str, text: str) -> bool:
    """Whether `path` is `text` with an ending, as files of one prefix have: x.npy, x01.mat, x_a."""
    more = path.removeprefix(text)
    return text != "." and len(more) < len(path) and "/" not in more and not more[:1].isalpha()


def _typed_flags(context: click.Context) -> set[str]:
    """All names of the options that a person typed."""
    typed = (
        p for p in context.command.params if context.get_parameter_source(p.name or "") in TYPED
    )
    return {name for param in typed for name in param.opts}


def _long_name(names: list[str]) -> str:
    """A flag's first name of two dashes: that of its help, not an alias."""
    return next((name for name in names if name.startswith("--")), names[0])


def _typed_paths(context: click.Context) -> Iterator[tuple[str, str]]:
    """Flag and printable value of each path that a person typed."""
    for param in context.command.params:
        name = param.name or ""
        is_path = isinstance(param, click.Option) and isinstance(param.type, PathText | click.Path)
        if not is_path or context.get_parameter_source(name) not in TYPED:
            continue
        value = context.params.get(name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and text:
                yield _long_name(param.opts), printable(Path(text))
