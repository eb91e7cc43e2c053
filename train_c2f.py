#!/usr/bin/env python3
"""Train the upscaler: `python train_c2f.py --coarseSize=16 --fineSize=32`; flags: `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

from eyescream_py.cli.train_c2f import main

if __name__ == "__main__":
    main()
