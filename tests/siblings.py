"""The four siblings' trainings, small enough for tests: six batches, a save after two at most."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from eyescream_py.ganless_hd.scenes import write_scenes
from eyescream_py.image_model.make_data import make_data
from eyescream_py.mln.simulation import Setup, write_simulation
from eyescream_py.srez.make_data import render_face

CPU = ("--gpu=-1", "--threads=1")


@dataclass(frozen=True)
class Sibling:
    """How a sibling is called; `save` is the flag that says where checkpoints go."""

    args: tuple[str, ...]
    save: str
    checkpoint: str  # pattern of a checkpoint below the folder of a run
    goes_on: Callable[[Path], tuple[str, ...]]  # flags of a run of eight from a checkpoint


SIBLINGS = {
    "srez": Sibling(
        ("--run=train", "--dataset={data}/faces", "--checkpoint_dir={run}/checkpoint",
         "--train_dir={run}/train", "--summary_dir={run}/summary", "--cache_dir=",
         "--sample_size=32", "--width=0.0625", "--batch_size=4", "--test_vectors=4",
         "--summary_period=2", "--checkpoint_period=2", "--max_batches=6", *CPU),
        "--checkpoint_dir", "checkpoint/checkpoint.safetensors",
        lambda path: ("--resume", "--max_batches=8"),
    ),
    "image_model": Sibling(
        ("train", "--synth_dir={data}/heads/Faces_depth", "--real_dir={data}/heads/Faces_real",
         "--log_dir={run}", "--batch_size=4", "--image_size=16", "--use_replay", "--cache_size=6",
         "--max_steps=6", "--ckpt_freq=2", "--gen_print_freq=2", "--html", "--noplot", *CPU),
        "--log_dir", "*/model.ckpt-*.safetensors",
        lambda path: (f"--load={path}", "--max_steps=2"),
    ),
    "ganless_hd": Sibling(
        ("train", "--dataroota={data}/scenes", "--out={run}", "--nthread=0", "--loadSize=72",
         "--imgSize=64", "--batchSize=2", "--itersPerEpoch=8", "--width=0.0625",
         "--features=random", "--features-width=0.0625", "--heldout=1", "--noplot",
         "--max-steps=12", "--save-every=2", "--sheet-every=2", *CPU),
        "--out", "saves/latest.safetensors",
        lambda path: ("--resume", "--max-steps=16"),
    ),
    "mln": Sibling(
        ("train", "--params={data}/scan/Params.txt", "--out={run}", "--batches=6", "--Init=random",
         "--nToLoad=8", "--batch_size=4", "--test-images=0", "--checkpoint_period=0.0000001",
         "--summary_period=0.0000001", *CPU),
        "--out", "*_checkpoint/checkpoint_new.safetensors",
        lambda path: (f"--resume={path}", "--batches=8"),
    ),
}  # fmt: skip


def make_all(folder: Path) -> Path:
    """What all of them learn from."""
    (folder / "faces").mkdir()
    for number in range(12):
        render_face(number).save(folder / f"faces/{number:06d}.jpg", quality=92)
    make_data(folder / "heads", size=16, unpaired=8, pairs=8, tests=2, meshes=0, seed=0)
    write_scenes(folder / "scenes", count=5, size=80, seed=3)
    write_simulation(Setup(side=16, coils=2, samples=256, turns=4), folder / "scan")
    return folder


def train(name: str, data: Path, run: Path, *more: str) -> Result:
    """The command in this process."""
    main = importlib.import_module(f"eyescream_py.{name}.__main__").main
    args = [word.format(data=data, run=run) for word in SIBLINGS[name].args]
    return CliRunner().invoke(main, [*args, *more])


def checkpoints(name: str, run: Path) -> list[Path]:
    """The run's checkpoints, the newest last."""
    return sorted(run.glob(SIBLINGS[name].checkpoint), key=lambda path: path.stat().st_mtime_ns)


def checkpoints_of_all(data: Path, folder: Path) -> dict[str, Path]:
    """Train each sibling; its newest checkpoint."""
    found = {}
    for name in SIBLINGS:
        done = train(name, data, folder / name)
        assert done.exit_code == 0, (done.output, done.exception)
        found[name] = checkpoints(name, folder / name)[-1]
    return found
