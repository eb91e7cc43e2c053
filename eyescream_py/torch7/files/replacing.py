"""Files that are the old ones until the new ones are whole."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LONGEST = 180  # bytes of a name that a temporary's own may take over; 255 are allowed in all


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of `path` when the block ends without an error; on
    one, or when the process is killed, `path` stays.

    Nobody can foresee the file's name and plant a link there. Raises OSError where the folder
    cannot be written, or `path` is a folder, a device or a pipe.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a device or pipe, no file", str(path))
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    temporary = path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that the caller knows
        raise
    finally:
        temporary.unlink(missing_ok=True)
