"""Files that are either the old ones or the new ones, never half of each."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from eyescream_py.system.waiting import READ, is_ready

_TEMPORARY = re.compile(r"^\..+?\.(?P<pid>\d+)(\.(?P<host>[0-9a-f]{8})?[0-9a-f]{12})?\.tmp$")
NO_FILE = "a device or pipe, no file"
PATIENCE_S = 5.0  # for the first byte of a pipe
STALE_S = 86400  # age of a temporary file whose process cannot be asked after
_LONGEST = 180  # bytes of a name that a temporary's own may take over; 255 are allowed in all


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody can foresee, and that `remove_stale_temporaries` knows."""
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{name}.{os.getpid()}.{_host()}{secrets.token_hex(6)}.tmp")


def _host() -> str:
    """8 hexadecimal digits that are others where process ids mean other processes: on another
    machine, in another container."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"


def create_new(path: Path) -> BinaryIO:
    """Open a file that must not be there, not even as a link planted in its place. OSError."""
    return open(path, "x+b")


def open_to_read(path: str | Path) -> BinaryIO:
    """Open a file, or a pipe (`<(command)`) that somebody writes to within PATIENCE_S seconds: one
    that nobody writes to would be waited for, perhaps for ever. OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if stat.S_ISFIFO(kind) and not is_ready(descriptor, READ, PATIENCE_S):
            raise OSError(errno.EINVAL, "a pipe that nobody writes to", str(path))
        os.set_blocking(descriptor, True)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def demand_room(path: Path, size: int = 0) -> None:
    """See, before long work, that a file of `size` bytes can be written as `path`; nothing is left.

    Raises OSError where the folder takes no file or lacks the room, or `path` is none.
    """
    if path.exists() and not path.is_file():
        code = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code) if path.is_dir() else NO_FILE, str(path))
    probe = temporary_name(path)
    try:
        with create_new(probe) as file:
            reserve(file, size)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # a file where a folder is needed
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(
    path: str | Path, keep_old: bool = False, synced: bool = True
) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends without an error.

    The bytes go to a temporary file in the same folder, which is synced, renamed over `path`, and
    made durable by a sync of the folder. With `keep_old` the file that stood at `path` stays beside
    it as `path.old`; at every moment at least one of the two is complete. On any error `path` and
    `path.old` keep what they held and the temporary file is gone. Without `synced` a power cut may
    leave less: for pictures by the thousand that can be made again, each sync of which waits for
    the disk.

    Raises OSError where the folder cannot be written, the disk is full, or `path` is a directory, a
    device or a pipe.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    temporary = temporary_name(path)
    try:
        with create_new(temporary) as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        if keep_old and path.is_file():
            _keep_as_old(path)
        os.replace(temporary, path)
        if synced:
            _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _name(error, path, temporary)
        raise


def _name(error: OSError, path: Path, temporary: Path) -> None:
    """Let an error of the system, which of a write names no file, be of `path`. Others, such as
    Pillow's, have no number, and a name would take the place of their words."""
    if error.errno is not None and error.filename in (None, str(temporary)):
        error.filename = str(path)


def _keep_as_old(path: Path) -> None:
    """Make `path.old` the present `path` without a moment in which `path` is missing."""
    old = path.with_name(path.name + ".old")
    link = temporary_name(old)
    try:
        try:
            os.link(path, link)
        except OSError:  # a file system without hard links
            _copy(path, link)
        os.replace(link, old)
    finally:  # rename does nothing, and leaves the link, when both already were the same file
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)


def _copy(path: Path, to: Path) -> None:
    with open(path, "rb") as source, create_new(to) as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def reserve(file: BinaryIO, size: int, start: int = 0) -> None:
    """Make a file at least `start + size` bytes long and take the place of those `size` bytes on
    the disk now, where the system can.

    Raises OSError where the disk lacks the room.
    """
    try:
        os.posix_fallocate(file.fileno(), start, max(size, 1))
    except (AttributeError, OSError) as error:  # not every system and file system can reserve
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        if os.fstat(file.fileno()).st_size < start + size:
            file.truncate(start + size)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale_temporaries(folder: str | Path, deep: bool = False) -> list[Path]:
    """Delete what killed writers left in `folder` (with `deep` also below it); files of processes
    that still run are kept, and for a day those of other machines."""
    removed = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            match = _TEMPORARY.match(entry.name)
            if match and not entry.is_dir() and _is_stale(match, entry):
                path = Path(folder) / entry.name
                path.unlink(missing_ok=True)
                removed.append(path)
            elif deep and entry.is_dir(follow_symlinks=False):
                removed += remove_stale_temporaries(Path(folder) / entry.name, deep)
    return removed


def _is_stale(match: re.Match[str], entry: os.DirEntry[str]) -> bool:
    if match["host"] not in (None, _host()):  # two machines may share a folder
        try:
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_S
        except FileNotFoundError:  # its writer is done with it
            return False
    pid = int(match["pid"])
    return pid == os.getpid() or not is_running(pid)


def is_running(pid: int) -> bool:
    """Whether a process of this machine lives; one that only waits to be counted does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to notice (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"
