"""`reconstruct`: scans through a trained network, or through the methods that need none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from eyescream_py.mln import idle
from eyescream_py.mln.options import (
    chosen_device,
    given_params,
    kept_params,
    machine_options,
    params_options,
)
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.folders import make_folder
from eyescream_py.system.numbers import Finite
from eyescream_py.system.places import PATH
from eyescream_py.system.progress import still
from eyescream_py.system.voice import counted, say, warn

if TYPE_CHECKING:
    from eyescream_py.mln.checkpoints import Checkpoint
    from eyescream_py.mln.methods import Settings
    from eyescream_py.mln.networks import Shape
    from eyescream_py.mln.params import Params
    from eyescream_py.mln.protocol import Protocol

METHODS = ("mln", "adjoint", "cg", "wavelet", "tv", "all")
FORMATS = ("mat", "npy", "png", "nifti", "cfl")
KEYS = (
    "LoadAndRunOnData_checkpointP", "LoadAndRunOnData_Prefix", "LoadAndRunOnData_OutP",
    "HowManyToRun", "RealDatancc", "BaseTSDataP", "BaseNUFTDataP", "UseB0",
)  # fmt: skip


@click.command(cls=Command)
@params_options(KEYS)
@machine_options
@click.option(
    "--checkpoint",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Wins over LoadAndRunOnData_checkpointP.",
)
@click.option(
    "--prefix", type=PATH, default=None, metavar="PATH", help="Scans are PATH01.mat, PATH02.mat ..."
)
@click.option("--out", type=PATH, default=None, metavar="FOLDER", help="Where the images go.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="mln",
    show_default=True,
    help="mln needs --checkpoint, the others the protocol's files; all: every one that can run.",
)
@click.option("--rows", default="", metavar="COUNT|A:B", help="Rows of each scan; default: all.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(FORMATS),
    multiple=True,
    default=("mat",),
    show_default=True,
    help="May be given several times.",
)
@click.option("--reference", type=PATH, default=None, metavar="FILE", help=".mat with `x`.")
@click.option(
    "--at-once", type=click.IntRange(1, 4096), default=16, show_default=True, help="Rows per batch."
)
@click.option("--half", is_flag=True, help="k-layer in bfloat16 (CUDA; errors near 0.4 %).")
@click.option("--cg-steps", type=click.IntRange(1, 10_000), default=12, show_default=True)
@click.option("--wavelet-weight", type=Finite(0, most=1e6), default=0.005, show_default=True)
@click.option("--tv-weight", type=Finite(0, most=1e6), default=0.005, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace images that --out holds already.")
def reconstruct(
    params_file: str | None,
    ignore_unknown: bool,
    gpu: int,
    threads: int,
    checkpoint: str | None,
    prefix: str | None,
    out: str | None,
    method: str,
    rows: str,
    formats: tuple[str, ...],
    reference: str | None,
    at_once: int,
    half: bool,
    cg_steps: int,
    wavelet_weight: float,
    tv_weight: float,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Reconstruct <prefix>01.mat ... into OnRealDataXX.mat, and report.md with times and, given a
    reference, errors.

    Methods other than mln write OnRealDataXX_METHOD.mat.
    """
    from eyescream_py.mln.methods import Settings

    params = given_params(params_file, ignore_unknown, flags)
    checkpoint = checkpoint or params.run_checkpoint
    needs = {"--prefix": prefix or params.run_prefix, "--out": out or params.run_output}
    if method == "mln":
        needs = {"--checkpoint": checkpoint, **needs}
    absent = [name for name, value in needs.items() if not value]
    if absent:
        raise UserError(f"give {', '.join(absent)} (or their LoadAndRunOnData keys in --params)")
    settings = Settings(cg_steps, wavelet_weight=wavelet_weight, tv_weight=tv_weight)
    work = _Work(params, params_file is not None, flags, checkpoint, method, settings, half)
    device = chosen_device(gpu, threads)
    jobs = work.methods(device)
    _run(work, jobs, needs, rows, formats, reference, at_once, overwrite, device)


class _Work:
    """Which methods run, with which network and which protocol."""

    def __init__(
        self,
        params: Params,
        own_params: bool,
        flags: dict[str, Any],
        checkpoint: str,
        method: str,
        settings: Settings,
        half: bool,
    ) -> None:
        from eyescream_py.mln.checkpoints import load_checkpoint

        self.network = None
        self.params = params
        if checkpoint:
            file = _checkpoint_file(checkpoint)
            self.network = load_checkpoint(file)
            if not own_params:
                self.params = kept_params(self.network.params, str(file), flags)
        self._bare = not own_params and self.network is None  # nothing says the image's side
        self._method, self._settings, self._half = method, settings, half
        self.count = params.run_count
        self.protocol: Protocol | None = None

    def methods(self, device: Any) -> dict[str, Callable[[Any], Any]]:
        """Method name -> (B, C, M) -> images. Raises UserError where one cannot run."""
        from eyescream_py.mln.checkpoints import restore_network
        from eyescream_py.mln.fast import FastNetwork
        from eyescream_py.mln.methods import model_methods
        from eyescream_py.mln.protocol import as_wide_as_maps, load_protocol

        idle.tell_of_reconstruction(device.type == "cpu", self._method)
        jobs: dict[str, Callable[[Any], Any]] = {}
        if self.network is not None and self._method in ("mln", "all"):
            half = self._half and device.type == "cuda"
            jobs["mln"] = FastNetwork(restore_network(self.network).to(device), half)
        if self._method != "mln":
            if self._bare:
                self.params = as_wide_as_maps(self.params)
            self.protocol = load_protocol(self.params, device)
            known = model_methods(self.protocol, self._settings)
            names = known if self._method == "all" else [self._method]
            if jobs:
                self._demand_one_protocol()
            jobs |= {name: known[name] for name in names}
        return jobs

    def _demand_one_protocol(self) -> None:
        """Raise UserError where the network was trained for other sizes than the protocol has, with
        which the other methods run.
        """
        network, protocol = cast("Checkpoint", self.network), cast("Protocol", self.protocol)
        known = network.samples, network.shape.coils, network.shape.image_side
        asked = _sizes_of(protocol)
        if known != asked:
            words = "{} samples, {} coils and {} pixels a side"
            raise UserError(
                f"--checkpoint {network.file}: was trained for {words.format(*known)}; the "
                f"protocol has {words.format(*asked)}: give its own --params, or one --method"
            )

    @property
    def side(self) -> int:
        """Pixels of the images' side."""
        return _sizes_of(self.protocol)[2] if self.protocol else self._shape.image_side

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(samples, coils in the scan's file, coils used)."""
        p = self.params
        if self.protocol:
            samples, coils, _ = _sizes_of(self.protocol)
        else:
            samples, coils = cast("Checkpoint", self.network).samples, self._shape.coils
        return samples, p.coils_in_scan or p.coils_in_data or coils, coils

    @property
    def _shape(self) -> Shape:
        return cast("Checkpoint", self.network).shape


def _sizes_of(protocol: Protocol) -> tuple[int, int, int]:
    """Samples, coils, pixels of the images' side."""
    coils = protocol.acquisition.coils
    return protocol.samples, coils.shape[1], coils.shape[-1]


def _run(
    work: _Work,
    jobs: dict[str, Callable[[Any], Any]],
    needs: dict[str, str],
    rows: str,
    formats: tuple[str, ...],
    reference: str | None,
    at_once: int,
    overwrite: bool,
    device: Any,
) -> None:
    """Every file is read and checked before the first is written."""
    from eyescream_py.mln.methods import TITLES
    from eyescream_py.mln.protocol import read_scan
    from eyescream_py.mln.report import outcome, read_reference, table, write_report
    from eyescream_py.mln.series import chosen_rows, output_files, reconstruct_series

    sources = [f"{needs['--prefix']}{number:02d}.mat" for number in range(1, work.count + 1)]
    scans = [chosen_rows(read_scan(path, *work.sizes, _label()), rows) for path in sources]
    truth = read_reference(reference, work.side) if reference else None
    out = Path(needs["--out"])
    stems = _stems(out, work.count, jobs)
    used = [file for stem in stems.values() for file in output_files(stem, formats)]
    _prepare_folder(out, [*used, out / "report.md"], overwrite)
    mask = _mask(work)
    outcomes, first = [], []
    for number, (source, signal) in enumerate(zip(sources, scans, strict=True), 1):
        shown = _shown_row(source, signal)
        for name, job in jobs.items():
            with still(f"{TITLES[name]} of {source}"):
                done = reconstruct_series(job, signal, device, at_once)
            _write(source, stems[name, number], done, formats)
            if number == 1:
                image = done.images[shown, 0].numpy()
                seconds, frames = done.seconds, len(done.images)
                outcomes.append(outcome(TITLES[name], frames, seconds, image, truth, mask))
                first.append(image)
    write_report(out, outcomes, first + ([truth] if truth is not None else []))
    say(table(outcomes))


def _shown_row(source: str, signal: Any) -> int:
    """The row that the report is of, the first that is not zero; a line where rows are zero or
    equal.
    """
    from eyescream_py.mln.protocol import first_frame
    from eyescream_py.mln.series import equal_rows

    row, _ = first_frame(signal)
    if row:
        warn(f"{source}: zero before row {row}, which the report is of")
    if equal_rows(signal):
        warn(f"{source}: all {len(signal)} rows are equal; --rows 1 reconstructs one of them")
    return row


def _label() -> str:
    """What chose the scans."""
    typed = click.get_current_context().params["prefix"]
    return "--prefix" if typed else "LoadAndRunOnData_Prefix"


def _stems(out: Path, count: int, methods: Iterable[str]) -> dict[tuple[str, int], Path]:
    """(method, number of the scan) -> its files' path without an ending."""
    return {
        (name, number): out / f"OnRealData{number:02d}{'' if name == 'mln' else '_' + name}"
        for number in range(1, count + 1)
        for name in methods
    }


def _write(source: str, stem: Path, done: Any, formats: tuple[str, ...]) -> None:
    from eyescream_py.mln.series import write_images

    files = write_images(stem, done.images, formats)
    each = 1000 * done.seconds / len(done.images)
    listed = ", ".join(map(str, files))
    say(f"{source} -> {listed}  ({counted(len(done.images), 'image')}, {each:.0f} ms each)")


def _mask(work: _Work) -> Any:
    import numpy as np

    if work.protocol is None:
        return np.ones((work.side, work.side))
    return work.protocol.mask[0].cpu().numpy()


def _prepare_folder(out: Path, files: list[Path], overwrite: bool) -> None:
    here = [path.name for path in files if path.exists()]
    if here and not overwrite:
        raise UserError(
            f"--out {out}: holds {here[0]} already; choose another folder, or give --overwrite"
        )
    make_folder(out)


def _checkpoint_file(path: str) -> Path:
    from eyescream_py.mln.training import CHECKPOINT_NAME

    return Path(path) / CHECKPOINT_NAME if Path(path).is_dir() else Path(path)
