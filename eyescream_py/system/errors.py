"""The one way to tell a person that something they gave us cannot work."""

import errno
import os

import click

from eyescream_py.system.voice import printable

_NEEDS_FOLDER = "a file stands where a folder is needed"
_LEADS_NOWHERE = "a link to a place that is not there"  # a disk that is not mounted
FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(click.ClickException):
    """One line on stderr (`Error: ...`) naming the file or flag and the remedy; exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # one line, whatever the names of files in it hold


def first_line(error: BaseException) -> str:
    """An error's words for a line of ours; its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def causes(error: BaseException) -> list[BaseException]:
    """The error, what was being handled when it was raised, and so on to what came first."""
    found = [error]
    while found[-1].__context__ is not None:
        found.append(found[-1].__context__)
    return found


def why(error: OSError) -> str:
    """What the system refused, without the name of the file.

    Its own words, except where they say nothing to whoever typed the name of a folder: "File
    exists", "Not a directory".
    """
    if error.errno == errno.ENOTDIR or (error.errno == errno.EEXIST and _is_no_folder(error)):
        return _LEADS_NOWHERE if _is_link_to_nowhere(error) else _NEEDS_FOLDER
    return error.strerror or first_line(error)


def _is_no_folder(error: OSError) -> bool:
    return error.filename is None or not os.path.isdir(error.filename)


def _is_link_to_nowhere(error: OSError) -> bool:
    path = error.filename
    return path is not None and os.path.islink(path) and not os.path.exists(path)


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not suffice: Python's, a GPU's, torch's or oneDNN's way to say it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or str(error) == "could not create a primitive"
    )


def remedy_of(error: OSError) -> str:
    """What a person can do about what the system refused; "" where its words say enough."""
    if error.errno in FULL:
        return "free space there"
    return "see to its rights, or choose another" if error.errno in _FORBIDDEN else ""
