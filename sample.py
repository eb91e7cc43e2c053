#!/usr/bin/env python3
"""Write grids of faces of a trained network: `python sample.py`; flags: `--help`."""

from eyescream_py.cli.sample import main

if __name__ == "__main__":
    main()
