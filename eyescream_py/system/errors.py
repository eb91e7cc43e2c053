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


def first_cause(error: BaseException) -> BaseException:
    """The error that came first, where others were raised while it was handled."""
    while error.__context__ is not None:
        error = error.__context__
    return error
