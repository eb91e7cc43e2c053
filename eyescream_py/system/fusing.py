"""Whether a run may take the kernels of `gpu_kernels`: each is compiled and compared with torch's
operators on the run's own device first.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from eyescream_py.system.device import wait_for
from eyescream_py.system.errors import UserError, first_line
from eyescream_py.system.voice import printable, warn

if TYPE_CHECKING:
    import torch

LONGEST_REASON = 200  # characters


@functools.cache
def fused_kernels(device: torch.device, rounded: bool = True) -> Kernels | None:
    """`gpu_kernels` as `Kernels`, where `device` is a GPU for which they can be made and on which
    they compute what they should; else None, and of a GPU one line on standard error that says why.

    `rounded`: of values in bfloat16 and not in float32. Takes seconds where the kernels are not in
    Triton's cache yet. Raises UserError where the device is of no use after the attempt.
    """
    if device.type != "cuda":
        return None
    try:
        _give_cache()
        from eyescream_py.system import gpu_kernels
    except Exception as error:  # whatever another version of Triton stumbles over
        reason = first_line(error)
    else:
        reason = what_fails(gpu_kernels, device, rounded)
        if not reason:
            return Kernels(gpu_kernels)
    warn(
        f"No joined kernels on {device}: {reason}. This run goes on as with --no_fuse, "
        "slower and otherwise the same."
    )
    return None


def _give_cache() -> None:
    """Let Triton keep what it makes in a folder of this process alone, where its own cannot be
    written, as in a home that is read-only: it would make nothing.
    """
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    place = os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache")
    try:
        os.makedirs(place, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError:
        own = os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="triton-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)


class Kernels:
    """The functions of `proven`, a module of kernels. Each shape and type is compiled when it first
    comes, long after the proof: where that fails, a line on standard error says so, and
    `kernels_in_torch` computes what that kernel would from there on.
    """

    def __init__(self, proven: Any) -> None:
        self._proven = proven

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # none of theirs, and a copy of this has no `_proven` yet
            raise AttributeError(name)
        kernel = getattr(self._proven, name)

        @functools.wraps(kernel)
        def watched(*given: Any, **named: Any) -> Any:
            nonlocal kernel
            try:
                return kernel(*given, **named)
            except Exception as error:
                if not _is_of_triton(error):
                    raise
                reason = first_line(error)[:LONGEST_REASON]
                warn(
                    f"Triton cannot make the kernel {name} for this run ({reason}): "
                    "torch's operators do its work, slower."
                )
            kernel = _in_torch(name)
            return kernel(*given, **named)

        setattr(self, name, watched)  # asked for once
        return watched


def _in_torch(name: str) -> Callable[..., Any]:
    """What stands for a kernel; like that one it knows no autocast."""
    import torch

    from eyescream_py.system import kernels_in_torch

    kernel = getattr(kernels_in_torch, name)

    def call(*given: Any, **named: Any) -> Any:
        with torch.autocast("cuda", enabled=False):
            return kernel(*given, **named)

    return call


def _is_of_triton(error: BaseException) -> bool:
    """Whether it was raised in Triton's own code, and not for want of memory, say, in torch's."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_globals.get("__name__", "").partition(".")[0] == "triton" for frame in frames
    )


def what_fails(kernels: Any, device: torch.device, rounded: bool) -> str:
    """The first kernel that cannot be made or computes something else, and what is wrong with it;
    "" where all are right. No generator of random numbers notices.
    """
    watched = _Watched(kernels)
    with _overheard() as heard:
        try:
            for check in _checks(device, rounded):
                check(watched)
            wait_for(device)
        except Exception as error:
            said = _complaint(heard) or first_line(error)
            _still_works(device, said)
            return printable(f"{watched.last}: {said}")[:LONGEST_REASON]
    return ""


def _checks(device: torch.device, rounded: bool) -> list[Callable[[Any], None]]:
    """Each kernel as networks use it, and on sizes that leave tiles half empty."""
    import torch

    from eyescream_py.system import kernel_checks as checks
    from eyescream_py.system.kernel_checks import Activation

    dtype = torch.bfloat16 if rounded else torch.float32
    pooled = Activation((5, 60, 4, 6), 1, "planes")
    cases = [
        (dtype, Activation((5, 64, 4, 6))), (dtype, pooled), (dtype, Activation((5, 3))),
        (dtype, Activation((3, 128, 8, 8), 2, "elements", flat=True)),
        *([(torch.float32, pooled)] if rounded else []),  # samples are drawn in full
    ]  # fmt: skip
    given = device, dtype
    return [
        lambda kernels: checks.filling(kernels, *given, (5, 3, 4, 6), 8, 8),
        *(functools.partial(checks.activation, device=device, dtype=t, case=c) for t, c in cases),
        lambda kernels: checks.adam(kernels, device, 5056, None, rounds=rounded),
        lambda kernels: checks.adam(kernels, device, 5056, 0.0, rounds=rounded),
        lambda kernels: checks.answers(kernels, device, 32),
        lambda kernels: checks.last_linear(kernels, *given, 5, 1152),
        lambda kernels: checks.stored_pictures(kernels, device, (20, 3, 32, 32), True, True),
        lambda kernels: checks.products(kernels, *given),
        lambda kernels: checks.folding(kernels, *given, (5, 3, 4, 6), 5),
        lambda kernels: checks.patching(kernels, *given, (5, 24, 5, 6), 3, 2),
        *([
            lambda kernels: checks.of_wide_weights(kernels, device, (3, 24, 5, 6), 40, 7),
            lambda kernels: checks.convolving(kernels, device, (3, 24, 5, 6), 72, 5),
        ] if rounded else [lambda kernels: checks.placing(kernels, *given, (3, 8, 4, 6))]),
    ]  # fmt: skip


@dataclass
class _Watched:
    """The kernels; `last` is the one that was called last."""

    kernels: Any
    last: str = field(default="Triton", init=False)

    def __getattr__(self, name: str) -> Any:
        self.last = name
        return getattr(self.kernels, name)


@contextlib.contextmanager
def _overheard() -> Iterator[IO[bytes] | None]:
    """A block during which what compilers write to standard error goes into a file. One that ends
    this process, as LLVM does where it is at a loss, is quoted on standard error after all.
    """
    with contextlib.ExitStack() as opened:
        try:
            heard = opened.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
            opened.callback(os.close, kept)
            heir = opened.enter_context(_heir(heard))
        except OSError:
            yield None
            return
        os.dup2(heard.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(kept, 2)
            heir.communicate(b"alive\n")


def _heir(heard: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that waits for a line, and writes out what was heard where this one ends first."""
    last_words = (
        'read -r line || { cat "/proc/self/fd/$0"; '
        'echo "This program has ended while it made GPU kernels: try again with --no_fuse"; } >&2'
    )
    number = heard.fileno()
    return subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", last_words, str(number)], stdin=subprocess.PIPE, pass_fds=[number]
    )


def _complaint(heard: IO[bytes] | None) -> str:
    """The first line in which a compiler speaks of an error."""
    if heard is None:
        return ""
    heard.seek(0)
    lines = heard.read(1 << 20).decode(errors="replace").splitlines()
    return next((line.strip() for line in lines if "error:" in line), "")


def _still_works(device: torch.device, reason: str) -> None:
    """Raises UserError where a kernel has left the device so that nothing can go on from there."""
    import torch

    try:
        torch.zeros(1, device=device)
        wait_for(device)
    except Exception as error:
        raise UserError(
            f"a kernel of this program has stopped {device} ({reason}): start again with --no_fuse"
        ) from error
