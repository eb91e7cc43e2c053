"""The one way to tell a person that something they gave us cannot work."""

import click

from eyescream_py.system.voice import printable


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
