"""`eyescream COMMAND`, and `python -m eyescream_py COMMAND`: the same."""

from eyescream_py.system.interrupts import quiet


def main() -> None:
    """The program; its commands are in `cli.main`."""
    quiet()  # before the imports that take long
    from eyescream_py.cli.main import main as command

    command(prog_name="eyescream")


if __name__ == "__main__":
    main()
