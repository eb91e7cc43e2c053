"""What `sample.py` does: load the networks of a run and write its grids (`sample.lua`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eyescream_py.data.dataset import Dataset, load_dataset
from eyescream_py.networks import checkpoints
from eyescream_py.results import films, generator
from eyescream_py.results.choice import Opinion, choose, judge_and_read
from eyescream_py.results.generator import Generator
from eyescream_py.results.refiner import Refiner, read_refiner
from eyescream_py.results.sampling import generate, nearest, save_grid
from eyescream_py.results.sheet import Section, write_sheet
from eyescream_py.system.device import choose_device, set_threads
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.files import remove_stale_temporaries
from eyescream_py.system.folders import make_folder
from eyescream_py.system.idle import say_idle
from eyescream_py.system.places import as_script, chosen_pictures
from eyescream_py.system.voice import counted
from eyescream_py.torch7 import Table
from eyescream_py.torch7.random import TorchSource

IMAGES = 1024
GRID = 64
NEIGHBOURS = 16
BOXED = "pretrained:faces32"


@dataclass(frozen=True)
class SampleOptions:
    """`sample.py`'s options; `typed` are those that a person gave."""

    save_base: str
    save_c2f32: str
    G_base: str
    D_base: str
    G_c2f32: str
    D_c2f32: str
    neighbours: bool
    scale: int
    grayscale: bool
    writeto: str
    seed: int
    gpu: int
    runs: int
    noise_dim: int
    batch_size: int
    aws: bool
    dataset: str | None
    threads: int
    ema: bool
    interpolate: int
    export: str
    overwrite: bool
    typed: frozenset[str]


@dataclass(frozen=True)
class Base:
    """A run's G and the D that judges its pictures, where there is one."""

    G: Generator
    D: nn.Module | None


def _say_what_is_idle(options: SampleOptions) -> None:
    """A line for flags that were typed and change nothing beside the others."""
    grids = (
        "neighbours", "dataset", "aws", "interpolate", "runs", "writeto", "seed", "batch_size",
        "D_base", "save_c2f32", "G_c2f32", "D_c2f32",
    )  # fmt: skip
    exports = bool(options.export)
    say_idle(
        (exports, "with --export", grids),
        (not exports, "without --export", ("overwrite",)),
        (not exports and not options.neighbours, "without --neighbours", ("dataset", "aws")),
        (not exports and options.neighbours and options.dataset, "with --dataset", ("aws",)),
    )


def sample(options: SampleOptions) -> None:
    """Write the grids of every run; prints their names."""
    _say_what_is_idle(options)
    set_threads(options.threads, "threads" in options.typed)
    device = choose_device(options.gpu, "gpu" in options.typed)
    if options.export:
        G, *_ = load_G(options, device)
        generator.export(G, Path(options.export), options.overwrite)
        print(f"Written: {options.export}")
        return
    base = load_base(options, device)
    count = options.interpolate
    films.demand_memory_of(f"--interpolate={count}", count, base.G.dims)
    refiner = load_refiner(options, base.G, device)
    data = _neighbour_data(options, base, device) if options.neighbours else None
    folder = Path(options.writeto)
    try:
        make_folder(folder)
        remove_stale_temporaries(folder)
        for run in range(1, options.runs + 1):
            source = TorchSource(options.seed + run - 1, device)
            _one_run(options, folder, run, source, base, refiner, data)
    except OSError as error:
        raise UserError(f"--writeto={folder}: cannot write: {why(error)}") from error
    print(f"The pictures are in {folder}; look at {folder / 'sheet_0001.png'} first.")


def _network_file(options: SampleOptions, name: str, option: str) -> Path:
    folder = Path(options.save_base)
    try:
        return checkpoints.find(name, folder, option)
    except UserError as error:
        # a newcomer who has trained nothing yet sees the faces that come with the package
        if not options.typed & {"save_base", "G_base", "D_base"}:
            print(f"{folder} holds no {name}: taking the trained faces of the package ({BOXED}).")
            return checkpoints.find(BOXED, folder, option)
        raise UserError(
            f"{error.message}; train one first: {as_script('train')} --scale=16 --grayscale"
        ) from error


def load_G(options: SampleOptions, device: torch.device) -> tuple[Generator, Path, Table]:
    """G of `--G_base`, its file and what else is in it; sizes come from the network itself."""
    path = _network_file(options, options.G_base, "--G_base")
    if path.suffix.lower() == generator.EXPORTED:
        G, content = generator.load_generator(path, device), Table()
    else:
        content = checkpoints.read(path, "--G_base")
        network = generator.G_of(content, path, "--G_base", options.ema)
        G = generator.described(network.float().eval().to(device), f"--G_base={path}")
    _check_typed(options, G, path)
    return G, path, content


def load_base(options: SampleOptions, device: torch.device) -> Base:
    """G of `--G_base`, and the D of `--D_base`; where nobody named that, G's own D."""
    G, path, content = load_G(options, device)
    if "D_base" in options.typed:
        path = _network_file(options, options.D_base, "--D_base")
        content = checkpoints.read(path, "--D_base")
        return Base(G, generator.D_of(content, path, "--D_base", G))
    without = "random faces only (--D_base=FILE would rank them)"
    return Base(G, generator.own_D(content, path, "--G_base", G, without))


def _check_typed(options: SampleOptions, G: Generator, path: Path) -> None:
    channels, *size = G.dims
    gray = channels == 1
    for name, given, found in (
        ("scale", [options.scale] * 2, size),
        ("noise_dim", options.noise_dim, G.noise_dim),
        ("grayscale", options.grayscale, gray),
    ):
        if name in options.typed and given != found:
            flag = "noiseDim" if name == "noise_dim" else name
            raise UserError(
                f"--{flag}: {path} makes {G.size_in_words} pictures in "
                f"{'gray' if gray else 'colour'} from {counted(G.noise_dim, 'number')}; leave the "
                "flag out"
            )


def load_refiner(options: SampleOptions, G: Generator, device: torch.device) -> Refiner | None:
    """The c2f pair if its files are there and fit; one line says what is left out and why.

    Raises UserError where a file that a person named is not there.
    """
    paths = []
    # as with --G_base, a file has both where nobody says otherwise
    D_c2f32 = options.D_c2f32 if "D_c2f32" in options.typed else options.G_c2f32
    for option, name in (("--G_c2f32", options.G_c2f32), ("--D_c2f32", D_c2f32)):
        try:
            paths.append(checkpoints.find(name, Path(options.save_c2f32), option))
        except UserError:
            if option.removeprefix("--") in options.typed:
                raise
            print(f"No refined pictures: there is no {Path(options.save_c2f32) / name}.")
            return None
    flags = "--G_c2f32", "--D_c2f32"
    refiner = read_refiner(paths[0], paths[1], device, flags, options.ema)
    channels, size, width = G.dims
    if width != size:
        print(f"No refined pictures: {paths[0]} takes squares, G draws {G.size_in_words}.")
        return None
    if not refiner.takes(channels, size):
        gray = " --grayscale" if channels == 1 else ""
        print(
            f"No refined pictures: {paths[0]} does not fit {counted(channels, 'channel')} at "
            f"{size} px; make one that does with: {as_script('train_c2f')} "
            f"--coarseSize={size} --fineSize={2 * size}{gray}"
        )
        return None
    return refiner


def _neighbour_data(options: SampleOptions, base: Base, device: torch.device) -> Dataset:
    base.G.demand_squares(f"--neighbours: {options.G_base}")
    path = chosen_pictures(options.dataset, options.aws)
    return load_dataset(path, *base.G.dims[:2], device)


def _one_run(
    options: SampleOptions,
    folder: Path,
    run: int,
    source: TorchSource,
    base: Base,
    refiner: Refiner | None,
    data: Dataset | None,
) -> None:
    start = time.perf_counter()
    noise = torch.empty(IMAGES, base.G.noise_dim, device=source.device)
    source.uniform_(noise, -1, 1)
    images = generate(base.G.network, noise, options.batch_size)
    grids, opinion = {"random": images[:GRID]}, None
    if base.D is not None:
        opinion = judge_and_read(base.D, images, options.batch_size)
        order = opinion[0].argsort(descending=True, stable=True)
        grids |= {"best": images[order[:GRID]], "worst": images[order.flip(0)[:GRID]]}
    for name, pictures in grids.items():
        save_grid(folder / f"{name}_{run:04d}_base.jpg", pictures, 8)
    save_grid(folder / f"random256_{run:04d}_base.jpg", images[:256], 16)
    save_grid(folder / f"random1024_{run:04d}_base.jpg", images, 32)
    shown = for_the_sheet(base, images, options.batch_size, opinion)
    _write_sheet(folder, run, shown, data)
    if data is not None:
        name = "best" if "best" in grids else "random"
        pairs = _beside_neighbours(grids[name][:NEIGHBOURS], data)
        save_grid(folder / f"{name}_{run:04d}_neighbours_base.jpg", pairs, 8)
    base_seconds = time.perf_counter() - start
    if refiner is not None:
        for name, pictures in grids.items():
            refined = refiner.choose(pictures, source, batch=options.batch_size)
            save_grid(folder / f"{name}_{run:04d}_c2f_{refiner.size}.jpg", refined, 8)
    if options.interpolate:
        path = folder / f"interpolate_{run:04d}.gif"
        frames = _between(base, noise[:5], options.interpolate, options.batch_size)
        films.write(path, frames)
    seconds = time.perf_counter() - start
    print(f"run {run} of {options.runs}: base grids {base_seconds:.1f} s, all {seconds:.1f} s")


def for_the_sheet(
    base: Base, images: Tensor, batch: int, opinion: Opinion | None = None
) -> dict[str, Tensor]:
    """Captions with 64 pictures each of [N,C,H,W]: as they come, and with a D those to show first,
    as D's own best are seldom those that a person calls so."""
    shown = {"random faces, as they come": images[:GRID]}
    if base.D is not None:
        caption = f"chosen of {IMAGES}: real to D, like others of them and their own mirror image"
        shown[caption] = images[choose(base.D, images, batch, opinion)[:GRID]]
    return shown


def _write_sheet(folder: Path, run: int, shown: dict[str, Tensor], data: Dataset | None) -> None:
    sections = [Section(caption, images, 16) for caption, images in shown.items()]
    if data is not None:
        last = sections[-1].images[:NEIGHBOURS]
        beside = "the first of these, each with the training picture nearest to it"
        sections.append(Section(beside, _beside_neighbours(last, data), 8))
    write_sheet(folder / f"sheet_{run:04d}.png", sections)


def _beside_neighbours(images: Tensor, data: Dataset) -> Tensor:
    """Each picture followed by the training picture nearest to it. [N,C,H,W] -> [2N,C,H,W]"""
    indices = nearest(images, data.images)
    return torch.stack([images, data.floats(indices, images.dtype)], 1).flatten(0, 1)


def _between(base: Base, corners: Tensor, frames: int, batch: int) -> Tensor:
    """A walk through five noise vectors and back to the first. [5,Z] -> [frames,C,H,W]"""
    stops = torch.cat([corners, corners[:1]])
    at = torch.linspace(0, len(corners), frames + 1, device=corners.device)[:-1]
    index = at.long()
    share = (at - index)[:, None]
    noise = stops[index] * (1 - share) + stops[index + 1] * share
    return generate(base.G.network, noise, batch)
