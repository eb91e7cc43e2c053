"""`eyescream COMMAND`, and `python -m eyescream_py COMMAND`: the same."""

from eyescream_py.system.interrupts import quiet


def main(called: str = "eyescream") -> None:
    """The program, whose commands are in `cli.main`; called: how its own lines name it."""
    quiet()  # before the imports that take long
    from eyescream_py.cli.main import main as command

    command(prog_name=called)


if __name__ == "__main__":
    main("python -m eyescream_py")  # without an installation there is no `eyescream`
