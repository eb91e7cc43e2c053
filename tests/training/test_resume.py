"""N epochs equal K epochs, a stop, and the rest: weights, optimizers, losses, metrics, bit for bit.

Every case runs the trainer's own command line thrice: whole, stopped after an epoch, and stopped by
SIGTERM inside one.
"""

import json

import pytest

from eyescream_py import torch7
from eyescream_py.game.adversarial import Game
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.training.run import Run
from tests.small_runs import (
    FILES,
    SCRIPTS,
    assert_same,
    invoke,
    pictures,
    records,
    signal_at,
    small_run,
    use_small_networks,
)

CASES = {
    "adam": ("train",),
    "adagrad": ("train", "--D_optmethod=adagrad", "--G_optmethod=adagrad", "--D_L1=1e-5"),
    "sgd": ("train", "--D_optmethod=sgd", "--D_SGD_momentum=0.5", "--G_optmethod=sgd",
            "--G_SGD_momentum=0.9"),
    "ema": ("train", "--G_ema=0.9"),
    "tamed": ("train", "--D_smooth=0.1", "--D_augment=translation,cutout", "--D_r1=1",
              "--D_spectral=0.5"),
    "gate": ("train", "--D_maxAcc=0.5", "--D_iterations=2"),
    "bf16": ("train", "--precision=bf16"),
    "lua": ("train", "--rng=lua"),
    "lua_fp64": ("train", "--rng=lua", "--precision=fp64", "--G_L2=1e-4"),
    "upsampling": ("train", "--G_arch=upsampling"),
    "deep": ("train", "--recipe=best", "--G_arch=deep", "--D_arch=deep", "--G_planes=32",
             "--D_planes=64", "--lr_fall=1"),
    "residual": ("train", "--recipe=large", "--D_arch=residual", "--G_planes=32",
                 "--D_planes=64", "--lr_fall=1"),
    "c2f": ("train_c2f", "--G_ema=0.9"),
    # the iteration that follows the stop is a shorter one, which finds rows of the one before
    "c2f_lua": ("train_c2f", "--rng=lua", "--batchSize=8", "--N_epoch=14"),
    "c2f_sgd": ("train_c2f", "--D_optmethod=sgd", "--G_optmethod=adagrad", "--precision=bf16"),
    "autoencoder": ("train_autoencoder",),
    "autoencoder_sgd": ("train_autoencoder", "--optmethod=sgd", "--momentum=0.5"),
    "autoencoder_adagrad": ("train_autoencoder", "--optmethod=adagrad"),
    "denoiser": ("train_denoiser",),
    "denoiser_lua": ("train_denoiser", "--rng=lua"),
}  # fmt: skip


def assert_same_runs(script, a, b):
    assert_same(torch7.load(a / FILES[script]), torch7.load(b / FILES[script]))
    for name in ("metrics.jsonl", "losses.jsonl"):
        assert records(a / name) == records(b / name)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(case, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, *options = CASES[case]
    data = pictures(tmp_path, script)
    whole, after_epoch, inside = (tmp_path / name for name in ("whole", "after", "inside"))
    small_run(script, whole, data, "--epochs=3", *options)

    small_run(script, after_epoch, data, "--epochs=1", *options)
    again = ("--epochs=3", f"--network={FILES[script]}")
    small_run(script, after_epoch, data, *again, *options)
    assert_same_runs(script, whole, after_epoch)

    steps = Reconstruction if script in ("train_autoencoder", "train_denoiser") else Game
    method = "step" if steps is Reconstruction else "iteration"
    per_epoch = len({r["iteration"] for r in records(whole / "losses.jsonl")})
    with monkeypatch.context() as during:
        signal_at(during, steps, method, per_epoch + 2)
        said = small_run(script, inside, data, "--epochs=3", *options)
    assert "Stopped by SIGTERM: saved" in said
    assert "epoch 2, iteration 2" in said
    assert len(records(inside / "metrics.jsonl")) == 1
    small_run(script, inside, data, *again, *options)
    assert_same_runs(script, whole, inside)


def test_the_least_distance_so_far_is_that_of_the_whole_run(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    distances = iter([30.0, 50.0])
    monkeypatch.setattr(
        "eyescream_py.training.face_task.FaceTask._distance", lambda s: next(distances)
    )
    data, often = pictures(tmp_path, "train"), "--evaluate_every=1"
    small_run("train", tmp_path, data, "--epochs=1", often)
    said = small_run("train", tmp_path, data, "--epochs=2", "--network=adversarial.net", often)
    assert "(SWD x1000) = 50.0, least so far 30.0 after epoch 1" in said


def test_the_comparison_sees_one_different_step(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    small_run("train", tmp_path / "a", data, "--epochs=1")
    small_run("train", tmp_path / "b", data, "--epochs=1", "--seed=2")
    with pytest.raises(AssertionError):
        assert_same_runs("train", tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("script", "flag"),
    [("train", "--D_optmethod=adagrad"), ("train", "--G_optmethod=adagrad"),
     ("train_autoencoder", "--optmethod=adagrad")],
)  # fmt: skip
def test_another_optimizer_than_the_checkpoint_s_is_refused(script, flag, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    given = (*SCRIPTS[script], f"--save={tmp_path}", f"--dataset={pictures(tmp_path, script)}")
    assert invoke(script, *given, "--epochs=1").exit_code == 0
    done = invoke(script, *given, "--epochs=2", flag, f"--network={FILES[script]}")
    assert done.exit_code == 2
    given, asked, _ = done.output.splitlines()[-1].rpartition("it was trained with")
    assert asked
    assert flag.partition("=")[0] in given


def test_stopping_in_an_epochs_first_iteration(tmp_path, monkeypatch):
    """The epoch's order is drawn once, though nothing but one iteration came after it."""
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    small_run("train", tmp_path / "whole", data, "--epochs=2")
    with monkeypatch.context() as during:
        signal_at(during, Game, "iteration", 1)
        small_run("train", tmp_path / "cut", data, "--epochs=2")
    small_run("train", tmp_path / "cut", data, "--epochs=2", "--network=adversarial.net")
    assert_same_runs("train", tmp_path / "whole", tmp_path / "cut")


def test_lines_behind_the_checkpoint_are_cut(tmp_path, monkeypatch):
    """A run killed between two saves has logged more than its checkpoint knows."""
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    small_run("train", tmp_path / "whole", data, "--epochs=3")
    small_run("train", tmp_path / "cut", data, "--epochs=1")
    for name in ("metrics.jsonl", "losses.jsonl"):
        with open(tmp_path / "cut" / name, "a") as file:
            for line in (
                {"trainer": "adversarial", "epoch": 2, "iteration": 1},
                {"trainer": "adversarial", "epoch": "many"},
                {"loss": 1},
                [3],
            ):
                file.write(json.dumps(line) + "\n")
            file.write('{"epoch": 2, "iter')
    small_run("train", tmp_path / "cut", data, "--epochs=3", "--network=adversarial.net")
    assert_same_runs("train", tmp_path / "whole", tmp_path / "cut")


def test_other_pictures_begin_the_interrupted_epoch_anew(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    for script in ("train", "train_autoencoder"):
        save, data = tmp_path / script, pictures(tmp_path, script)
        with monkeypatch.context() as during:
            signal_at(during, Game, "iteration", 2)
            signal_at(during, Reconstruction, "step", 2)
            small_run(script, save, data)
        more = pictures(tmp_path, script, 30)
        said = small_run(script, save, more, "--epochs=1", f"--network={FILES[script]}")
        assert "it starts anew" in said
        assert [r["epoch"] for r in records(save / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("batch", [2, 5])
def test_other_batches_begin_an_interrupted_epoch_of_all_pictures_anew(
    batch, tmp_path, monkeypatch
):
    """Each picture once: smaller batches would leave some over, larger ones miss some."""
    data = pictures(tmp_path, "train_autoencoder")
    with monkeypatch.context() as during:
        signal_at(during, Reconstruction, "step", 3)
        small_run("train_autoencoder", tmp_path, data, "--epochs=1")
    seen = []
    step = Reconstruction.step
    monkeypatch.setattr(
        Reconstruction, "step", lambda model, x: seen.append(len(x)) or step(model, x)
    )
    again = f"--network={FILES['train_autoencoder']}", "--epochs=1", f"--batchSize={batch}"
    said = small_run("train_autoencoder", tmp_path, data, *again, "--no_capture")
    assert "interrupted with other pictures or batches: it starts anew" in said
    assert sum(seen) == 18


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_kind_of_random_numbers_is_refused(script, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    small_run(script, tmp_path, data, "--epochs=1")
    given = (*SCRIPTS[script], f"--save={tmp_path}", f"--dataset={data}", "--epochs=2")
    done = invoke(script, *given, "--rng=lua", f"--network={FILES[script]}")
    assert done.exit_code == 2
    assert done.output.endswith(f"{FILES[script]} was trained with another --rng\n")


def test_all_epochs_done_says_so(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    small_run("train", tmp_path / "run", data, "--epochs=1")
    before = (tmp_path / "run/adversarial.net").read_bytes()
    said = small_run("train", tmp_path / "run", data, "--epochs=1", "--network=adversarial.net")
    assert "Epoch 1, the last one, is done; a larger --epochs goes on." in said
    assert (tmp_path / "run/adversarial.net").read_bytes() == before


def test_an_autoencoder_of_lua_goes_on_with_its_moments_in_its_next_epoch(tmp_path, monkeypatch):
    """Its file has no `resume`, but `optstate` under the optimizer's name."""
    data, path = pictures(tmp_path, "train_autoencoder"), tmp_path / "autoencoder.net"
    small_run("train_autoencoder", tmp_path, data, "--epochs=2")
    content = torch7.load(path)
    stored = content["optstate"]["adam"]
    assert_same(stored, content["resume"]["state"]["optimizers"]["AE"])
    del content["resume"]
    torch7.save(path, content)
    runs = []
    monkeypatch.setattr(Run, "go", lambda run: runs.append(run))
    small_run("train_autoencoder", tmp_path, data, "--epochs=3", "--network=autoencoder.net")
    (stage,) = runs[0].task.model.stages
    assert_same(stage.optimizer.export_state(), dict(stored))
    assert stored["t"] == 10
    assert runs[0].at.epoch == 3
