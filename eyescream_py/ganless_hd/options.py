"""Everything a training run is told, and what of it a resumed run may not change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eyescream_py.system.errors import UserError

# A resumed run equals an uninterrupted one only while these stay as they were.
FIXED = (
    "imgSize",
    "loadSize",
    "batchSize",
    "itersPerEpoch",
    "width",
    "colormap",
    "pearson",
    "averaging",
    "ema_decay",
    "lr",
    "seed",
    "heldout",
    "small",
    "precision",
)
ONLY_AT_START = ("init", "features", "basis", "features_width")
MULTIPLE = 64
LARGEST_SIDE = 2**14
MANY = 2**31 - 1
NARROWEST, WIDEST = 0.001, 4  # times the published channel counts
# Whoever typed the flag, or whatever a file says: these decide how much memory is asked for.
RANGES: dict[str, tuple[float, float]] = {
    "width": (NARROWEST, WIDEST),
    "features_width": (NARROWEST, WIDEST),
    "imgSize": (MULTIPLE, LARGEST_SIDE),
    "loadSize": (1, LARGEST_SIDE),
    "batchSize": (1, 2**16),
    "itersPerEpoch": (1, MANY),
    "heldout": (0, MANY),
    "nthread": (0, 1024),
    "cache_gb": (0, 1e6),
    "ema_decay": (0, 1),
    "lr": (1e-12, 1e3),
    "seed": (0, 2**62),
    "epochs": (0, MANY),
    "max_steps": (0, 2**53),
    "print_every": (1, MANY),
    "sheet_every": (1, MANY),
    "save_every": (1, MANY),
}
CHOICES = {
    "small": ("enlarge", "skip"),
    "pearson": ("global", "sample", "channel"),
    "averaging": ("last", "ema", "none"),
    "precision": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class Options:
    """One field per flag of `train`, under the flag's name."""

    dataroota: tuple[str, ...] = ()
    out: str = "logs/ganless_hd"
    resume: bool = False
    nthread: int = 3
    loadSize: int = 600  # noqa: N815
    imgSize: int = 512  # noqa: N815
    batchSize: int = 12  # noqa: N815
    itersPerEpoch: int = 10000  # noqa: N815
    epochs: int = 0
    max_steps: int = 0
    heldout: int = 0
    small: str = "enlarge"
    colormap: bool = True
    cache: str | None = None
    cache_gb: float = 10.0
    width: float = 1.0
    init: str | None = None
    basis: str = "auto"
    features: str = "auto"
    features_width: float = 1.0
    pearson: str = "global"
    averaging: str = "last"
    ema_decay: float = 0.999
    lr: float = 1e-3
    seed: int = 0
    precision: str = "auto"
    recompute: bool = False
    capture: bool = True
    gpu: int = 0
    threads: int = 4
    print_every: int = 10
    sheet_every: int = 100
    save_every: int = 200
    noplot: bool = False
    server: str = "http://localhost"
    port: int = 8097
    env: str = "ganless-hd"

    @property
    def folder(self) -> Path:
        """The run's folder, `--out`."""
        return Path(self.out)

    @property
    def cache_folder(self) -> Path | None:
        """Where resized copies go; None where none are kept."""
        if self.cache_gb <= 0:
            return None
        return Path(self.cache) if self.cache else self.folder / "cache"

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        if not self.dataroota:
            raise UserError("--dataroota: give at least one folder of photographs")
        for name, (least, most) in RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(
                    f"--{name}={getattr(self, name)}: give a number from {least:g} to {most:g}"
                )
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise UserError(f"--{name}={getattr(self, name)}: give one of {', '.join(words)}")
        if self.imgSize % MULTIPLE:
            raise UserError(f"--imgSize={self.imgSize}: give a multiple of {MULTIPLE}")
        if self.loadSize <= self.imgSize:
            raise UserError(
                f"--loadSize={self.loadSize}: must be greater than --imgSize={self.imgSize}, "
                "crops are cut out of the resized photograph"
            )


def resumed(given: Options, stored: Mapping[str, Any], typed: Collection[str]) -> Options:
    """The options of a run that goes on: `stored` ones, except what was typed and may change.

    Raises UserError for a typed flag that would make it another run.
    """
    known = {f.name for f in fields(Options)} & set(stored)
    for name in known & set(typed):
        same = getattr(given, name) == stored[name]
        if name in FIXED and not same:
            raise UserError(
                f"--{name}={getattr(given, name)}: the run in {given.out} has {stored[name]}; "
                "leave the flag out, or start a new run with another --out"
            )
        if name in ONLY_AT_START and not same:
            raise UserError(f"--{name}: works at the start of a run only, not with --resume")
    kept = {name: stored[name] for name in known - set(typed) - {"out", "resume"}}
    kept["dataroota"] = tuple(kept.get("dataroota", given.dataroota))
    return replace(given, **kept)
