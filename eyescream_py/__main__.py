"""`python -m eyescream_py COMMAND`: the same as `eyescream COMMAND`."""

from eyescream_py.cli.main import main

if __name__ == "__main__":
    main(prog_name="eyescream")
