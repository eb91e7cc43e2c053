"""From options to a run: photographs, features, basis, network, and what an earlier run left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from eyescream_py import features
from eyescream_py.ganless_hd.basis import analytic_basis, basis_of_filters
from eyescream_py.ganless_hd.checkpoints import (
    copy_matching,
    fingerprint,
    read_tensors,
    write_tensors,
)
from eyescream_py.ganless_hd.data import (
    ContourPhotos,
    Pair,
    ResizedPhotos,
    cache_limit,
    clean_cache,
    find_photos,
    fixed_batches,
    fixed_pairs,
    survey,
    to_network,
)
from eyescream_py.ganless_hd.losses import PerceptualLoss
from eyescream_py.ganless_hd.networks import UNet, parameter_count
from eyescream_py.ganless_hd.options import Options, resumed
from eyescream_py.ganless_hd.resuming import (
    EarlierRun,
    Progress,
    check_tensors,
    earlier_run,
    state_file,
)
from eyescream_py.ganless_hd.trainer import Trainer
from eyescream_py.ganless_hd.training import FEATURES, Run
from eyescream_py.system.device import choose_device, prepare_cuda, set_threads
from eyescream_py.system.errors import UserError
from eyescream_py.system.files import demand_room, remove_stale_temporaries
from eyescream_py.system.folders import make_folder
from eyescream_py.system.idle import say_idle
from eyescream_py.system.locks import writing
from eyescream_py.system.memory import demand_batch
from eyescream_py.system.progress import still
from eyescream_py.system.saves import spared
from eyescream_py.system.voice import counted, printable, say

CALIBRATION_PHOTOS = 128
CALIBRATION_BATCH = 16
SHOWN_FILES = 5


@contextlib.contextmanager
def opened_run(given: Options, typed: Collection[str]) -> Iterator[Run]:
    """A run ready to train: a new one, or with `given.resume` the one that `given.out` holds.

    While it is open no other run can write into its folder.
    """
    if not given.resume:  # the folder must exist for its lock
        given.check()
        _make_folders(given)
    remedy = "wait for it, or give another --out"
    with writing(state_file(given.folder), remedy) as lock, _opened(given, typed) as run:
        run.saves.lock = lock
        yield run


@contextlib.contextmanager
def _opened(given: Options, typed: Collection[str]) -> Iterator[Run]:
    earlier = earlier_run(given)
    options = resumed(given, earlier.options, typed) if earlier else given
    options.check()
    sizes = f"--batchSize={options.batchSize} --imgSize={options.imgSize}"
    demand_batch(sizes, options.batchSize, (3, options.imgSize, options.imgSize))
    if earlier:
        check_tensors(earlier, options.width)
    device = choose_device(options.gpu, "gpu" in typed)
    say_idle((device.type == "cpu", "on a processor", ("capture",)))
    set_threads(options.threads, "threads" in typed)
    prepare_cuda(device, fast=False, strict=False)
    _make_folders(options)
    if options.cache_folder:
        with spared(f"copies to {options.cache_folder}"):  # it may hold all of them already
            demand_room(options.cache_folder / "probe")
    training, held_out = photographs(options)
    dataset = ContourPhotos(training, options.imgSize, options.colormap, options.seed)
    basis = analytic_basis() if earlier else _basis(options)
    network = UNet(options.width, basis, options.seed, options.recompute)
    if not earlier:
        _initialise(network, options)
    # after all that can be refused, as a new run's features are written into its folder
    loss = PerceptualLoss(_features(options, dataset, device, earlier), options.pearson)
    trainer = Trainer(network, loss, options, device)
    if earlier:
        trainer.restore(earlier.tensors)
    run = Run(
        options,
        trainer,
        dataset,
        held_out,
        earlier.progress if earlier else Progress(),
        {"features": fingerprint(_features_file(options)), "photos": names_of(training)},
    )
    _compare_photos(earlier, run.about)
    try:
        yield run
    finally:
        run.close()


def _make_folders(options: Options) -> None:
    for name in ("", "saves", "images"):
        make_folder(options.folder / name)
        remove_stale_temporaries(options.folder / name)
    if options.cache_folder:
        make_folder(options.cache_folder)
        clean_cache(options.cache_folder)


def photographs(options: Options) -> tuple[ResizedPhotos, list[Pair]]:
    """The photographs to train on, and batches of the last `--heldout` ones by sorted name."""
    photos = find_photos(options.dataroota, outside=options.folder)
    if photos.left_out:
        say(photos.left_out)
    found = survey(photos.paths, options.imgSize, options.small == "skip")
    _name("left out, as unreadable", found.broken)
    fate = "skipped" if options.small == "skip" else f"enlarged to {options.loadSize}"
    _name(f"{fate}, as a side is under {options.imgSize} pixels", found.small)
    count = len(found.usable) - options.heldout
    if count < 1:
        raise UserError(
            f"--heldout={options.heldout}: leaves no photograph of {len(found.usable)} to train on"
        )
    say(f"{counted(count, 'photograph')} to train on, {options.heldout} held out")
    limit = cache_limit(options.cache_gb, options.loadSize)
    training = ResizedPhotos(found.usable[:count], options.loadSize, options.cache_folder, limit)
    others = ResizedPhotos(found.usable[count:], options.loadSize)
    pairs = fixed_pairs(others, options.imgSize, options.colormap)
    return training, fixed_batches(pairs, options.batchSize)


def _name(what: str, files: list[Path]) -> None:
    if files:
        more = ", ..." if len(files) > SHOWN_FILES else ""
        names = ", ".join(map(printable, files[:SHOWN_FILES]))
        say(f"{counted(len(files), 'picture')} {what}: {names}{more}")


def names_of(photos: ResizedPhotos) -> str:
    """A fingerprint of the list of photographs."""
    return sha256(os.fsencode("\n".join(path.name for path in photos.photos))).hexdigest()


def _compare_photos(before: EarlierRun | None, now: Mapping[str, Any]) -> None:
    if before and before.photos != now["photos"]:
        say("The photographs are not those of the earlier run: going on with the new ones.")


def _features_file(options: Options) -> Path:
    return options.folder / FEATURES


def _features(
    options: Options, dataset: ContourPhotos, device: torch.device, earlier: EarlierRun | None
) -> features.FeatureNetwork:
    """The frozen network of the loss; a copy lies in the run's folder, from which runs resume."""
    path = _features_file(options)
    if earlier:
        if not path.is_file():
            raise UserError(f"{path}: no such file; the run needs it to go on, put it back")
        network = features.load(str(path))
        if fingerprint(path) != earlier.features:
            raise UserError(f"{path}: not the features that the run in {options.out} started with")
        say(f"Features: {path}, those the run started with.")
    else:
        network = _new_features(options, dataset, device)
        write_tensors(path, network.state_dict(), {"kind": "features", "source": network.title})
    return features.frozen(network).to(device)


def _new_features(
    options: Options, dataset: ContourPhotos, device: torch.device
) -> features.FeatureNetwork:
    kind = features.chosen(options.features)
    network = features.load(kind, width=options.features_width, seed=options.seed)
    if kind != "random":
        say_idle((True, "without --features=random", ("features_width",)))
        say(f"Features: {network.title}.")
        return network
    say(
        f"Features: {network.title}, batch normalisations calibrated on {CALIBRATION_PHOTOS} "
        "training crops. Trained ones (--features lite0 or FILE) tell textures apart better."
    )
    pairs = (dataset[number] for number in range(CALIBRATION_PHOTOS))
    with still("calibration"):
        batches = fixed_batches(pairs, CALIBRATION_BATCH)
        features.calibrate(network.to(device), (to_network(half, device) for _, half in batches))
    return network


def _basis(options: Options) -> torch.Tensor:
    """What `--basis` names; `auto` is the filters of a `--features` file and analytic without one,
    because lite0's early lead is gone after 600 batches (docs/ganless_hd.md).
    """
    given = options.features not in features.WORDS
    name = options.basis if options.basis != "auto" else options.features if given else "analytic"
    if name == "analytic":
        say("Basis: analytic (box blur, vertical and horizontal Sobel).")
        return analytic_basis()
    flag = "--basis" if options.basis != "auto" else "--features"
    tensors, _ = features.tensors_of(name, flag)
    say(f"Basis: first three singular vectors of the 3x3 filters in {name}.")
    return basis_of_filters(tensors, f"--basis={name}")


def _initialise(network: UNet, options: Options) -> None:
    """Copy what fits from `--init`, naming every tensor; or say that the network starts fresh."""
    size = f"{parameter_count(network):,} parameters"
    if not options.init:
        say(f"Network: {size}, from scratch (seed {options.seed}); --init FILE starts from one.")
        return
    copied, left = copy_matching(network, read_tensors(options.init)[0])
    if not copied:
        raise UserError(
            f"--init={options.init}: no tensor in it has the name and size of one of ours; "
            "was it trained with another --width?"
        )
    say(f"Network: {size}; from {options.init}: {', '.join(copied)}.")
    say(f"From scratch: {', '.join(left) if left else 'nothing'}.")
