"""The one way to tell a person that something they gave us cannot work."""

import click

from eyescream_py.system.voice import printable


class UserError(click.ClickException):
    """One line on stderr (`Error: ...`) naming the file or flag and the remedy; exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        """The message on one line, whatever the names of files in it hold."""
        return printable(self.message)


def first_line(error: BaseException) -> str:
    """An error's words for a line of ours; its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
