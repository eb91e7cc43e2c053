"""Experience replay: pictures that G once made, kept on disk for D (Shrivastava et al. 2017).

A cache is `PATH.npy`, an ordinary NumPy array (capacity, C, S, S) of uint8 or float16, and two
small files beside it: `PATH.npy.json` says how many slots were filled when they were last
committed, `PATH.npy.undo` holds what pictures replaced since then looked like. The array is sparse:
it takes disk space as it fills, and hardly any memory, because pages are handed back to the system
after use. 100,000 grey pictures of 128 px are 1.64 GB in uint8.

Killed at any moment, a cache opens again: what was pushed after the last commit is undone, or kept
up to the push that a checkpoint names, so that a resumed run meets the very pictures it would have
met.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from eyescream_py.image_model.checkpoints import Checkpoint
from eyescream_py.image_model.options import GanOptions
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import atomic_write, remove_stale_temporaries, reserve
from eyescream_py.system.folders import make_folder
from eyescream_py.system.voice import say

_RECORD = struct.Struct("<QQ")  # push number, slot


def cache_file(path: str | Path) -> Path:
    """The array's file: `path` with `.npy` appended unless it ends so."""
    path = Path(path)
    return path if path.suffix == ".npy" else path.with_name(path.name + ".npy")


class ReplayCache:
    """A bounded random memory of pictures in [-1, 1].

    `push` fills free slots in order, then overwrites distinct random slots; `sample` draws with
    replacement. `count` slots are filled, `pushes` calls of `push` made the present content.
    """

    def __init__(self, path: Path, file: BinaryIO, memory: mmap.mmap, array: np.ndarray) -> None:
        self.path = path
        self.count = 0
        self.pushes = 0
        self._file = file
        self._memory = memory
        self._array = array
        # unbuffered: what a full disk refuses must not come up again with the next write
        self._undo = open(_undo_path(path), "ab+", buffering=0)  # noqa: SIM115 (closed by close)

    @classmethod
    def create(
        cls, path: str | Path, capacity: int, shape: tuple[int, int, int], dtype: str = "uint8"
    ) -> ReplayCache:
        """A new, empty cache; UserError if its file exists or cannot be made."""
        path = cache_file(path)
        make_folder(path.parent)
        size = capacity * math.prod(shape) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(path.parent).free
        if size > free:  # a full disk under a memory map would kill the process
            raise UserError(
                f"--cache_size={capacity} may take {size / 1e9:.1f} GB and {path.parent} has "
                f"{free / 1e9:.1f} GB free; give a smaller one or another --cache_path"
            )
        try:
            file = open(path, "xb+")  # noqa: SIM115 (closed below)
        except FileExistsError:
            raise UserError(
                f"--cache_path: {path} exists; give --reuse_replay to go on with it, "
                "or another name"
            ) from None
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (capacity, *shape)}
        npy.write_array_header_1_0(file, header)
        file.truncate(file.tell() + size)
        file.close()
        _undo_path(path).unlink(missing_ok=True)
        _write_state(path, 0, 0)
        return cls.open(path, capacity, shape, dtype)

    @classmethod
    def open(
        cls,
        path: str | Path,
        capacity: int,
        shape: tuple[int, int, int],
        dtype: str = "uint8",
        at: tuple[int, int] | None = None,
    ) -> ReplayCache:
        """The existing cache at `path` as last committed, or as it was at `at` = (pushes, count).

        A moment before the last commit is gone; the cache then opens as committed, with a line.
        Raises UserError where it is missing, in use by another run, damaged, or of another shape.
        """
        path = cache_file(path)
        with contextlib.suppress(OSError):
            remove_stale_temporaries(path.parent)
        try:
            file = open(path, "rb+")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise UserError(f"--cache_path: {path} cannot be opened ({why(error)})") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_array(path, file, (capacity, *shape), np.dtype(dtype))
            offset = file.tell()
            memory = mmap.mmap(file.fileno(), 0)
            array = np.ndarray((capacity, *shape), dtype, memory, offset)
            state = _read_state(path, capacity)
            if at is not None and not 0 <= at[1] <= capacity:
                raise UserError(f"--load: the checkpoint does not fit the cache {path}")
        except BlockingIOError:
            file.close()
            raise UserError(f"--cache_path: another run is using {path}") from None
        except UserError:
            file.close()
            raise
        cache = cls(path, file, memory, array)
        if at is not None and at[0] < state[0]:
            say(f"{path} is newer than the checkpoint: replayed pictures will differ from then.")
        cache._rewind(*(at if at is not None and at[0] >= state[0] else state))
        return cache

    @property
    def capacity(self) -> int:
        """Pictures that the cache holds at most."""
        return len(self._array)

    def push(self, batch: Tensor, rng: np.random.Generator) -> None:
        """Add `batch`, (N, C, S, S) in [-1, 1], N <= capacity. Where a full disk refuses it
        (OSError), the cache is as before.
        """
        stored = self._encode(batch)
        free = min(self.capacity - self.count, len(stored))
        replaced = rng.choice(self.count, len(stored) - free, replace=False)
        slots = np.concatenate([np.arange(self.count, self.count + free), replaced]).astype(int)
        self._take_place(free)
        self._note(slots[free:])
        self._array[slots] = stored
        self.count, self.pushes = self.count + free, self.pushes + 1
        self._release()

    def _note(self, slots: np.ndarray) -> None:
        """Write down what the pictures look like that the next push replaces: all, or none."""
        number = self.pushes + 1
        records = [_RECORD.pack(number, slot) + self._array[slot].tobytes() for slot in slots]
        left = memoryview(b"".join(records))
        before = os.fstat(self._undo.fileno()).st_size
        try:
            while left:
                left = left[self._undo.write(left) :]
        except OSError as error:
            self._undo.truncate(before)
            error.filename = str(self.path)
            raise

    def _take_place(self, pictures: int) -> None:
        """Take the disk's room for the next free slots; OSError where there is none: what a memory
        map finds no room for kills the process."""
        size = self._array[0].nbytes
        start = len(self._memory) - self._array.nbytes + self.count * size
        if pictures:
            try:
                reserve(self._file, pictures * size, start)
            except OSError as error:
                error.filename = str(self.path)
                raise

    def sample(self, number: int, rng: np.random.Generator) -> Tensor:
        """`number` pictures, float32 in [-1, 1], drawn with replacement from at least one."""
        stored = self._array[rng.integers(self.count, size=number)]
        self._release()
        values = torch.from_numpy(stored).float()  # the one copy beside the stored numbers'
        return values.div_(127.5).sub_(1) if stored.dtype == np.uint8 else values

    def _encode(self, batch: Tensor) -> np.ndarray:
        values = batch.detach().float().cpu()
        if self._array.dtype == np.uint8:
            values = (values + 1).mul_(127.5).round_().clamp_(0, 255)
        return values.numpy().astype(self._array.dtype)

    def _release(self) -> None:
        self._memory.madvise(mmap.MADV_DONTNEED)

    def commit(self) -> None:
        """The present content becomes what `open` finds, whatever happens later."""
        self._memory.flush()
        _write_state(self.path, self.pushes, self.count)
        self._undo.truncate(0)

    def _rewind(self, pushes: int, count: int) -> None:
        """Undo all later pushes, newest first; a record that a kill cut short had no effect yet."""
        picture = self._array[0]
        record = _RECORD.size + picture.nbytes
        for index in reversed(range(os.fstat(self._undo.fileno()).st_size // record)):
            self._undo.seek(index * record)
            push, slot = _RECORD.unpack(self._undo.read(_RECORD.size))
            old = np.frombuffer(self._undo.read(picture.nbytes), picture.dtype)
            if push > pushes and slot < self.capacity:
                self._array[slot] = old.reshape(picture.shape)
        self.count, self.pushes = count, pushes
        self.commit()

    def close(self) -> None:
        """Close the files without a commit."""
        self._undo.close()
        del self._array
        self._memory.close()
        self._file.close()


def _undo_path(path: Path) -> Path:
    return path.with_name(path.name + ".undo")


def _state_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _write_state(path: Path, pushes: int, count: int) -> None:
    with atomic_write(_state_path(path)) as file:
        file.write(json.dumps({"pushes": pushes, "count": count}).encode())


def _read_state(path: Path, capacity: int) -> tuple[int, int]:
    """(pushes, count) of the last commit."""
    try:
        state = json.loads(_state_path(path).read_text())
        count, pushes = int(state["count"]), int(state["pushes"])
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        raise UserError(
            f"--reuse_replay: {_state_path(path)} is missing or damaged, so it is unknown how much "
            f"of {path} is filled; start with another --cache_path"
        ) from None
    if not 0 <= count <= capacity or pushes < 0:
        raise UserError(f"--reuse_replay: {_state_path(path)} holds impossible numbers")
    return pushes, count


def _check_array(path: Path, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Read the .npy header, leave `file` at the first picture; UserError unless all fits."""
    try:
        version = npy.read_magic(file)
        found = npy.read_array_header_1_0(file) if version == (1, 0) else None
    except (ValueError, OSError, RecursionError, MemoryError):
        found = None
    if found is None or found != (shape, False, dtype):
        has = f"holds {found[2]} {found[0]}" if found else "is no such array"
        raise UserError(f"--cache_path: {path} {has}, but this run needs {dtype} {shape}")
    if os.fstat(file.fileno()).st_size != file.tell() + math.prod(shape) * dtype.itemsize:
        raise UserError(f"--cache_path: {path} was cut short; start with another --cache_path")


def open_for_run(
    options: GanOptions, shape: tuple[int, int, int], folder: Path, checkpoint: Checkpoint | None
) -> ReplayCache | None:
    """The cache of a run, None without `use_replay`.

    A resumed run goes on with the cache of its checkpoint, as it was then: the one at `cache_path`,
    or `replay.npy` beside the checkpoint. A new run makes one at `cache_path`, or in `folder`.
    """
    if not options.use_replay:
        return None
    at = _moment(checkpoint)
    path = cache_file(options.cache_path or folder / "replay")
    if options.cache_path is None and at is not None and checkpoint is not None:
        beside = checkpoint.path.parent / "replay.npy"
        path = beside if beside.is_file() else path
    if options.reuse_replay and not path.is_file():
        raise UserError(f"--reuse_replay: there is no cache {path}; leave the flag out to make one")
    if path.is_file() and (options.reuse_replay or at is not None):
        return ReplayCache.open(path, options.cache_size, shape, options.cache_dtype, at)
    return ReplayCache.create(path, options.cache_size, shape, options.cache_dtype)


def _moment(checkpoint: Checkpoint | None) -> tuple[int, int] | None:
    """(pushes, count) when `checkpoint` was saved, None if it knows of no cache."""
    try:
        stored = checkpoint.state["game"]["replay"] if checkpoint else None
        return (int(stored["pushes"]), int(stored["count"])) if stored else None
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return None
