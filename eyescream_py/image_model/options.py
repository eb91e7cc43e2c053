"""The numbers and switches of a run, as the commands hand them over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GENERATORS = ("U", "V", "F", "NU", "PIX")
NORMS = ("none", "batch", "conv", "instance")  # conv: batch, but for dense layers
CRITICS = ("dense", "patch")
DIRECTIONS = ("AtoB", "BtoA")  # from depth maps to photos, or back


@dataclass(frozen=True)
class RunOptions:
    """What every training command has: where to write, how long, how often."""

    log_dir: str = "logs"
    max_steps: int = 10000
    display_freq: int = 20
    gen_print_freq: int = 500
    gen_num: int = 10
    ckpt_freq: int = 1000
    decay_steps: int = 0
    html: bool = False
    command_line: str = ""


@dataclass(frozen=True)
class ImageOptions:
    """Shape of the networks and of a batch."""

    batch_size: int = 8
    image_size: int = 128
    channels: int = 1
    norm: str = "none"
    optim: str = "RMSP"

    def settings(self, kind: str) -> dict[str, Any]:
        """What a checkpoint of this `kind` must say for its networks to be built again."""
        return {
            "kind": kind,
            "channels": self.channels,
            "image_size": self.image_size,
            "norm": self.norm,
            "optim": self.optim,
        }


@dataclass(frozen=True)
class GanOptions:
    """The adversarial game: objective, rates, schedule, replay."""

    objective: str = "log"
    critic: str = "dense"
    glr: float = 1e-3
    dlr: float = 1e-4
    diter: int = 5
    diff_low: float = 0.05
    diff_high: float = 0.95
    d_limit: int = 50
    use_replay: bool = False
    cache_path: str | None = None
    cache_size: int = 100_000
    cache_dtype: str = "uint8"
    reuse_replay: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """What only `train` has: generator, further losses, where the pictures are."""

    synth_dir: str = "Data/Faces_depth"
    real_dir: str = "Data/Faces_real"
    nd_dir: str = "Data/Faces_ND"
    pair_list: str | None = None
    direction: str = "AtoB"
    flip: bool = False
    crop: int = 0
    gen_arch: str = "U"
    use_nd_l1: bool = False
    use_nd_gan: bool = False
    l1: bool = False
    l1_weight: float = 1.0
    features_loss: float = 0.0
    features: str = "auto"
    self_l1: float = 0.0
    use_gan: bool = True
    use_recon: bool = False
    rlr: float = 1e-6
    llr: float = 1e-3


@dataclass(frozen=True)
class SemiOptions:
    """What only the semi-supervised stages have."""

    synth_dir: str = "Data/Faces_depth"
    real_dir: str = "Data/Faces_real"
    nd_dir: str = "Data/Faces_ND"
    routes: str = "cross"
    llr: float = 1e-3
    decoder: str = "real"
    alpha: float = 1.0
