#!/usr/bin/env python3
"""Train the denoiser of faces; every flag: `python train_denoiser.py --help`."""

from eyescream_py.cli.train_denoiser import main

if __name__ == "__main__":
    main()
