#!/usr/bin/env python3
"""Cut LFW's photos into faces for training: `python dataset/generate_dataset.py --path=LFW`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":  # before the imports that take long
    from eyescream_py.system.interrupts import quiet

    quiet()

from eyescream_py.cli.generate_dataset import main

if __name__ == "__main__":
    main()
