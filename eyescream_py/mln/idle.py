"""Which options of this room's commands can change nothing beside their others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from eyescream_py.system.idle import say_idle

ISMRMRD = (".h5", ".hdf5", ".mrd")  # ends of its files' names
OWN_FLAGS = {"checkpoint": "checkpointP", "prefix": "Prefix", "out": "OutP"}  # win over keys
OF_B0_AND_MAPS = ("BaseTSDataP", "UseB0", "nSimSegments", "AcqTime", "nccToUse", "DataH")
OF_METHOD = {"cg": "cg_steps", "wavelet": "wavelet_weight", "tv": "tv_weight", "mln": "half"}


OF_START = tuple(
    f"key_{name}"
    for name in (
        "Init", "InitExamples", "InitChannels", "InitSweeps", "InitRidge", "InitForRFN",
        "InitForLFN", "SessionNameBase",
    )
)  # fmt: skip


def tell_of_training(
    on_cpu: bool, plots: bool, test_images: int, resume: str | None, init: str
) -> None:
    """Name the flags of `train` that were typed and can change nothing."""
    random = not resume and init == "random"
    say_idle(
        (resume, "with --resume, which began before", OF_START),
        (random, "with --Init=random", OF_START[1:5]),
        (on_cpu, "on a processor", ("capture",)),
        (not plots, "without --plots", ("plot_server", "plot_port")),
        (not test_images, "with --test-images=0", ("wavelet",)),
        (resume, "with --resume, whose folder goes on", ("out",)),
    )


def tell_of_reconstruction(on_cpu: bool, method: str) -> None:
    """The same for `reconstruct`."""
    when = f"with --method={method}"
    say_idle(*((method not in (name, "all"), when, (flag,)) for name, flag in OF_METHOD.items()))
    context = click.get_current_context(silent=True)
    chosen = context.params if context else {}
    for flag, key in OWN_FLAGS.items():
        say_idle((chosen.get(flag), f"with --{flag}", (f"key_LoadAndRunOnData_{key}",)))
    say_idle((on_cpu and method in ("mln", "all"), "on a processor", ("half",)))


def tell_of_estimation(what: str) -> None:
    """`estimate-coils`'s and `estimate-b0`'s, which need less of a protocol than a training."""
    unread = ("UseB0",) if what == "b0" else OF_B0_AND_MAPS
    say_idle((True, f"by estimate-{what}", [f"key_{name}" for name in unread]))


def tell_of_import(source: str, maps: str | None) -> None:
    """The same for `import`; `source` is its file, `maps` the file of --maps."""
    say_idle(
        (source.lower().endswith(ISMRMRD), "with an ISMRMRD file", ("trajectory", "maps")),
        (maps, "with --maps", ("coil_method",)),
    )


def tell_of_simulation(setup: Mapping[str, Any]) -> None:
    """The same for `simulate`, by the names of its options."""
    spiral = setup["kind"] == "spiral"
    say_idle(
        (spiral, "with --kind=spiral", ("acceleration",)),
        (not spiral, "with --kind=mask", ("samples", "turns")),
        (not setup["b0_hz"], "without --b0", ("segments",)),
    )
