"""Faces from a trained generator, used as a library.

python -m examples.generate logs/adversarial.net faces.png
"""

import sys
from pathlib import Path

from eyescream_py import load_generator
from eyescream_py.results.sampling import save_grid

G = load_generator(sys.argv[1])
faces = G.sample(64, seed=1)  # float32 (64,C,H,W), 0..1
print(f"{G.noise_dim} random numbers -> {tuple(faces.shape)}, mean {faces.mean():.3f}")
save_grid(Path(sys.argv[2]), faces, columns=8)
