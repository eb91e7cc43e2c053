"""Two processes have to compute what one process computes, for every trainer."""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn

from eyescream_py import torch7
from eyescream_py.game import group as sharing
from eyescream_py.game.adversarial import Game
from eyescream_py.networks import models, models_c2f
from eyescream_py.networks.models_c2f import PairSequential
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.layers.tables import CAddTable, JoinTable
from eyescream_py.training import distributed, meeting, setup
from eyescream_py.training.distributed import joined
from eyescream_py.training.run import Run
from tests.commands import ROOT
from tests.game.test_group import made_of_batches
from tests.training.test_on_cuda import Shared

pytestmark = pytest.mark.timeout(900)  # three processes start, on busy machines slowly

COMMON = ("--grayscale", "--noplot", "--gpu=-1", "--threads=1", "--log_every=1", "--batchSize=8")
# batches of 8, 8, 8 and 6 pictures: two processes cannot share the last one evenly
GAME = ("--N_epoch=18", "--precision=fp64", *COMMON)
TAMED = ("--D_augment=translation,mirror", "--D_r1=0.1", "--D_spectral=1", "--D_smooth=0.1")
JOBS = {
    "faces": ("train", 8, ("--noiseDim=4", "--D_maxAcc=0.6", "--G_ema=0.9", *TAMED, *GAME)),
    "pairs": ("train_c2f", 4, (
        "--coarseSize=2", "--fineSize=4", "--validation=8", "--parzenImages=4", *GAME,
    )),
    # as auto may choose another type for each of the runs that are compared
    "denoiser": ("train_denoiser", 6, ("--precision=fp32", *COMMON)),
}  # fmt: skip
TOLERANCE = {"faces": 1e-7, "pairs": 1e-7, "denoiser": 1e-5}


def small_D(dims, architecture="default"):
    pixels = 4 * dims[1] * dims[2]
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(), SpatialDropout(), View(pixels),
        nn.Linear(pixels, 8), nn.PReLU(), Dropout(), nn.Linear(8, 1), nn.Sigmoid(),
    )  # fmt: skip


def small_G(dims, noise_dim, architecture="default"):
    return nn.Sequential(
        nn.Linear(noise_dim, 64), View(1, 8, 8), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4),
        nn.PReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def small_pair_D(dims, architecture="default"):
    return PairSequential(CAddTable(), *small_D(dims))


def small_pair_G(dims, architecture="default"):
    return PairSequential(JoinTable(2), nn.Conv2d(2, 4, 3, padding=1), nn.PReLU(),
                          nn.Conv2d(4, 1, 3, padding=1))  # fmt: skip


def train(job, folder, *more):
    name, size, args = JOBS[job]
    command = importlib.import_module(f"eyescream_py.cli.{name}").main
    data = folder.parents[1] / f"faces_{size}.t7"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "create_D", small_D)
        patch.setattr(models, "create_G", small_G)
        patch.setattr(models_c2f, "create_D", small_pair_D)
        patch.setattr(models_c2f, "create_G", small_pair_G)
        patch.setattr(setup, "lies_flat", lambda *where: job == "faces")
        args = [*args, f"--save={folder}", f"--dataset={data}", *more]
        if name != "train_c2f":
            args.append(f"--scale={size}")
        command.main(args, standalone_mode=False)


def train_until_one_goes(rank, folder):
    """Rank 1 disappears inside an iteration; `folder` gets what rank 0 says and where it listens.

    Not by a signal: torch's spawn would end rank 0 at once.
    """
    iteration, calls = Game.iteration, []

    def leaving(*args, **options):
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            os._exit(0)
        if rank == 0:
            (folder.parent / "listening.txt").write_text(" ".join(listening_addresses()))
        return iteration(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Game, "iteration", leaving)
        try:
            train("faces", folder, "--epochs=50")
        except UserError as error:
            (folder.parent / "said.txt").write_text(error.message)


def train_through_a_nan(rank, folder):
    """A weight of rank 1's G is no number before the second of three epochs."""
    iterations, broken = Run._iterations, []

    def breaking(run):
        if run.at.epoch == 2 and not broken:
            broken.append(run)
            if rank == 1:
                with torch.no_grad():
                    next(run.task.game.G.network.parameters()).view(-1)[0] = math.nan
        iterations(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_iterations", breaking)
        train("faces", folder / "nan", "--epochs=3", "--saveFreq=1", "--on_nan=rollback")
    weights = [net.state_dict() for net in broken[0].task.networks().values()]
    torch.save(weights, folder / f"after_nan_{rank}.pt")


def fail(rank, folder, ports):
    """Each process in turn cannot go on, once before they are joined and once after; each writes
    what it says in the end."""
    for which, flag in ((0, "--network=none.net"), (1, "--dataset=none"), (0, "--dataset=none")):
        os.environ["MASTER_PORT"] = str(ports.pop())
        with pytest.raises(UserError) as error:
            train("faces", folder / "failing", *([flag] if rank == which else []))
        with open(folder / f"failed_{rank}", "a") as file:
            file.write(f"{error.value.message}\n")


def listening_addresses():
    """Of this process's TCP sockets, as the kernel writes them (hexadecimal)."""
    ours = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            ours.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours:
                found.append(fields[1].partition(":")[0])
    return found


def lines(folder, name="losses.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def work(rank, port, folder):
    """What each of two processes does: every job, then one that goes on where one process was."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"
    )  # fmt: skip
    torch.set_num_threads(1)
    os.environ["MASTER_PORT"] = str(port[-1])
    take_turns(rank, folder)
    for number, job in enumerate([*JOBS, "resumed"]):
        os.environ["MASTER_PORT"] = str(port[number])
        if job == "resumed":
            train("faces", folder / job, "--epochs=2", "--network=adversarial.net")
        else:
            train(job, folder / job, "--epochs=1")
    os.environ["MASTER_PORT"] = str(port[len(JOBS) + 1])
    train_through_a_nan(rank, folder)
    fail(rank, folder, list(port[-5:-2]))
    os.environ["MASTER_PORT"] = str(port[-2])
    train_until_one_goes(rank, folder / "left")


def take_turns(rank, folder):
    """The first process decodes slowly, the other needs what it leaves."""

    def decode():
        cache = folder / "cache"
        if rank == 0:
            time.sleep(1)
            cache.write_text("decoded by 0")
        return f"{rank} has what was {cache.read_text()}"

    with joined(Shared(-1), StopSignal()) as (group, _, _):
        (folder / f"turn_{rank}").write_text(group.in_turn(decode))
        said = [group.all_say(True), group.all_say(rank == 0), group.agreed(lambda: f"by {rank}")]
        group.agreed(lambda: said.append("alone"))
        (folder / f"said_{rank}").write_text(str(said))
        torch.save(made_of_batches(group), folder / f"made_{rank}.pt")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(runs of one process, runs of two), each with a folder per job."""
    root = tmp_path_factory.mktemp("runs")
    one, two = root / "one", root / "two"
    for _, size, _ in JOBS.values():
        torch7.save(root / f"faces_{size}.t7", torch.rand(40, 1, size, size))
    for job in JOBS:
        train(job, one / job, "--epochs=1")
    shutil.copytree(one / "faces", two / "resumed")
    multiprocessing.spawn(work, (free_ports(len(JOBS) + 7), two), nprocs=2)
    shutil.copytree(two / "faces", one / "resumed")
    train("faces", one / "resumed", "--epochs=2", "--network=adversarial.net")
    return one, two


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_lose_what_one_loses(folders, job):
    alone, shared = (lines(folder / job) for folder in folders)
    assert len(alone) == len(shared) >= 8
    for a, b in zip(alone, shared, strict=True):
        assert (a["network"], a["skipped"]) == (b["network"], b["skipped"])
        assert a["skipped"] or b["loss"] == pytest.approx(a["loss"], rel=TOLERANCE[job])


@pytest.mark.parametrize("name", ["D", "G", "G_ema"])
def test_two_processes_save_the_networks_that_one_saves(folders, name):
    """The averaged G with the statistics that are measured for the file."""
    contents = (torch7.load(folder / "faces" / "adversarial.net") for folder in folders)
    alone, shared = (torch7.to_module(c[name], torch.float64).state_dict() for c in contents)
    assert any("running_var" in key for key in alone) is (name != "D")
    torch.testing.assert_close(shared, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("job", JOBS)
def test_the_epochs_figures_agree(folders, job):
    (alone,), (shared,) = (lines(folder / job, "metrics.jsonl") for folder in folders)
    assert shared["trainer"] == alone["trainer"]
    for name in set(alone) - {"trainer", "seconds", "images_per_second"}:
        assert shared[name] == pytest.approx(alone[name], rel=TOLERANCE[job]), name


def test_a_run_goes_on_with_another_number_of_processes(folders):
    to_one, to_two = (lines(folder / "resumed") for folder in folders)
    assert [r["epoch"] for r in to_one] == [r["epoch"] for r in to_two]
    assert to_one[-1]["epoch"] == 2
    for a, b in zip(to_one, to_two, strict=True):
        assert a["skipped"] or b["loss"] == pytest.approx(a["loss"], rel=1e-5)


def test_a_nan_in_one_process_sends_all_back_to_one_file(folders):
    stored = torch7.load(folders[1] / "nan" / "adversarial.net")
    assert (stored["epoch"], stored["resume"]["halvings"]) == (3, 1)
    first, second = (torch.load(folders[1] / f"after_nan_{rank}.pt") for rank in (0, 1))
    for ours, theirs in zip(first, second, strict=True):
        for name, values in ours.items():
            assert torch.equal(values, theirs[name]), name
            assert values.isfinite().all()


def test_a_process_that_goes_is_named_and_no_other_machine_could_join(folders):
    _, shared = folders
    said = (shared / "said.txt").read_text()
    assert re.fullmatch(r"rank 1 \(process \d+\) ended, .*--network= continues.*", said)
    listening = (shared / "listening.txt").read_text().split()
    assert listening
    assert set(listening) == {"0100007F"}  # 127.0.0.1


def test_all_end_where_one_cannot_go_on(folders):
    first, second = (
        folders[1].joinpath(f"failed_{rank}").read_text().split("\n") for rank in (0, 1)
    )
    assert re.match("--network=none.net: neither", first[0])
    assert second[0] == f"rank 0 ended: {first[0]}"
    assert re.match("the data set folder none does not exist", second[1])
    assert first[1] == f"rank 1 ended: {second[1]}"
    assert (first[2], second[2]) == (second[1], first[1].replace("rank 1", "rank 0"))
    assert not (folders[1] / "failing" / "adversarial.net").exists()


def test_only_the_first_process_writes(folders):
    """A second writer would leave the file before it as .old, or lines twice."""
    alone, shared = (sorted(p.name for p in (f / "faces").rglob("*")) for f in folders)
    assert shared == alone


class AlreadyMet:
    """A company of two that have nothing to tell each other."""

    rank, size = 0, 2

    def gather(self, where):
        pass

    def tell(self, error):
        pass

    def linger(self):
        pass

    def is_said(self):
        return False


@pytest.mark.parametrize(
    ("args", "word"), [(("--batchSize=6",), "multiple of 4"), (("--rng=lua",), "torchrun")]
)
def test_what_cannot_be_shared_is_refused(args, word, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "Company", AlreadyMet)
    with pytest.raises(UserError, match=word):
        train("faces", tmp_path / "one" / "faces", *args)


def test_pictures_are_decoded_by_one_process_and_the_others_wait(folders):
    for rank in range(2):
        text = (folders[1] / f"turn_{rank}").read_text()
        assert text == f"{rank} has what was decoded by 0"
        said = [True, False, "by 0", *(["alone"] if rank == 0 else [])]
        assert (folders[1] / f"said_{rank}").read_text() == str(said)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_shared_batch_is_one_batch(folders, rank):
    expected = made_of_batches(sharing.Alone())
    found = torch.load(folders[1] / f"made_{rank}.pt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, rtol=1e-9, atol=1e-12)


def test_only_the_first_process_shows_a_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    runs = [object.__new__(Run) for _ in range(2)]
    for run, leads in zip(runs, (True, False), strict=True):
        run.leads = leads
    assert [run._shows_progress() for run in runs] == [True, False]


@pytest.mark.parametrize(
    ("typed", "local", "threads"), [((), 2, 4), ((), None, 2), ((), 16, 1), (("threads",), 2, 3)]
)
def test_the_processes_of_a_machine_share_its_cores(typed, local, threads, monkeypatch):
    monkeypatch.setattr(distributed, "usable_cores", lambda: 8)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        if local:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        options = Shared(-1, batch_size=16, threads=3, typed=frozenset(typed))
        found = distributed._options(options, 4, int(rank))
        assert found == dataclasses.replace(options, threads=threads, noplot=rank == "1")


@pytest.mark.parametrize(
    ("to", "number", "code", "name"),
    [("torchrun", 15, 1, "SIGTERM"), ("rank 1", 2, 0, "a signal to another process")],
)
def test_a_signal_to_torchrun_or_one_rank_saves_and_ends_all(to, number, code, name, tmp_path):
    options = ("--scale=8", "--grayscale", "--G_arch=conv", "--D_arch=small", "--batchSize=8")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("train.py", *options, "--N_epoch=16", "--noplot", "--gpu=-1", f"--save={tmp_path}"),
        "--dataset=embedded",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = iter(process.stdout.readline, "")
        assert any("epoch 1: loss" in line for line in said)  # and nothing is saved before epoch 30
        os.kill(process.pid if to == "torchrun" else rank_1_below(process.pid), number)
        rest = "".join(said)
        assert process.wait(60) == code, rest
    assert rest.count("Stopped by") == rest.count(f"Stopped by {name}: saved") == 1
    assert torch7.load(tmp_path / "adversarial.net")["epoch"] >= 1


def rank_1_below(parent):
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = (
        pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    return int(found)
