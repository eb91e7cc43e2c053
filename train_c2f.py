#!/usr/bin/env python3
"""Train the upscaler: `python train_c2f.py --coarseSize=16 --fineSize=32`; flags: `--help`."""

from eyescream_py.cli.train_c2f import main

if __name__ == "__main__":
    main()
