import dataclasses
import os
import shutil
import signal

import pytest
import torch
from PIL import Image

from eyescream_py.srez import training
from eyescream_py.srez.batches import Batch, Batches, held_out_pictures
from eyescream_py.srez.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from eyescream_py.srez.data import load_split
from eyescream_py.srez.evaluation import generate, psnr
from eyescream_py.srez.networks import build_generator
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.optimizers import learning_rate
from eyescream_py.srez.pictures import bicubic
from eyescream_py.srez.report import Report
from eyescream_py.srez.steps import build_networks, train_step
from eyescream_py.srez.training import run_train
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import read_json_lines
from eyescream_py.system.recording import set_rate

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


def test_both_networks_learn_at_the_rate_of_their_batch(tiny, monkeypatch):
    options = dataclasses.replace(tiny, max_batches=3, learning_rate_half_life=1)
    networks = build_networks(options, CPU)
    monkeypatch.setattr(training, "build_networks", lambda *_: networks)
    run_train(options, CPU, say=quiet)
    for optimizer in (networks.generator_optimizer, networks.critic_optimizer):
        assert float(optimizer.param_groups[0]["lr"]) == learning_rate(options, 2)


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


def test_minutes_go_on_counting_where_a_run_is_resumed(tiny):
    run_train(dataclasses.replace(tiny, max_batches=1), CPU, say=quiet)
    path = checkpoint_path(tiny.checkpoint_dir)
    write_checkpoint(path, dataclasses.replace(read_checkpoint(path), seconds=1000.0))
    options = dataclasses.replace(tiny, resume=True, max_batches=2, train_time=60)
    run_train(options, CPU, say=quiet)
    assert 1000 < read_checkpoint(path).seconds < 2000


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
    with pytest.raises(UserError, match=f"--{name}.*1 entry"):
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
        set_rate(networks.generator_optimizer, learning_rate(options, k))
        train_step(networks, Batch(small, small, label, torch.zeros(6)), options)
    output = generate(networks.generator, small)
    assert tie_loss(output, small) < 0.02
    assert psnr(output, label) > psnr(bicubic(small, 32), label) + 0.2


def test_resuming_with_other_held_out_pictures_is_refused_by_name(tiny, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("1")
    run_train(tiny, CPU, say=quiet)
    before = tensors(tiny)
    for change in (
        {"random_seed": 1}, {"test_vectors": 3}, {"train_images": 9}, {"crop": "none"},
        {"test_list": str(listed)},
    ):  # fmt: skip
        (name,) = change
        options = dataclasses.replace(tiny, resume=True, max_batches=8, **change)
        with pytest.raises(UserError, match=f"--{name}.*same flags"):
            run_train(options, CPU, say=quiet)
    assert all(torch.equal(before[name], value) for name, value in tensors(tiny).items())


def test_resuming_on_other_pictures_or_another_list_is_refused(tiny, tmp_path):
    folder, listed = tmp_path / "faces", tmp_path / "list.txt"
    shutil.copytree(tiny.dataset, folder)
    listed.write_text("1 2")
    options = dataclasses.replace(tiny, dataset=str(folder), test_list=str(listed))
    run_train(options, CPU, say=quiet)
    more = dataclasses.replace(options, resume=True, max_batches=5)
    listed.write_text("2 3")
    with pytest.raises(UserError, match=r"other pictures than --dataset=.*--test_list"):
        run_train(more, CPU, say=quiet)
    listed.write_text("1 2")
    moved = tmp_path / "moved"
    folder.rename(moved)  # another place is no other data
    run_train(dataclasses.replace(more, dataset=str(moved)), CPU, say=quiet)
    (moved / "000020.jpg").unlink()
    again = dataclasses.replace(more, dataset=str(moved), max_batches=6)
    with pytest.raises(UserError, match="other pictures"):
        run_train(again, CPU, say=quiet)


def test_what_shapes_neither_network_nor_split_never_refuses(tiny):
    run_train(tiny, CPU, say=quiet)
    options = dataclasses.replace(
        tiny, resume=True, max_batches=5, learning_rate_start=5e-5, gene_l1_factor=0.5, n_critic=2,
        batch_size=2, train_noise=0.0, bn="batch", back_projection=0, precision="bf16",
        summary_period=7, preset="2016", capture=0, pixel_factor=0.1, epsilon=1e-7,
    )  # fmt: skip
    run_train(options, CPU, say=quiet)
    assert read_checkpoint(checkpoint_path(tiny.checkpoint_dir)).batch == 5


def test_resuming_a_finished_run_changes_nothing(tiny):
    run_train(dataclasses.replace(tiny, max_batches=3, checkpoint_period=2), CPU, say=quiet)
    folders = [getattr(tiny, n) for n in ("checkpoint_dir", "train_dir", "summary_dir")]
    names = [sorted(os.listdir(folder)) for folder in folders]
    metrics = f"{tiny.summary_dir}/metrics.jsonl"
    before = read_json_lines(metrics)
    lines = []
    for _ in range(2):
        run_train(dataclasses.replace(tiny, max_batches=3, resume=True), CPU, say=lines.append)
    assert read_json_lines(metrics) == before
    assert [sorted(os.listdir(folder)) for folder in folders] == names
    old = checkpoint_path(tiny.checkpoint_dir).with_name("checkpoint.safetensors.old")
    assert read_checkpoint(old).batch == 2  # the generation before is still that
    assert "none is left to train" in lines[-1]


def test_a_generator_that_would_never_be_trained_is_refused(tiny):
    with pytest.raises(UserError, match=r"--max_batches=4: .* every 5th batch .*--n_critic"):
        run_train(dataclasses.replace(tiny, n_critic=5), CPU, say=quiet)
    assert not os.path.exists(tiny.train_dir)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gene_l1_factor": 0.0}, True), ({"gene_l1_factor": 0.0, "pixel_factor": 1.0}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_a_generator_tied_to_nothing_is_told(tiny, change, told):
    lines = []
    run_train(dataclasses.replace(tiny, max_batches=1, **change), CPU, say=lines.append)
    assert any("nothing ties" in line for line in lines) == told


def test_the_fork_s_preset_writes_its_ten_row_sheets(tiny):
    options = dataclasses.replace(
        tiny, preset="2017", input="noise", test_vectors=10, max_batches=1, dataset=tiny.dataset
    )
    run_train(options, CPU, say=quiet)
    assert sorted(os.listdir(options.train_dir)) == [
        "batch000001_out_l.png", "gen_batch000001_out_s.png",
    ]  # fmt: skip
    with Image.open(f"{options.train_dir}/batch000001_out_l.png") as picture:
        assert picture.size == (4 * 32, 10 * 32)


def test_what_killed_writers_left_is_removed(tiny):
    for name in ("checkpoint_dir", "train_dir", "summary_dir", "cache_dir"):
        options = dataclasses.replace(tiny, cache_dir=tiny.summary_dir + "_cache")
        os.makedirs(getattr(options, name))
    run_train(dataclasses.replace(options, max_batches=1), CPU, say=quiet)
    stale = [
        f"{options.checkpoint_dir}/.checkpoint.safetensors.99999999.tmp",
        f"{options.train_dir}/.batch000001_out.png.99999999.tmp",
        f"{options.summary_dir}/.metrics.jsonl.99999999.tmp",
        f"{options.cache_dir}/.x.windows.npy.99999999.tmp",
    ]
    for path in stale:
        with open(path, "w"):
            pass
    run_train(dataclasses.replace(options, max_batches=2, resume=True), CPU, say=quiet)
    assert not [path for path in stale if os.path.exists(path)]


def test_a_second_run_in_the_same_folders_is_refused_and_names_the_first(tiny, monkeypatch):
    original = Batches.batch

    def second(self, number):
        if number == 1:
            with pytest.raises(UserError, match=f"process {os.getpid()} .* is writing"):
                run_train(dataclasses.replace(tiny, resume=True), CPU, say=quiet)
        return original(self, number)

    run_train(dataclasses.replace(tiny, max_batches=1), CPU, say=quiet)
    monkeypatch.setattr(Batches, "batch", second)
    with pytest.raises(UserError, match="would be overwritten"):
        run_train(tiny, CPU, say=quiet)
    run_train(dataclasses.replace(tiny, resume=True), CPU, say=quiet)
    assert read_checkpoint(checkpoint_path(tiny.checkpoint_dir)).batch == 4
    assert not [n for n in os.listdir(tiny.checkpoint_dir) if n.endswith(".lock")]


def test_folders_that_vanish_come_back(tiny, monkeypatch):
    original = Batches.batch

    def removing(self, number):
        if number == 2:
            shutil.rmtree(tiny.checkpoint_dir)
            shutil.rmtree(tiny.train_dir)
        return original(self, number)

    monkeypatch.setattr(Batches, "batch", removing)
    run_train(tiny, CPU, say=quiet)
    assert read_checkpoint(checkpoint_path(tiny.checkpoint_dir)).batch == 4
    assert os.listdir(tiny.train_dir) == ["batch000004_out.png"]
