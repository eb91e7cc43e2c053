"""Kernels in C for processors, compiled by the machine's own compiler when they are first needed.

Torch's operators pass through memory one after the other; where memory is what a processor waits
for, a loop that does the work of several takes a fraction of their time. The compiler takes a
second for each file, once: what it made stays in the user's cache. Where there is no compiler, and
on processors of other kinds, there are no kernels, and torch's operators do their work.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from eyescream_py.system.errors import first_line
from eyescream_py.system.places import own_cache
from eyescream_py.system.voice import printable, warn

# by what torch computes with on this processor
INSTRUCTIONS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": [
        *("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ],
}
# of sources that need more; whether a processor has it is for their callers to ask
OWN = {"thin_bf16": {"AVX512": [*INSTRUCTIONS["AVX512"], "-mavx512bf16"]}}
# products and sums are rounded where they stand so; no program asks for errno or traps
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
OPENMP = ("libgomp", "libiomp", "libomp")  # all of which know gcc's calls
LONGEST = 60  # seconds for the compiler


LINE = 8  # of a processor's cache, in numbers of 64 bits


class Team(ctypes.Structure):
    """As in vectors.h."""

    _fields_ = [
        ("thread", ctypes.c_void_p), ("threads", ctypes.c_int64),
        ("begun", ctypes.POINTER(ctypes.c_int64)),
    ]  # fmt: skip


@dataclass(frozen=True)
class Library:
    """Compiled functions, each `void f(void *work)`, that share `work` out among themselves."""

    code: ctypes.CDLL
    openmp: ctypes.CDLL

    def run(self, name: str, work: ctypes.Structure) -> None:
        """Call the function on all of torch's threads at once; returns when each has ended."""
        function = getattr(self.code, name)
        self.openmp.GOMP_parallel(function, ctypes.byref(work), torch.get_num_threads(), 0)

    def team(self) -> Team:
        """What a function's threads, as many as torch's now, share tasks out by; for one call."""
        threads = torch.get_num_threads()
        begun = (ctypes.c_int64 * (LINE * threads))()
        number = ctypes.cast(self.openmp.omp_get_thread_num, ctypes.c_void_p)
        return Team(number, threads, begun)


@contextlib.contextmanager
def usual_numbers() -> Iterator[None]:
    """A block in which torch makes tensors in float32 on the processor, whatever a program has told
    it by default; for what compares loops with torch.
    """
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(kept)


def proven(name: str, agrees: Callable[[Library], bool]) -> Library | None:
    """`library(name)`, where it computes what torch does, as `agrees` finds with usual numbers
    around it; else None, and one line on standard error.
    """
    code = library(name)
    with usual_numbers():
        if code is None or agrees(code):
            return code
    warn(f"{name}.c computes otherwise than torch: torch's operators do its work, slower.")
    return None


@functools.cache
def library(name: str) -> Library | None:
    """The file `name`.c of this folder as a `Library`; None where it cannot be compiled or run
    here, and where there is a compiler that fails, one line on standard error.
    """
    openmp, compiler = _openmp(), _compiler()
    kinds = OWN.get(name, INSTRUCTIONS)
    instructions = kinds.get(torch.backends.cpu.get_cpu_capability())
    if openmp is None or compiler is None or instructions is None:
        return None
    try:
        return Library(_compiled(name, [*compiler, *FLAGS, *instructions]), openmp)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None)
        reason = said.decode(errors="replace").strip().partition("\n")[0] if said else ""
        reason = printable(reason or first_line(error))
        warn(f"{name}.c cannot be compiled ({reason}): torch's operators do its work, slower.")
        return None


def _openmp() -> ctypes.CDLL | None:
    """The library whose threads torch computes with, which wait actively: a second one would have
    to compete with them.
    """
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()  # names in any encoding
    except OSError:
        return None
    mapped = {os.fsdecode(line.split(maxsplit=5)[-1]) for line in lines}
    loaded = {path for path in mapped if Path(path).name.startswith(OPENMP)}
    folder = str(Path(torch.__file__).parent)
    for path in sorted(loaded, key=lambda path: (not path.startswith(folder), path)):
        try:
            found = ctypes.CDLL(path)
            found.GOMP_parallel.restype = None
            found.omp_get_thread_num.restype = ctypes.c_int
        except (OSError, AttributeError):
            continue
        found.GOMP_parallel.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        ]  # fmt: skip
        return found
    return None


def _compiler() -> list[str] | None:
    """The command that Unix calls cc, or what the variable CC names."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        try:
            words = shlex.split(command)
        except ValueError:  # a quotation without end
            continue
        if words and shutil.which(words[0]):
            return words
    return None


def _compiled(name: str, command: list[str]) -> ctypes.CDLL:
    """Raises OSError where nothing can be written or loaded, and subprocess's errors of the
    compiler's.
    """
    source = Path(__file__).with_name(f"{name}.c")
    read = [source, *sorted(source.parent.glob("*.h"))]
    text = b"\0".join(path.read_bytes() for path in read)
    digest = hashlib.sha256("\0".join(command).encode() + text).hexdigest()
    failed: Exception = OSError("no folder for it")
    for folder in _folders():
        stem = f"{name}-{digest[:16]}"
        try:
            kept = _whole(folder, stem) or _compile(source, command, folder, stem)
            return ctypes.CDLL(str(kept))
        except (OSError, subprocess.SubprocessError) as error:
            failed = error
    raise failed


def _whole(folder: Path, stem: str) -> Path | None:
    """What was compiled before, if it is what its name says: a file cut off would end the process
    by a signal where it is loaded or run.
    """
    for kept in folder.glob(f"{stem}-*.so"):
        if kept.is_file() and kept.name == _named(stem, kept):
            return kept
    return None


def _named(stem: str, made: Path) -> str:
    return f"{stem}-{hashlib.sha256(made.read_bytes()).hexdigest()[:16]}.so"


def _compile(source: Path, command: list[str], folder: Path, stem: str) -> Path:
    number, part = tempfile.mkstemp(prefix=f".{stem}-", dir=folder)
    os.close(number)
    try:
        subprocess.run(  # noqa: S603 - the user's own compiler
            [*command, "-o", part, str(source), "-lm"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST,
        )  # fmt: skip
        target = folder / _named(stem, Path(part))
        os.replace(part, target)
        return target
    finally:
        Path(part).unlink(missing_ok=True)


def _folders() -> Iterator[Path]:
    """Where code may lie: the user's cache, where nobody else can put any; else one of this process
    alone.
    """
    try:
        folder = own_cache()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        if state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield folder
    except OSError:  # as without a home, or in one that is read-only
        pass
    own = tempfile.mkdtemp(prefix="eyescream_py-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    yield Path(own)
