"""Everything a run of srez can be told, with the fork's names and defaults, and what cannot work.

The names follow MandyZChen/srez; `width`, `critic_width`, `scale`, `crop`, `test_list`,
`train_images`, `n_critic`, `pixel_factor`, `max_batches`, `bn`, `back_projection`, `precision`,
`cache_dir`, `resume`, `preset` and `on_finish` are ours.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from eyescream_py.system.errors import UserError

CLIP_BOUND = 0.01  # Arjovsky et al. 2017, algorithm 1
PENALTY_WEIGHT = 10.0  # Gulrajani et al. 2017
FULL_SIDE = 128  # pixels of the random crop that a label is made of
MINIMUM_SIDE = 32
SEEDS = 1 << 63  # torch takes seeds from -SEEDS to SEEDS - 1
WIDEST = 64.0  # times the originals' channels
MOST = 1 << 31  # of any count: far beyond what memory or a life can hold
MOSTS = {  # above them numbers become infinite, or a step endless
    "learning_rate_start": 1e3, "epsilon": 1e3, "pixel_factor": 1e6, "train_noise": 1e3,
    "LAMBDA": 1e6, "n_critic": 1e4,
}  # fmt: skip
CHOICES: dict[str, tuple[str, ...]] = {
    "crop": ("celeba", "lfw", "none"),
    "input": ("scaled", "noise"),
    "optimizer": ("adam", "rmsprop"),
    "loss_func": ("dcgan", "gan", "wgan", "wgangp"),
    "critic_norm": ("batch", "layer", "none"),
    "gen_architect": ("resnet", "deconv"),
    "bn": ("running", "batch"),
    "precision": ("fp32", "bf16"),
    "preset": ("2016", "2017"),
}
PRESETS: dict[str, dict[str, Any]] = {
    "2016": {
        "learning_rate_start": 2e-4, "learning_beta2": 0.999, "train_time": 20.0, "bn": "batch",
        "back_projection": 0,
    },
    "2017": {"input": "noise", "bn": "batch", "back_projection": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """One run. Sides are pixels, times minutes, learning rates per batch; None means "as the
    objective has it".
    """

    dataset: str = "srez/dataset"
    checkpoint_dir: str = "srez/checkpoint"
    train_dir: str = "srez/train"
    summary_dir: str = "srez/summary"
    cache_dir: str = "srez/cache"
    batch_size: int = 16
    sample_size: int = 64
    scale: int = 4
    test_vectors: int = 16
    test_list: str = ""
    train_images: int = 0
    crop: str = "celeba"
    random_seed: int = 0
    learning_rate_start: float = 1e-4
    learning_rate_half_life: int = 5000
    learning_beta1: float = 0.5
    learning_beta2: float = 0.9
    epsilon: float = 1e-8
    gene_l1_factor: float = 0.9
    pixel_factor: float = 0.0
    train_noise: float = 0.03
    summary_period: int = 200
    checkpoint_period: int = 10000
    train_time: float = 200.0
    max_batches: int = 0
    optimizer: str = "adam"
    loss_func: str = "dcgan"
    weigh_clip: int | None = None
    LAMBDA: float | None = None
    n_critic: int = 1
    critic_norm: str | None = None
    gen_norm: int = 1
    gen_architect: str = "resnet"
    input: str = "scaled"
    noise_dimension: int = 4
    width: float = 1.0
    critic_width: float | None = None
    bn: str = "running"
    back_projection: int = 1
    precision: str = "fp32"
    capture: int = 1
    preset: str | None = None
    resume: bool = False
    on_finish: str = ""

    @property
    def objective(self) -> str:
        """`gan`, `wgan` or `wgangp`; the fork calls the first one dcgan."""
        return "gan" if self.loss_func == "dcgan" else self.loss_func

    @property
    def clip(self) -> float:
        """Bound of the critic's parameters, 0 for none. WGAN implies it."""
        wanted = self.objective == "wgan" if self.weigh_clip is None else bool(self.weigh_clip)
        return CLIP_BOUND if wanted else 0.0

    @property
    def penalty_weight(self) -> float:
        """Weight of the gradient penalty, 0 for none. WGAN-GP implies 10."""
        if self.LAMBDA is None:
            return PENALTY_WEIGHT if self.objective == "wgangp" else 0.0
        return self.LAMBDA

    @property
    def norm_of_critic(self) -> str:
        """Batch norm as in the original; the gradient penalty is per image, so WGAN-GP takes layer
        norm.
        """
        return self.critic_norm or ("layer" if self.objective == "wgangp" else "batch")

    @property
    def width_of_critic(self) -> float:
        """`--critic_width`, else `--width`."""
        return self.width if self.critic_width is None else self.critic_width

    @property
    def input_side(self) -> int:
        """Side of what the generator sees: the small picture, or the square of noise."""
        return self.noise_dimension if self.input == "noise" else self.sample_size // self.scale

    @property
    def stages(self) -> int:
        """How often the generator doubles the side."""
        return int(math.log2(self.sample_size // self.input_side))

    def check(self) -> None:
        """Raise UserError for the first thing that cannot work, naming its flag."""
        _check_choices(self)
        _check_numbers(self)
        _check_sizes(self)
        _check_objective(self)


def told_by(values: dict[str, Any]) -> Options:
    """Options from a file's words; unknown ones are dropped. Raises TypeError for a value of
    another type than the option has, and ValueError for a number of too many digits.
    """
    types: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
    known: dict[str, Any] = {}
    for field in dataclasses.fields(Options):
        if field.name not in values:
            continue
        value, kind = values[field.name], str(field.type).partition(" | ")[0]
        if value is None and field.default is None:
            known[field.name] = None
            continue
        if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise TypeError(f"{field.name} is {value!r:.40}")
        known[field.name] = float(value) if kind == "float" else value
    return Options(**known)


def _check_choices(options: Options) -> None:
    for name, choices in CHOICES.items():
        value = getattr(options, name)
        unset = value is None and getattr(Options, name) is None
        _demand(unset or value in choices, options, name, f"give one of {', '.join(choices)}")


def _check_numbers(options: Options) -> None:
    at_least_one = ("batch_size", "test_vectors", "n_critic", "summary_period", "checkpoint_period")
    not_negative = (
        "train_images", "learning_rate_half_life", "pixel_factor", "train_noise", "max_batches",
    )  # fmt: skip
    own = () if options.critic_width is None else ("critic_width",)
    positive = ("learning_rate_start", "epsilon", "train_time", "width", *own)
    for name, value in vars(options).items():
        if isinstance(value, float):
            _demand(math.isfinite(value), options, name, "give a finite number")
        elif isinstance(value, int) and name != "random_seed":
            _demand(abs(value) < MOST, options, name, f"give a number below {MOST}")
    seed = options.random_seed
    _demand(-SEEDS <= seed < SEEDS, options, "random_seed", "give a number of at most 63 bits")
    for name in at_least_one:
        _demand(getattr(options, name) >= 1, options, name, "give a whole number of at least 1")
    for name in not_negative:
        _demand(getattr(options, name) >= 0, options, name, "give 0 or more")
    _demand(options.width <= WIDEST, options, "width", f"give at most {WIDEST:g}")
    _demand(options.width_of_critic <= WIDEST, options, "critic_width", f"give at most {WIDEST:g}")
    for name, most in MOSTS.items():
        _demand((getattr(options, name) or 0) <= most, options, name, f"give at most {most:g}")
    for name in positive:
        _demand(getattr(options, name) > 0, options, name, "give a number above 0")
    for name in ("learning_beta1", "learning_beta2"):
        _demand(0 <= getattr(options, name) < 1, options, name, "give a number from 0 to below 1")
    _demand(
        0 <= options.gene_l1_factor <= 1, options, "gene_l1_factor", "give a number from 0 to 1"
    )


def _demand(holds: bool, options: Options, name: str, remedy: str) -> None:
    if not holds:
        raise UserError(f"--{name}={getattr(options, name)}: {remedy}")


def _check_sizes(options: Options) -> None:
    side = options.sample_size
    if side % 16 or not MINIMUM_SIDE <= side <= FULL_SIDE:
        raise UserError(
            f"--sample_size={side}: give a multiple of 16 from {MINIMUM_SIDE} to {FULL_SIDE}, "
            "the critic halves it four times"
        )
    if options.scale not in (2, 4, 8):
        raise UserError(f"--scale={options.scale}: the L1 term is defined for 2, 4 and 8")
    if options.input == "noise":
        times = side / options.noise_dimension if options.noise_dimension > 0 else 0
        if times < 2 or not math.log2(times).is_integer():
            raise UserError(
                f"--noise_dimension={options.noise_dimension}: --sample_size={side} must be 2, 4, "
                "8, ... "
                "times as large, each stage doubles the side"
            )


def _check_objective(options: Options) -> None:
    if options.objective == "wgan" and not options.clip:
        raise UserError(
            "--loss_func=wgan --weigh_clip=0: nothing bounds the critic's slope, so its loss is no "
            "Wasserstein distance; leave out --weigh_clip or give --loss_func=wgangp"
        )
    if options.objective == "wgangp" and options.penalty_weight <= 0:
        raise UserError(
            f"--loss_func=wgangp --LAMBDA={options.LAMBDA}: the penalty needs a weight above 0 (10 "
            "is usual)"
        )
    if options.objective != "wgangp" and options.penalty_weight != 0:
        raise UserError(
            f"--LAMBDA={options.LAMBDA}: the gradient penalty belongs to --loss_func=wgangp"
        )
