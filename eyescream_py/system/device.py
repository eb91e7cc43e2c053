"""Device and threads of a program, and what it says when memory runs out."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from eyescream_py.system.errors import UserError, out_of_memory
from eyescream_py.system.threads import demand_threads
from eyescream_py.system.voice import counted, warn

if TYPE_CHECKING:
    import torch


MAX_THREADS = 1024
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
HEAP = 2**31  # bytes of the heap in large pages


def choose_device(gpu: int, typed: bool) -> torch.device:
    """`--gpu` -> device: negative is the CPU, otherwise that CUDA device.

    `typed` says whether a person gave the flag: a default that cannot be had falls back to the CPU
    with one line, a typed one that cannot be had is a UserError.
    """
    import torch

    if gpu < 0:
        return torch.device("cpu")
    if torch.cuda.is_available() and gpu < torch.cuda.device_count():
        return torch.device("cuda", gpu)
    if typed:
        raise UserError(
            f"--gpu={gpu}: this machine has "
            f"{counted(torch.cuda.device_count(), 'usable CUDA device')}; "
            "give --gpu=-1 to run on the CPU"
        )
    print("No usable CUDA device found, running on the CPU (--gpu=-1 says so without this line).")
    return torch.device("cpu")


def prepare_cuda(device: torch.device, fast: bool, strict: bool) -> None:
    """How CUDA computes from here on, if `device` is one: to be called before it first multiplies.

    Unless `fast`, only by algorithms that return the same bits each time. Unless `strict`, float32
    products round their factors to 10 bits of mantissa (TF32), as training needs no more.
    """
    import torch

    if device.type != "cuda":
        return
    # kernels of Triton run on the current device, wherever their tensors are
    if device.index is not None:  # else the current one is meant
        torch.cuda.set_device(device)
    if not fast:
        # cuBLAS reads this once, when it starts; with less workspace its sums vary in order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # a pooling without overlaps adds nothing twice, but warns as if it did
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation.*")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = not fast
    torch.backends.cudnn.benchmark = fast
    torch.backends.cuda.matmul.allow_tf32 = not strict
    torch.backends.cudnn.allow_tf32 = not strict


def keep_memory() -> bool:
    """Let this process keep the memory that tensors free, for the next ones, and ask for large
    pages; whether it can.

    glibc returns large blocks to the kernel at once, which clears every page before it hands them
    out again: a quarter of an iteration on the CPU. Other C libraries are left as they are.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    # no blocks outside of the heap, and a heap that does not shrink
    kept = bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
    if kept and _addresses_are_free():
        _in_large_pages(libc, HEAP)
    return kept


def _addresses_are_free() -> bool:
    """Whether nothing counts the memory that this process asked for and has not written to."""
    limits = resource.RLIMIT_AS, resource.RLIMIT_DATA
    if any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in limits):
        return False
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "2"
    except OSError:
        return False


def _in_large_pages(libc: ctypes.CDLL, size: int) -> None:
    """Let the next `size` bytes of the heap come in pages of 2 MB, where Linux has any to spare:
    their addresses are translated faster. Memory is taken only once something is written there.
    """
    libc.malloc.restype = ctypes.c_void_p
    start = libc.malloc(ctypes.c_size_t(size))
    if start is None:  # the process may not grow so far
        return
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    rest = ctypes.c_size_t(start + size - first)
    libc.madvise(ctypes.c_void_p(first), rest, mmap.MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(start))  # remains the end of the heap, which does not shrink


def wait_for(device: torch.device) -> None:
    """Return when `device` has done all that it was given; all but CUDA have."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device; None of one that computes in the host's memory."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def whole_memory(device: torch.device) -> int | None:
    """All bytes of a CUDA device; None of one that computes in the host's memory."""
    import torch

    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def wants_pinned(device: torch.device) -> bool:
    """Whether host memory has to be pinned for copies to `device` to run beside its work."""
    return device.type == "cuda"


def set_threads(threads: int, typed: bool) -> int:
    """Use `threads` CPU threads; a default never asks for more than this process has cores, or
    than OMP_NUM_THREADS says, by which users of shared machines keep their share.
    """
    import torch

    if threads < 1:
        raise UserError(f"--threads={threads}: give a number of at least 1")
    if threads > MAX_THREADS:
        raise UserError(f"--threads={threads}: give a number of at most {MAX_THREADS}")
    cores = len(os.sched_getaffinity(0))
    if typed and threads > cores:
        here = counted(cores, "core")
        warn(
            f"--threads={threads}: this process has {here}; more threads only wait for one another."
        )
    if not typed:
        share = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(threads, cores)
        if re.fullmatch(r"[1-9][0-9]{0,5}", share):
            threads = min(threads, int(share))
    demand_threads(threads - 1, f"--threads={threads}")
    torch.set_num_threads(threads)
    print(f"<torch> set nb of threads to {threads}")
    return threads


@contextlib.contextmanager
def memory_in_words(advice: str) -> Iterator[None]:
    """Where the memory does not suffice, a UserError that ends with `advice`."""
    try:
        yield
    except ImportError as error:
        if "failed to map segment" not in str(error):
            raise
        raise UserError(
            f"there is not enough memory to load {str(error).partition(':')[0]}; free some, or "
            "raise the limit of this shell (ulimit -v)"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory: {advice}") from error
