"""The figures of docs/image_model.md: short CPU runs of the image-model room, three seeds each.

    python -m eyescream_py.image_model make-data --output_dir DATA --image_size 64 \\
        --unpaired 320 --pairs 640 --tests 60
    python -m benchmarks.image_model run DATA OUT [--size 64] [--batch 8] [l1|gan_l1|plain|...]
    python -m benchmarks.image_model bound
    python -m benchmarks.image_model photos PAIRS TEST_PAIRS OUT NAME
    python -m benchmarks.image_model memory FOLDER
    python -m benchmarks.image_model report OUT --data DATA

`run` leaves OUT/<experiment>-<seed>.json and goes on where it was stopped; `report` prints the
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
from PIL import Image

from eyescream_py.image_model.checkpoints import read_checkpoint, save_checkpoint
from eyescream_py.image_model.data import (
    Pictures,
    load_folder,
    load_pairs,
    normalise,
    to_bytes,
)
from eyescream_py.image_model.generate import load_generator, score
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
from eyescream_py.image_model.pictures import to_pixels
from eyescream_py.image_model.replay import ReplayCache
from eyescream_py.image_model.semi import CrossEncoder, FrozenEncoderGan
from eyescream_py.image_model.training import ImageModel, generate, load_domains

CPU = torch.device("cpu")
SEEDS = (1, 2, 3)
LLR, GLR, DLR = 3e-3, 1e-4, 1e-4
L1_PHASES = ((300, 3e-3), (120, 1e-3), (80, 3e-4))  # (steps, llr)
CONTINUED, CONTINUED_RATE = 200, 3e-4
ALPHA = 10.0
PHOTO_LLR, PHOTO_GLR = 2e-3, 5e-4
Trace = list[dict[str, float]]


@dataclass(frozen=True)
class Bench:
    """What an experiment is given: the folders of make-data, its own output, size and batch."""

    data: Path
    out: Path
    image: ImageOptions


def seeded(seed: int) -> np.random.Generator:
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def train(learner: Learner, steps: int) -> Trace:
    """The metrics of `steps` steps."""
    return [learner.step() for _ in range(steps)]


def image_model(
    bench: Bench, seed: int, llr: float = LLR, glr: float = GLR, dlr: float = DLR, **options: Any
) -> ImageModel:
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


def paired_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    """500 steps of L1 on pairs at falling rates, as `--load ... --llr` gives them."""
    learner = image_model(bench, seed, l1=True, use_nd_l1=True, use_gan=False)
    trace: Trace = []
    for steps, rate in L1_PHASES:
        learner.optimizers["l1"].param_groups[0]["lr"] = rate
        trace += train(learner, steps)
    return learner, trace


def continued(bench: Bench, seed: int, use_gan: bool) -> tuple[Learner, Trace]:
    """200 steps from the result of `paired_l1`, all rates equal."""
    rates = {"llr": CONTINUED_RATE, "glr": CONTINUED_RATE, "dlr": CONTINUED_RATE}
    learner = image_model(bench, seed + 100, l1=True, use_nd_l1=True, use_gan=use_gan, **rates)
    start = read_checkpoint(bench.out / f"l1-{seed}.safetensors")
    start.restore(learner.generator, "generator")
    return learner, train(learner, CONTINUED)


def l1_more(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, use_gan=False)


def gan_and_l1(bench: Bench, seed: int) -> tuple[Learner, Trace]:
    return continued(bench, seed, use_gan=True)


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
    "plain": plain_gan,
    "replay": gan_with_replay,
    "semi": semi_supervised,
}


def generator_of(learner: Learner) -> torch.nn.Module:
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
@click.argument("pairs", type=click.Path(path_type=Path))
@click.argument("test_pairs", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--steps", type=int, nargs=2, default=(250, 60), show_default=True)
@sized
def photos(
    pairs: Path,
    test_pairs: Path,
    out: Path,
    name: str,
    steps: tuple[int, int],
    size: int,
    batch: int,
) -> None:
    """L1 on PAIRS, then with the game too; scores and a sheet of TEST_PAIRS."""
    out.mkdir(parents=True, exist_ok=True)
    image = ImageOptions(batch_size=batch, image_size=size, channels=3, optim="ADAM")
    held_out = load_pairs(test_pairs, "--nd_dir", size, 3, np.random.default_rng(0))
    depths, truth = held_out.all()
    rows, scores = [depths], {}
    weights: dict[str, torch.Tensor] | None = None
    for label, game, number in (("l1", False, steps[0]), ("gan_l1", True, steps[1])):
        bench = Bench(pairs, out, image)
        flags: dict[str, Any] = {"nd_dir": pairs, "l1": True, "use_nd_l1": True, "use_nd_gan": game}
        learner = image_model(bench, 1, PHOTO_LLR, PHOTO_GLR, use_gan=game, **flags)
        if weights is not None:
            learner.generator.load_state_dict(weights)
        train(learner, number)
        weights = learner.generator.state_dict()
        seen = learner.domains.pairs
        assert seen is not None
        scores[label] = asdict(score(learner.generator.eval(), held_out, seen.sides[1]))
        rows.append(generate(learner.generator, depths))
    columns = range(0, len(depths), max(1, len(depths) // 10))
    save_sheet(out / f"photos-{name}.jpg", [*rows, truth], columns, 2)
    (out / f"photos-{name}.json").write_text(json.dumps(scores))
    print(name, json.dumps(scores))


def save_sheet(path: Path, columns: list[torch.Tensor], rows: range, zoom: int) -> None:
    """One column of pictures per tensor (laid out as rows of a wide sheet)."""
    sheet = np.vstack([np.hstack([to_pixels(batch[i]) for i in rows]) for batch in columns])
    picture = Image.fromarray(sheet)
    picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(
        path, quality=85
    )


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
    """Fill a cache of 100,000 pictures of 128 px; disk and resident memory."""
    rng = np.random.default_rng(0)
    before = resident()
    cache = ReplayCache.create(folder / "memory", 100_000, (1, 128, 128))
    batch = torch.rand(200, 1, 128, 128) * 2 - 1
    peak = 0.0
    for turn in range(520):
        cache.push(batch, rng)
        cache.sample(4, rng)
        if turn % 20 == 19:
            peak = max(peak, resident() - before)
            cache.commit()
    size = sum(p.stat().st_blocks * 512 for p in folder.glob("memory.npy*"))
    print(f"filled {cache.count}; disk {size / 1e9:.3f} GB; resident memory grew {peak:.1f} MB")
    peak_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest resident size of the whole process {peak_process:.0f} MB")
    cache.close()


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def results(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(out.glob(f"{name}-[0-9].json"))]


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="For the sheet of held-out heads.")
@click.option("--size", type=int, default=64, show_default=True)
def report(out: Path, data: Path | None, size: int) -> None:
    """Print the tables of what has been run; draw difference.png and heads.jpg."""
    for name in EXPERIMENTS:
        for index, result in enumerate(results(out, name)):
            numbers = "  ".join(f"{key} {value:.4f}" for key, value in result["scores"].items())
            ratio = result["scores"]["baseline_l1"] / result["scores"]["l1"]
            seconds = f"{result['cpu_s']:.0f} CPU s, {result['wall_s']:.0f} s"
            print(f"{name:8} seed {SEEDS[index]}  {numbers}  ratio {ratio:.2f}  ({seconds})")
    for name in ("plain", "replay"):
        for index, result in enumerate(results(out, name)):
            d = differences(result)
            print(
                f"{name:8} seed {SEEDS[index]}  difference after step 100: mean {d.mean():.3f}  "
                f"std {d.std():.3f}  step to step {np.abs(np.diff(d)).mean():.3f}  "
                f"swing of its mean over 20 steps {swing(d):.3f}"
            )
    draw_differences(out)
    if data is not None:
        draw_heads(out, data, size)


def differences(result: dict[str, Any]) -> np.ndarray:
    return np.array([record["difference"] for record in result["trace"]])[100:]


def swing(difference: np.ndarray, window: int = 20) -> float:
    """Standard deviation of the moving average: the slow cycles, without the batch noise."""
    return float(np.convolve(difference, np.ones(window) / window, "valid").std())


def draw_differences(out: Path) -> None:
    if not results(out, "plain"):
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
    for name, label in (("plain", "without replay"), ("replay", "with replay")):
        for axis, seed, result in zip(axes, SEEDS, results(out, name), strict=False):
            values = [record["difference"] for record in result["trace"]]
            axis.plot(np.convolve(values, np.ones(10) / 10, "valid"), label=label)
            axis.set_title(f"seed {seed}")
            axis.set_xlabel("step")
    axes[0].set_ylabel("D(real) - D(fake), mean of 10")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out / "difference.png", dpi=80)


def draw_heads(out: Path, data: Path, size: int) -> None:
    """Rows: depth, unpaired GAN, semi-supervised, L1 alone, L1 and GAN, truth."""
    rng = np.random.default_rng(0)
    depths, truth = load_pairs(data / "Faces_ND_test", "--nd_dir", size, 1, rng).all()
    rows = [depths]
    for name in ("plain", "semi", "l1_more", "gan_l1"):
        path = out / f"{name}-1.safetensors"
        if path.is_file():
            rows.append(generate(load_generator(read_checkpoint(path), CPU), depths))
    save_sheet(out / "heads.jpg", [*rows, truth], range(0, len(depths), len(depths) // 10), 2)


if __name__ == "__main__":
    main()
