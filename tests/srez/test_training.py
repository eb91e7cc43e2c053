import dataclasses
import os
import signal

import pytest
import torch
from PIL import Image

from eyescream_py.srez import training
from eyescream_py.srez.batches import Batch, Batches, held_out_pictures
from eyescream_py.srez.checkpoints import checkpoint_path, read_checkpoint
from eyescream_py.srez.data import load_split
from eyescream_py.srez.evaluation import generate, psnr
from eyescream_py.srez.networks import build_generator
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.optimizers import learning_rate, set_learning_rate
from eyescream_py.srez.pictures import bicubic
from eyescream_py.srez.report import DivergedError, Report
from eyescream_py.srez.steps import build_networks, train_step
from eyescream_py.srez.training import run_train
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import read_json_lines

CPU = torch.device("cpu")


def quiet(line):
    pass


def tensors(options):
    return read_checkpoint(checkpoint_path(options.checkpoint_dir)).tensors


def in_folder(options, folder):
    places = {n: str(folder / n) for n in ("checkpoint_dir", "train_dir", "summary_dir")}
    return dataclasses.replace(options, **places)


@pytest.mark.parametrize(
    ("objective", "optimizer"), [("dcgan", "adam"), ("wgan", "rmsprop"), ("wgangp", "adam")]
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny, tmp_path, objective, optimizer):
    options = dataclasses.replace(
        tiny, loss_func=objective, optimizer=optimizer, n_critic=2, max_batches=6,
        learning_rate_half_life=4,
    )  # fmt: skip
    whole, parts = in_folder(options, tmp_path / "whole"), in_folder(options, tmp_path / "parts")
    run_train(whole, CPU, say=quiet)
    run_train(dataclasses.replace(parts, max_batches=3), CPU, say=quiet)
    run_train(dataclasses.replace(parts, resume=True), CPU, say=quiet)
    a, b = tensors(whole), tensors(parts)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_run_writes(tiny):
    options = dataclasses.replace(
        tiny, max_batches=20, summary_period=8, checkpoint_period=12, random_seed=2
    )
    lines = []
    run_train(options, CPU, say=lines.append)
    names = sorted(os.listdir(options.train_dir))
    assert names == [f"batch{b:06d}_out.png" for b in (8, 16, 20)]
    with Image.open(f"{options.train_dir}/{names[0]}") as picture:
        assert picture.size == (4 * 32, 4 * 32)  # four columns, four held-out faces
    records = read_json_lines(f"{options.summary_dir}/metrics.jsonl")
    losses = [r for r in records if "generator_loss" in r]
    assert [r["batch"] for r in losses] == [10, 20]
    assert {"wasserstein_estimate", "discriminator_real_loss", "l1_loss"} <= losses[0].keys()
    quality = [r for r in records if "psnr" in r]
    assert [r["batch"] for r in quality] == [8, 16, 20]
    assert {"psnr_bicubic", "l1_quality", "mse_quality", "consistency", "detail_swd"} <= quality[
        0
    ].keys()
    assert read_checkpoint(f"{options.checkpoint_dir}/checkpoint.safetensors.old").batch == 12
    assert any(line.startswith("Progress[ 50%]") and "Batch [  10]" in line for line in lines)


def test_noise_runs_write_strips(tiny):
    options = dataclasses.replace(tiny, input="noise", max_batches=1)
    run_train(options, CPU, say=quiet)
    with Image.open(f"{options.train_dir}/gen_batch000001_out_s.png") as picture:
        assert picture.size == (4 * 32, 32)


def test_minutes_stop_a_run(tiny):
    options = dataclasses.replace(tiny, max_batches=0, train_time=0.2 / 60)
    run_train(options, CPU, say=quiet)
    stored = read_checkpoint(checkpoint_path(options.checkpoint_dir))
    assert stored.batch >= 1
    assert 0.2 <= stored.seconds < 10


def test_metrics_behind_the_checkpoint_are_cut_when_resuming(tiny):
    options = dataclasses.replace(tiny, max_batches=20, checkpoint_period=100)
    run_train(options, CPU, say=quiet)
    path = f"{options.summary_dir}/metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"batch": 30, "generator_loss": 1.0}\n{"batch": 40, "gen')
    run_train(dataclasses.replace(options, resume=True, max_batches=40), CPU, say=quiet)
    batches = [r["batch"] for r in read_json_lines(path) if "generator_loss" in r]
    assert batches == [10, 20, 30, 40]


@pytest.mark.parametrize("name", ["train_dir", "checkpoint_dir", "summary_dir"])
def test_a_person_s_folder_is_never_touched(tiny, name):
    folder = getattr(tiny, name)
    os.makedirs(folder)
    precious = os.path.join(folder, "precious.txt")
    with open(precious, "w") as file:
        file.write("mine")
    with pytest.raises(UserError, match=f"--{name}.*1 entries"):
        run_train(tiny, CPU, say=quiet)
    with open(precious) as file:
        assert file.read() == "mine"
    assert os.listdir(folder) == ["precious.txt"]


def test_a_file_in_place_of_a_folder_is_refused(tiny):
    with open(tiny.train_dir, "w"):
        pass
    with pytest.raises(UserError, match="this is a file"):
        run_train(tiny, CPU, say=quiet)


def test_resuming_nothing_is_refused(tiny):
    with pytest.raises(UserError, match="no such checkpoint"):
        run_train(dataclasses.replace(tiny, resume=True), CPU, say=quiet)


def test_on_finish_runs_once_after_the_last_checkpoint_and_only_when_given(tiny, tmp_path):
    run_train(dataclasses.replace(tiny, max_batches=1), CPU, say=quiet)
    proof = tmp_path / "proof"
    saved = checkpoint_path(tiny.checkpoint_dir)
    command = f"test -f {saved} && echo done >> {proof}"
    options = dataclasses.replace(tiny, max_batches=2, resume=True, on_finish=command)
    run_train(options, CPU, say=quiet)
    assert proof.read_text() == "done\n"


def test_a_signal_saves_stops_and_does_not_run_on_finish(tiny, tmp_path, monkeypatch):
    proof = tmp_path / "proof"
    options = dataclasses.replace(tiny, max_batches=0, on_finish=f"touch {proof}")
    original = Batches.batch

    def interrupting(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, number)

    monkeypatch.setattr(Batches, "batch", interrupting)
    lines = []
    assert not run_train(options, CPU, say=lines.append)
    assert read_checkpoint(checkpoint_path(options.checkpoint_dir)).batch == 3
    assert "Ctrl-C" in lines[-1]
    assert not proof.exists()


def test_losses_that_are_no_numbers_stop_the_run(tiny, monkeypatch):
    def step(batch, with_generator):
        return {"generator_loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(training, "build_step", lambda *arguments: step)
    with pytest.raises(DivergedError, match="losses are no numbers any more at batch 10"):
        run_train(dataclasses.replace(tiny, max_batches=200), CPU, say=quiet)


def test_weights_that_are_no_numbers_are_not_saved_over_a_good_checkpoint(tiny):
    run_train(tiny, CPU, say=quiet)
    before = tensors(tiny)
    ruinous = dataclasses.replace(tiny, resume=True, learning_rate_start=1e300, max_batches=8)
    for period in (1000, 1):
        with pytest.raises(DivergedError, match="weights are no numbers any more"):
            run_train(dataclasses.replace(ruinous, checkpoint_period=period), CPU, say=quiet)
        assert all(torch.equal(before[name], value) for name, value in tensors(tiny).items())


def test_the_last_sheet_is_drawn_once(tiny):
    run_train(dataclasses.replace(tiny, summary_period=2), CPU, say=quiet)
    records = read_json_lines(f"{tiny.summary_dir}/metrics.jsonl")
    assert [r["batch"] for r in records if "psnr" in r] == [2, 4]


def test_plots_get_curves_and_pictures(tiny):
    class Recorder:
        def __init__(self):
            self.seen = set()

        def images(self, window, images, title, columns=10):
            self.seen.add((window, images.shape[1]))

        def curve(self, window, x, values, title, xlabel="", ylabel=""):
            self.seen.add((window, tuple(values)))

    plots = Recorder()
    run_train(dataclasses.replace(tiny, max_batches=10), CPU, plots, quiet)
    assert ("srez samples", 3) in plots.seen
    assert ("srez distance", ("estimate",)) in plots.seen
    assert ("srez psnr", ("psnr", "psnr_bicubic")) in plots.seen


def test_sample_pictures_follow_the_bn_choice(tiny):
    _, test = load_split(tiny.dataset, "celeba", 4, 0, "", 0, "")
    os.makedirs(tiny.summary_dir)
    os.makedirs(tiny.train_dir)
    generator = build_generator(tiny)
    seen = []
    for bn in ("running", "batch"):
        options = dataclasses.replace(tiny, bn=bn)
        report = Report(options, test, CPU, None, quiet)
        report.samples(0, 0.0, generator)
        report.close()
        seen.append(read_json_lines(f"{tiny.summary_dir}/metrics.jsonl")[0]["psnr"])
    assert seen[0] != seen[1]


def test_six_faces_are_learnt_and_beat_bicubic(tiny):
    """The pixel term on: the tie falls below 0.02 and the enlargement is nearer the truth than
    bicubic's.
    """
    options = dataclasses.replace(
        tiny,
        width=3 / 16,
        critic_width=1 / 32,
        gen_norm=0,
        learning_rate_start=4e-3,
        learning_rate_half_life=60,
        learning_beta1=0.9,
        learning_beta2=0.99,
        gene_l1_factor=1.0,
        pixel_factor=1.0,
    )
    _, faces = load_split(options.dataset, "celeba", 6, 0, "", 0, "")
    small, label = held_out_pictures(faces, options, CPU)
    networks = build_networks(options, CPU)
    for k in range(160):
        set_learning_rate(networks.generator_optimizer, learning_rate(options, k))
        train_step(networks, Batch(small, small, label, torch.zeros(6)), options)
    output = generate(networks.generator, small)
    assert tie_loss(output, small) < 0.02
    assert psnr(output, label) > psnr(bicubic(small, 32), label) + 0.2
