"""What every trainer's command line sets, and what is made of it: device, random numbers, windows,
optimizers.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from eyescream_py.game import precision, trial
from eyescream_py.game.adversarial import Learner
from eyescream_py.game.group import Alone
from eyescream_py.game.joined_adam import join
from eyescream_py.game.precision import Precision
from eyescream_py.game.trial import Part
from eyescream_py.networks import checkpoints
from eyescream_py.plots.windows import Plots, environment_of
from eyescream_py.system.device import choose_device, keep_memory, prepare_cuda, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.fusing import Kernels, fused_kernels
from eyescream_py.system.idle import say_idle
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.optim import SGD, Adagrad, Adam, LuaOptimizer
from eyescream_py.torch7.random import LuaSource, RandomSource, TorchSource
from eyescream_py.training.run import RunOptions
from eyescream_py.training.save_folder import demand_folder


@dataclass(frozen=True, kw_only=True)
class CommonOptions(RunOptions):
    """What every trainer's command line sets."""

    sized_by: ClassVar[str] = "--scale or --grayscale"  # flags that decide the pictures' shape

    noplot: bool  # no Visdom windows
    batch_size: int  # pictures per step
    threads: int  # of the CPU
    gpu: int  # number of a CUDA device, -1: the CPU
    window: int  # number of the first Visdom window
    seed: int  # of all random numbers
    dataset: str | None  # folder of pictures or .t7 file; None: the default folder
    visdom_server: str  # host name
    visdom_port: int
    visdom_env: str  # "": the name of `save` and a few letters
    precision: str  # "auto", "fp32", "bf16" or "fp64"
    strict: bool = False  # on CUDA: no TF32
    fast: bool = False  # on CUDA: runs need not repeat to the bit
    no_capture: bool = False  # every iteration by Python
    no_fuse: bool = False  # torch's own kernels
    rng: str = "torch"  # or "lua": the streams of Lua Torch, for replays
    typed: frozenset[str]  # names of the fields that a person gave, as against defaults
    table: dict[str, Any] = field(repr=False)  # Lua's `opt`: flag -> value, as files keep it


Options = TypeVar("Options", bound=CommonOptions)


def device_and_precision(
    options: CommonOptions, group: Alone, parts: Sequence[Part]
) -> tuple[torch.device, Precision]:
    """What the flags ask for; a replay runs on the CPU, in fp32 unless fp64 is asked for.

    `parts` are the networks to be trained, by which `--precision=auto` chooses on a processor.
    """
    set_threads(options.threads, "threads" in options.typed)
    keep_memory()
    if options.rng == "lua":
        if "gpu" in options.typed and options.gpu >= 0:
            raise UserError(f"--rng=lua runs on the CPU only, --gpu={options.gpu} asks for a GPU")
        device = torch.device("cpu")
        name = "fp32" if options.precision == "auto" else options.precision
        return device, precision.choose(name, device)
    device = choose_device(options.gpu, "gpu" in options.typed)
    prepare_cuda(device, options.fast, options.strict)
    if options.fast and device.type == "cuda":
        print("--fast: two runs of the same command will differ a little.")
    name = options.precision
    if name == "auto" and device.type == "cpu":
        name = group.agreed(lambda: _for_a_processor(options, parts))
    return device, precision.choose(name, device)


def settled(
    options: Options, group: Alone, *parts: Part
) -> tuple[Options, torch.device, Precision]:
    """The options with the precision that was chosen in place of "auto", as files keep it; the
    device, and that precision. `parts` are the networks to be trained.
    """
    if group.leads:  # it is tried before the pictures are read
        demand_folder(Path(options.save))
    device, arithmetic = device_and_precision(options, group, parts)
    say_idle((device.type == "cpu", "on a processor", ("fast", "strict")))
    return dataclasses.replace(options, precision=arithmetic.name), device, arithmetic


def _for_a_processor(options: CommonOptions, parts: Sequence[Part]) -> str:
    """The precision of a run on a processor: its checkpoint's, else what is quicker."""
    native = precision.multiplies_bf16(torch.device("cpu"))
    kept = _kept(options)
    if kept == "bf16" and not native:
        print("--precision=auto: fp32; the file was trained in bf16, which is slow here.")
        return "fp32"
    if kept and (native or kept != "fp32"):
        print(f"--precision=auto: {kept}, as {options.network} was trained in.")
    if kept or not (native and parts):
        return kept or "fp32"
    return trial.chosen(parts, options.batch_size, compiled=not options.no_fuse)


def _kept(options: CommonOptions) -> str:
    """In which precision the file of `--network` was trained; "" where it does not say."""
    if not options.network:
        return ""
    content = checkpoints.read(checkpoints.find(options.network, Path(options.save)))
    resume = content.get("resume")
    state = resume.get("state") if isinstance(resume, dict) else None
    kept = state.get("precision") if isinstance(state, dict) else None
    del content, resume, state
    gc.collect()  # a file's tables hold one another: all of it would stay until the run reads it
    return kept if kept in ("fp32", "bf16", "fp64") else ""


def with_proven_kernels(options: Options, device: torch.device, group: Alone) -> Options:
    """The options with `no_fuse` where `system.gpu_kernels` does not prove itself in each of the
    run's processes: they have to round alike.
    """
    on_cpu = device.type == "cpu"
    replays = on_cpu and options.rng == "lua"
    say_idle((replays, "on a processor with --rng=lua", ("no_capture", "no_fuse")))
    if options.no_fuse or device.type != "cuda":
        return options
    proven = group.all_say(kernels_of(options, device) is not None)
    return options if proven else dataclasses.replace(options, no_fuse=True)


def kernels_of(options: CommonOptions, device: torch.device) -> Kernels | None:
    """`system.gpu_kernels` where the device has them and nobody asked for torch's own."""
    return None if options.no_fuse else fused_kernels(device, options.precision == "bf16")


def join_steps(options: CommonOptions, *players: Learner) -> None:
    """Let `players` take their steps in one pass on a processor, where nobody asked for torch's own
    kernels; a replay keeps to those.
    """
    if not (options.no_fuse or options.rng == "lua"):
        for player in players:
            join(player)


def random_source(options: CommonOptions, device: torch.device) -> RandomSource:
    """The random numbers of `--rng`: torch's on the device, or Lua Torch's streams."""
    lua = options.rng == "lua"
    return LuaSource(options.seed) if lua else TorchSource(options.seed, device)


def go_on_drawing(source: RandomSource, state: Any, path: Path) -> None:
    """Go on with the random numbers that `path` holds; those of another kind of device start anew,
    with a line.

    Raises UserError for those of another `--rng`.
    """
    try:
        same = source.set_state(state)
    except KeyError as error:
        raise UserError(f"--network={path} was trained with another --rng") from error
    if not same:
        print(
            "The random numbers start anew: the file's are those of another kind of device. "
            "Weights and the optimizers' moments go on as they were."
        )
        return
    say_idle((True, "with --network, whose random numbers go on", ("seed",)))


def open_plots(options: CommonOptions) -> Plots:
    """The run's Visdom windows; with `--noplot` an object that does nothing."""
    env = options.visdom_env or environment_of(options.save)
    return Plots.open(not options.noplot, options.visdom_server, options.visdom_port, env)


def make_optimizer(
    method: str,
    network: nn.Module,
    sgd: tuple[float, float],
    lr: float = -1,
    betas: tuple[float, float] = (0.9, 0.999),
    capturable: bool = False,
    rounded: bool = False,
) -> LuaOptimizer:
    """The optimizer `method` ("adam", "adagrad" or "sgd") of a network's parameters.

    `sgd` is (learning rate, momentum) of "sgd"; `lr` the rate of the others, -1 for Lua's 0.001.
    `capturable` where its steps are to become part of a CUDA graph, `rounded` where the network
    computes with rounded copies of its weights. Parameters are laid flat where that pays.
    """
    lr = 1e-3 if lr == -1 else lr
    flat = lies_flat(next(network.parameters()).is_cuda, rounded)
    params = Flat(network) if flat else network.parameters()
    if method == "sgd":
        return SGD(params, sgd[0], sgd[1], capturable)
    if method == "adagrad":
        return Adagrad(params, lr, capturable)
    return Adam(params, lr, betas, capturable=capturable)


def lies_flat(on_gpu: bool, rounded: bool) -> bool:
    """Whether one buffer for a network's parameters pays.

    On a CPU gathering the gradients costs more than one pass saves, unless they have to be copied
    anyway, out of the type that the weights are rounded to (docs/benchmarks.md).
    """
    return on_gpu or rounded
