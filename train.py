#!/usr/bin/env python3
"""Train faces: `python train.py --scale=16 --grayscale`; every flag: `python train.py --help`."""

from eyescream_py.cli.train import main

if __name__ == "__main__":
    main()
