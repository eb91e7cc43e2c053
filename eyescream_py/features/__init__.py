"""Frozen networks that see, shared by losses and by measures of quality.

network = features.judge("auto", real)    # or lite0, random, FILE; pictures are floats 0..1
found = features.compared(network, real, {"generated": pictures})
found.frechet["generated"], found.kernel["generated"].value, found.kernel["generated"].spread

network = features.frozen(features.load("lite0"))  # for a loss: network(pictures -1..1) -> taps
"""

from eyescream_py.features.base import FeatureNetwork, calibrate, frozen
from eyescream_py.features.distances import (
    Comparison,
    KernelDistance,
    compared,
    frechet_distance,
    kernel_distance,
    suffices,
    vectors_of,
)
from eyescream_py.features.loading import WORDS, chosen, judge, load, tensors_of

__all__ = [
    "WORDS",
    "Comparison",
    "FeatureNetwork",
    "KernelDistance",
    "calibrate",
    "chosen",
    "compared",
    "frechet_distance",
    "frozen",
    "judge",
    "kernel_distance",
    "load",
    "suffices",
    "tensors_of",
    "vectors_of",
]
