"""The figures of docs/image_model.md: short CPU runs of the image-model room, three seeds each.

    python -m eyescream_py.image_model make-data --output_dir DATA --image_size 64 \\
        --unpaired 320 --pairs 640 --tests 60
    python -m benchmarks.image_model run DATA OUT [--size 64] [--batch 8] [l1|gan_l1|plain|...]
    python -m benchmarks.image_model bound
    python -m benchmarks.image_model memory FOLDER
    python -m benchmarks.image_model_report OUT --data DATA

`run` leaves OUT/<experiment>-<seed>.json and goes on where it was stopped; the report prints the
tables and draws the plots and sheets from what is there.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.image_model_report import SEEDS
from benchmarks.processes import resident_mb
from eyescream_py.image_model.checkpoints import read_checkpoint, save_checkpoint
from eyescream_py.image_model.data import (
    Pictures,
    load_folder,
    load_pairs,
    normalise,
    to_bytes,
)
from eyescream_py.image_model.generate import score
from eyescream_py.image_model.heads import LOOK, POSE, SHAPE, build_head, draw, render
from eyescream_py.image_model.loop import Learner
from eyescream_py.image_model.make_data import SETS
from eyescream_py.image_model.networks import EncodedGenerator
from eyescream_py.image_model.options import (
    GanOptions,
    ImageOptions,
    ModelOptions,
    SemiOptions,
)
from eyescream_py.image_model.replay import ReplayCache
from eyescream_py.image_model.semi import CrossEncoder, FrozenEncoderGan
from eyescream_py.image_model.training import ImageModel, load_domains

Trace = list[dict[str, float]]
Phases = tuple[tuple[int, float], ...]

CPU = torch.device("cpu")
LLR, GLR, DLR = 3e-3, 1e-4, 1e-4
L1_PHASES = ((300, 3e-3), (120, 1e-3), (80, 3e-4))  # (steps, llr)
LONG_ROUNDS: tuple[Phases, ...] = (
    ((1600, 3e-3), (500, 1e-3), (300, 3e-4)),
    ((1200, 2e-3), (1000, 1e-3), (600, 3e-4)),  # with fresh moments
)
CONTINUED, CONTINUED_RATE = 200, 3e-4
LONG_CONTINUED = 600
ALPHA = 10.0


@dataclass(frozen=True)
class Bench:
    """What an experiment is given: the folders of make-data, its own output, size and batch."""

    data: Path
    out: Path
    image: ImageOptions


def seeded(seed: int) -> np.random.Generator:
    """Seeds torch; numpy's generator is returned."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def train(learner: Learner, steps: int) -> Trace:
    """The metrics of `steps` steps."""
    return [learner.step() for _ in range(steps)]


def image_model(
    bench: Bench, seed: int, llr: float = LLR, glr: float = GLR, dlr: float = DLR, **options: Any
) -> ImageModel:
    """A learner on the folders of make-data; `options` are those of ModelOptions."""
    rng = seeded(seed)
    model = ModelOptions(
        synth_dir=str(bench.data / "Faces_depth"),
        real_dir=str(bench.data / "Faces_real"),
        nd_dir=str(options.pop("nd_dir", bench.data / "Faces_ND")),
        llr=llr,
        **options,
    )
    domains = load_domains(model, bench.image, rng, CPU)
    return ImageModel(model, bench.image, GanOptions(glr=glr, dlr=dlr), domains, rng, CPU)


def at_falling_rates(learner: ImageModel, phases: Phases) -> Trace:
    """Train as `--load ... --llr` does it."""
    trace: Trace = []
    for steps, rate in phases:
        learner.optimizers["l1"].param_groups[0]["lr"] = rate
        trace += train(learner, steps)
    return trace


def paired_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """500 steps of L1 on pairs."""
    learner = image_model(bench, seed, l1=True, use_nd_l1=True, use_gan=False)
    return learner, at_falling_rates(learner, L1_PHASES)


def continued(
    bench: Bench, seed: int, start: str, steps: int, use_gan: bool, rate: float = GLR
) -> tuple[Learner, Trace]:
    """`steps` more from the result of `start`, with or without the game at `rate`."""
    rates = {"llr": CONTINUED_RATE, "glr": rate, "dlr": rate}
    learner = image_model(bench, seed + 100, l1=True, use_nd_l1=True, use_gan=use_gan, **rates)
    found = read_checkpoint(bench.out / f"{start}-{seed}.safetensors")
    found.restore(learner.generator, "generator")
    return learner, train(learner, steps)


def l1_more(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, "l1", CONTINUED, use_gan=False)


def gan_and_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, "l1", CONTINUED, use_gan=True, rate=CONTINUED_RATE)


def long_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """5200 steps of L1 on pairs (docs: batches of 16)."""
    learner = image_model(bench, seed, l1=True, use_nd_l1=True, use_gan=False)
    trace = at_falling_rates(learner, LONG_ROUNDS[0])
    weights = learner.generator.state_dict()
    learner = image_model(bench, seed, l1=True, use_nd_l1=True, use_gan=False)
    learner.generator.load_state_dict(weights)
    return learner, trace + at_falling_rates(learner, LONG_ROUNDS[1])


def longer_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, "l1_long", LONG_CONTINUED, use_gan=False)


def long_gan_and_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, "l1_long", LONG_CONTINUED, use_gan=True)


def plain_gan(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """300 steps of the unpaired game alone."""
    learner = image_model(bench, seed)
    return learner, train(learner, 300)


def gan_with_replay(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """300 steps of the unpaired game with a cache of 2000 pictures."""
    learner = image_model(bench, seed)
    assert learner.game is not None
    path = bench.out / f"replay-{seed}.npy"
    for old in bench.out.glob(path.name + "*"):
        old.unlink()
    size = bench.image.image_size
    learner.game.replay = ReplayCache.create(path, 2000, (1, size, size))
    return learner, train(learner, 300)


def semi_supervised(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """150 steps of stage 1 on the pairs, then 150 of stage 2 on the unpaired folders."""
    rng, size = seeded(seed), bench.image.image_size
    options = SemiOptions(llr=LLR, alpha=ALPHA)
    pairs = load_pairs(bench.data / "Faces_ND", "--nd_dir", size, 1, rng)
    first = CrossEncoder(options, bench.image, pairs, rng, CPU)
    trace = train(first, 150)
    path = bench.out / f"stage1-{seed}.safetensors"
    save_checkpoint(path, 150, first.settings, first.state(), first.modules, first.optimizers)
    synth = load_folder(bench.data / "Faces_depth", "--synth_dir", size, 1, rng)
    real = load_folder(bench.data / "Faces_real", "--real_dir", size, 1, rng)
    gan = GanOptions(glr=GLR, dlr=DLR)
    second = FrozenEncoderGan(options, bench.image, gan, synth, real, rng, CPU)
    second.start_from(read_checkpoint(path), "real")
    return second, trace + train(second, 150)


EXPERIMENTS: dict[str, Callable[[Bench, int], tuple[Learner, Trace]]] = {
    "l1": paired_l1,
    "l1_more": l1_more,
    "gan_l1": gan_and_l1,
    "l1_long": long_l1,
    "l1_longer": longer_l1,
    "gan_long": long_gan_and_l1,
    "plain": plain_gan,
    "replay": gan_with_replay,
    "semi": semi_supervised,
}


def generator_of(learner: Learner) -> torch.nn.Module:
    """What makes pictures of depth maps."""
    if "decoder" in learner.modules:
        return EncodedGenerator(learner.modules["encoder"], learner.modules["decoder"])  # type: ignore[arg-type]
    return learner.modules["generator"]


@click.group()
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
def main(threads: int) -> None:
    """Measure the image-model room."""
    torch.set_num_threads(threads)


size_options = [
    click.option("--size", type=int, default=64, show_default=True),
    click.option("--batch", type=int, default=8, show_default=True),
]


def sized(command: Callable[..., None]) -> Callable[..., None]:
    """A command with --size and --batch."""
    for option in size_options:
        command = option(command)
    return command


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--seed", "seeds", type=int, multiple=True, default=SEEDS, show_default=True)
@sized
def run(
    data: Path, out: Path, names: tuple[str, ...], seeds: tuple[int, ...], size: int, batch: int
) -> None:
    """Run the experiments that have no result in OUT yet."""
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(data, out, ImageOptions(batch_size=batch, image_size=size, optim="ADAM"))
    rng = np.random.default_rng(0)
    held_out = load_pairs(data / "Faces_ND_test", "--nd_dir", size, 1, rng)
    seen = load_pairs(data / "Faces_ND", "--nd_dir", size, 1, rng)
    for seed in seeds:
        for name in names or EXPERIMENTS:
            measure(bench, name, seed, held_out, seen.sides[1])


def measure(
    bench: Bench, name: str, seed: int, held_out: Pictures, seen_photos: torch.Tensor
) -> None:
    """One experiment with one seed: its scores, times and metrics, and its networks."""
    result = bench.out / f"{name}-{seed}.json"
    if result.exists():
        return
    began, cpu = time.monotonic(), time.process_time()
    learner, trace = EXPERIMENTS[name](bench, seed)
    spent = {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
    scores = score(generator_of(learner).eval(), held_out, seen_photos)
    path = bench.out / f"{name}-{seed}.safetensors"
    save_checkpoint(path, len(trace), learner.settings, {}, learner.modules, {})
    learner.close()
    result.write_text(json.dumps({"scores": asdict(scores), **spent, "trace": trace}))
    print(name, seed, asdict(scores), spent, flush=True)


@main.command()
@click.option("--size", type=int, default=64, show_default=True)
@click.option("--heads", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--looks", type=click.IntRange(min=3), default=24, show_default=True)
def bound(size: int, heads: int, looks: int) -> None:
    """The least L1 that any function of the depth map can have on make-data, and the mean photo's.

    Held-out heads are drawn with many looks each. The best guess at a pixel is the median over the
    looks that this head could have; it is taken over all looks but the one that is guessed.
    """
    photos = np.array([other_looks(index, looks, size) for index in range(heads)])
    rest = [np.median(np.delete(photos, look, 1), 1) for look in range(looks)]
    least = np.abs(photos - np.stack(rest, 1)).mean()
    mean_photo = np.abs(photos - photos.mean((0, 1))).mean()
    print(f"{heads} heads, {looks} looks each, {size} px: least L1 {least:.4f}, mean photo "
          f"{mean_photo:.4f}, ratio {mean_photo / least:.2f}")  # fmt: skip


def other_looks(index: int, looks: int, size: int) -> np.ndarray:
    """Held-out head `index` in `looks` looks: (looks, size, size) as the networks see photos."""
    rng = np.random.default_rng([0, SETS.index("Faces_ND_test"), index])
    shape, _, pose = draw(SHAPE, rng), draw(LOOK, rng), draw(POSE, rng)
    photos = []
    for _ in range(looks):
        look = draw(LOOK, rng)
        head = build_head(shape, look, pose, samples=4 * size)
        photos.append(to_bytes(render(head, look, pose, size, rng)[1]))
    return normalise(torch.from_numpy(np.array(photos))[:, None])[:, 0].numpy()


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def memory(folder: Path) -> None:
    """Fill a cache of 100,000 pictures of 128 px in FOLDER: disk and resident memory. The cache is
    removed in the end.
    """
    rng = np.random.default_rng(0)
    before = resident_mb()
    cache = ReplayCache.create(folder / "memory", 100_000, (1, 128, 128))
    batch = torch.rand(200, 1, 128, 128) * 2 - 1
    peak = 0.0
    for turn in range(520):
        cache.push(batch, rng)
        cache.sample(4, rng)
        if turn % 20 == 19:
            peak = max(peak, resident_mb() - before)
            cache.commit()
    size = sum(p.stat().st_blocks * 512 for p in folder.glob("memory.npy*"))
    print(f"filled {cache.count}; disk {size / 1e9:.3f} GB; resident memory grew {peak:.1f} MB")
    peak_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest resident size of the whole process {peak_process:.0f} MB")
    cache.close()
    for path in folder.glob("memory.npy*"):
        path.unlink()


if __name__ == "__main__":
    main()
