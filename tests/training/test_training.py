"""The run's loop: when it saves, stops, goes back, and what it does with numbers gone wrong."""

import os
import signal

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.game.averaging import Ema
from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.training.face_task import FaceOptions
from eyescream_py.training.game import SATURATED_EPOCHS, GameTask
from eyescream_py.training.reconstruction import ReconstructionTask
from eyescream_py.training.run import Run, RunOptions
from eyescream_py.training.save_folder import prepare_folder
from eyescream_py.training.task import Schedule
from tests.small_runs import (
    FILES,
    SCRIPTS,
    ToyTask,
    invoke,
    pictures,
    records,
    signal_at,
    small_run,
    use_small_networks,
)


def run(tmp_path, task=None, stop=None, **options):
    """Train the toy; returns the run."""
    chosen = {"save": tmp_path, "save_freq": 1, "epochs": 3, "log_every": 1, "network": "",
              "on_nan": "stop", **options}  # fmt: skip
    made = Run(task or ToyTask(), RunOptions(**chosen), stop or StopSignal())
    made.go()
    return made


def stored(tmp_path, name="toy.net"):
    return torch7.load(tmp_path / name)


@pytest.mark.parametrize(
    ("length", "batch", "expected"),
    [(8, 4, [4, 4, 4]), (10, 4, [4, 4, 4, 4]), (11, 8, [8, 6]), (4, 4, [4]), (12, 8, [8, 8, 4])],
)
def test_iterations_of_a_game_step_by_half_a_batch(length, batch, expected):
    """Lua's loop: t = 1, 1+batch/2, ... while at least 4 pictures are left, an even number each."""
    schedule = Schedule(length, batch, batch // 2, smallest=4, multiple=2)
    sizes = [schedule.size(i) for i in range(len(schedule))]
    lua = []
    t = 1
    while t <= length:
        n = min(t + batch - 1, length) - t + 1
        n -= n % 2
        if n >= 4:
            lua.append(n)
        t += batch // 2
    assert sizes == lua == expected


def test_it_saves_at_every_turn_and_at_the_end(tmp_path, capsys):
    run(tmp_path, save_freq=2, epochs=5)
    assert capsys.readouterr().out.count("saving network") == 3  # epochs 2, 4, 5
    assert stored(tmp_path)["epoch"] == 5
    assert stored(tmp_path, "toy.net.old")["epoch"] == 4


def test_losses_of_every_third_iteration(tmp_path):
    run(tmp_path, ToyTask(iterations=7), log_every=3, epochs=1)
    assert [r["iteration"] for r in records(tmp_path / "losses.jsonl")] == [3, 6]


def test_epochs_count_the_resumed_ones(tmp_path):
    run(tmp_path, epochs=2)
    run(tmp_path, epochs=5, network="toy.net")
    epochs = [r["epoch"] for r in records(tmp_path / "metrics.jsonl")]
    assert epochs == [1, 2, 3, 4, 5]


def test_a_new_run_keeps_the_logs_that_were_there(tmp_path):
    run(tmp_path, epochs=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    run(tmp_path, epochs=1)
    assert (tmp_path / "metrics.jsonl.old").read_bytes() == before


def test_a_stop_before_the_first_iteration_saves_nothing(tmp_path, capsys):
    run(tmp_path)
    before = (tmp_path / "toy.net").read_bytes()
    stop = StopSignal()
    stop.requested, stop.name = True, "Ctrl-C"
    run(tmp_path, stop=stop)
    assert "before the first iteration: nothing to save" in capsys.readouterr().out
    assert (tmp_path / "toy.net").read_bytes() == before


def stopped_in_a_broken_epoch():
    """A task whose first epoch goes wrong, and the signal that comes after its first iteration."""
    task, stop = ToyTask(), StopSignal()
    task.poison_epoch = 1
    original = task.iteration

    def iteration(n, log):
        original(n, log)
        stop.requested, stop.name = True, "SIGTERM"

    task.iteration = iteration
    return task, stop


def test_a_stop_never_saves_numbers_that_are_not_finite(tmp_path):
    run(tmp_path)
    before = (tmp_path / "toy.net").read_bytes()
    task, stop = stopped_in_a_broken_epoch()
    with pytest.raises(UserError, match="no longer a finite number"):
        run(tmp_path, task, stop)
    assert (tmp_path / "toy.net").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["begin_epoch", "iteration", "end_epoch", "show", "state"])
def test_a_signal_at_any_place_ends_with_a_saved_state(number, where, tmp_path, capsys):
    """First epoch, plotting and saving among them; what is left does not depend on the place."""
    task = ToyTask()
    original, calls = getattr(task, where), []

    def signalled(*args):
        calls.append(args)
        if len(calls) == 1:
            os.kill(os.getpid(), number)
        return original(*args)

    setattr(task, where, signalled)
    with StopSignal() as stop:
        run(tmp_path, task, stop)
    assert "Stopped by" in capsys.readouterr().out
    run(tmp_path, network="toy.net")
    whole = tmp_path / "whole"
    run(whole)
    a, b = (torch7.to_module(stored(folder)["net"]) for folder in (tmp_path, whole))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_stop_in_a_broken_epoch_ends_the_run_and_goes_back_nowhere(tmp_path):
    run(tmp_path, epochs=1)
    before = (tmp_path / "toy.net").read_bytes()
    task, stop = stopped_in_a_broken_epoch()
    with pytest.raises(UserError, match="holds the last good state"):
        run(tmp_path, task, stop, on_nan="rollback", network="toy.net")
    assert (tmp_path / "toy.net").read_bytes() == before


def test_not_finite_stops_and_keeps_the_good_checkpoint(tmp_path):
    task = ToyTask()
    task.poison_epoch = 3
    with pytest.raises(UserError, match=r"epoch 3: .*toy.net holds the last good state") as error:
        run(tmp_path, task)
    assert error.value.exit_code == 2
    assert stored(tmp_path)["epoch"] == 2


def test_not_finite_before_the_first_save_says_so(tmp_path):
    task = ToyTask()
    task.poison_epoch = 1
    with pytest.raises(UserError, match="nothing was saved before"):
        run(tmp_path, task, on_nan="rollback")
    assert not (tmp_path / "toy.net").exists()


def test_a_rollback_goes_on_with_half_the_learning_rate(tmp_path, capsys):
    task = ToyTask(lr=0.1)
    task.poison_epoch = 3
    run(tmp_path, task, on_nan="rollback", epochs=4)
    assert "back to" in capsys.readouterr().out
    assert task.optimizer.lr == pytest.approx(0.05)
    assert stored(tmp_path)["epoch"] == 4
    epochs = [r["epoch"] for r in records(tmp_path / "metrics.jsonl")]
    assert epochs == [1, 2, 3, 4]
    again = ToyTask(lr=0.1)
    run(tmp_path, again, epochs=5, network="toy.net")
    assert again.optimizer.lr == pytest.approx(0.05)


def test_three_rollbacks_and_no_more(tmp_path):
    class Hopeless(ToyTask):
        def learn_at(self, epoch): ...

        def begin_epoch(self):
            super().begin_epoch()
            if self.epochs_begun > 1:
                self.poison_epoch = self.epochs_begun

    task = Hopeless(lr=0.8)
    with pytest.raises(UserError, match="again after 3 rollbacks"):
        run(tmp_path, task, on_nan="rollback")
    assert task.optimizer.lr == pytest.approx(0.1)
    assert stored(tmp_path)["epoch"] == 1


def test_an_exploding_learning_rate_is_noticed_within_the_epoch(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, "train")
    small_run("train", tmp_path / "run", data, "--epochs=1")
    before = (tmp_path / "run/adversarial.net").read_bytes()
    explode = ("--D_adam_lr=1e30", "--G_adam_lr=1e30", "--D_clamp=0", "--G_clamp=0")
    common = (*SCRIPTS["train"], f"--save={tmp_path / 'run'}", f"--dataset={data}", *explode)
    network = "--network=adversarial.net"
    done = invoke("train", *common, network, "--epochs=9")
    assert done.exit_code == 2
    assert "epoch 2: a loss or a weight is no longer a finite number" in done.output
    done = invoke("train", *common, network, "--epochs=9", "--on_nan=rollback")
    assert done.exit_code == 2
    assert done.output.count("with half the learning rate") == 3
    assert (tmp_path / "run/adversarial.net").read_bytes() == before


@pytest.mark.parametrize(("flags", "said"), [(("--lr_fall=0.5",), True), ((), False)])
def test_rates_that_cannot_fall_without_an_end_are_told(flags, said, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    signal_at(monkeypatch, GameTask, "end_epoch", 1)
    data = pictures(tmp_path, "train")
    done = invoke("train", *SCRIPTS["train"], f"--save={tmp_path}", f"--dataset={data}", *flags)
    assert ("Learning rates stay" in done.output) is said
    assert "<trainer> epoch 1: loss D" in done.output, done.output
    flags = (*flags, "--epochs=1")
    assert "Learning rates stay" not in small_run("train", tmp_path / "run", data, *flags)


@pytest.mark.parametrize("script", ["train_c2f", "train_autoencoder", "train_denoiser"])
def test_every_trainer_notices(script, tmp_path):
    data = pictures(tmp_path, script)
    common = (*SCRIPTS[script], f"--save={tmp_path / 'run'}", f"--dataset={data}", "--epochs=3")
    huge = {"train_c2f": ("--D_optmethod=sgd", "--D_sgd_lr=1e38", "--D_clamp=0", "--D_L1=1"),
            "train_autoencoder": ("--optmethod=sgd", "--learningRate=3e38", "--coefL1=1"),
            "train_denoiser": ("--coefL1=3.39e38", "--coefL2=3.39e38", "--AE_clamp=0")}  # fmt: skip
    done = invoke(script, *common, *huge[script])
    assert done.exit_code == 2, done.output
    assert "no longer a finite number" in done.output
    assert not list((tmp_path / "run").glob("*.net"))


def test_a_discriminator_that_is_always_right_gives_a_hint(capsys):
    class Silent(GameTask):
        def __init__(self):
            self._saturated, self.options = 0, FaceOptions

        def spread(self):
            return 1.0, 1.0

    task = Silent()
    for _ in range(SATURATED_EPOCHS - 1):
        task._hint_at_saturation(1.0)
    task._hint_at_saturation(0.99)
    assert capsys.readouterr().out == ""
    for _ in range(2):  # and again after as many epochs
        for _ in range(SATURATED_EPOCHS):
            task._hint_at_saturation(1.0)
        assert capsys.readouterr().out.count("--D_maxAcc") == 1


def test_an_epoch_without_a_batch_is_refused(tmp_path):
    task = ToyTask()
    task.schedule = Schedule(3, 4, 2, smallest=4)
    with pytest.raises(UserError, match="shorter than a batch"):
        run(tmp_path, task)


def test_preparing_a_folder_clears_what_killed_writers_left(tmp_path):
    for folder in (tmp_path, tmp_path / "pictures"):
        folder.mkdir(exist_ok=True)
        (folder / ".a.net.999999999.tmp").write_bytes(b"half")
    prepare_folder(tmp_path, "a.net", 1000)
    assert not list(tmp_path.rglob("*.tmp"))


def _statistics(task):
    layers = [m for net in task.networks().values() for m in net.modules()]
    next(m for m in layers if isinstance(m, torch.nn.BatchNorm2d)).running_var.fill_(torch.nan)


def _average(task):
    next(task.networks()["G_ema"].parameters()).data.fill_(torch.inf)


def _moment_of_D(task):
    task.game.D.optimizer.moments["v"][0].fill_(torch.inf)


def _moment_of_G(task):
    task.game.G.optimizer.moments["m"][0].fill_(torch.inf)


def _moment_of_a_stage(task):
    task.model.stages[1].optimizer.moments["m"][0].fill_(torch.inf)


def _loss(task):
    task.game.figures.sums["G_loss"].fill_(torch.nan)


def _losses(task):
    task.sums.fill_(torch.nan)


def _directions(task):
    task.game.taming.bound.directions[0].fill_(torch.nan)


@pytest.mark.parametrize(
    ("script", "flags", "damage"),
    [
        ("train_denoiser", (), _statistics),
        ("train", ("--G_ema=0.9",), _average),
        ("train", ("--D_spectral=1",), _directions),
        ("train", (), _moment_of_D),
        ("train", (), _moment_of_G),
        ("train", (), _loss),
        ("train_denoiser", (), _moment_of_a_stage),
        ("train_denoiser", (), _losses),
        ("train_c2f", ("--G_ema=0.9",), _average),
    ],
)
def test_what_a_step_does_not_change_is_asked_for_numbers_too(
    script, flags, damage, tmp_path, monkeypatch
):
    """Statistics, averages and a bound's directions outlive the iteration that spoilt them."""
    use_small_networks(monkeypatch)
    owner = ReconstructionTask if script == "train_denoiser" else GameTask
    finish = owner.finish

    def spoil(self):
        damage(self)
        finish(self)

    monkeypatch.setattr(owner, "finish", spoil)
    data = pictures(tmp_path, script)
    given = (*SCRIPTS[script], f"--save={tmp_path}", f"--dataset={data}", "--epochs=1", *flags)
    done = invoke(script, *given)
    assert done.exit_code == 2, done.output
    assert "no longer a finite number, and nothing was saved" in done.output
    assert not (tmp_path / FILES[script]).exists()


def test_an_average_is_measured_only_where_it_is_saved(tmp_path, monkeypatch):
    """Its statistics take 2000 pictures: a fifth of a run that did so after every epoch."""
    use_small_networks(monkeypatch)
    measured, settle = [], Ema.settle
    monkeypatch.setattr(Ema, "settle", lambda *args: (measured.append(1), settle(*args)))
    data = pictures(tmp_path, "train")

    def count(epochs):
        measured.clear()
        save = f"--save={tmp_path / str(epochs)}"
        flags = (save, f"--dataset={data}", "--G_ema=0.9", f"--epochs={epochs}", "--saveFreq=4")
        assert invoke("train", *SCRIPTS["train"], *flags).exit_code == 0
        return len(measured)

    assert count(4) == count(1) > 0


@pytest.mark.parametrize(("asked", "made"), [(5, 32), (41, 40), (40, 40)])
def test_planes_that_cannot_be_had_are_told(asked, made, tmp_path):
    """Pictures of 8 pixels are halved once, and D begins with 16 planes at least."""
    data = pictures(tmp_path, "train")
    planes = ("--D_arch=small", f"--D_planes={asked}")
    said = small_run("train", tmp_path / "run", data, "--epochs=1", *planes)
    assert said.count(f"--D_planes={asked}: D ends with {made} planes") == (asked != made)
    assert f"in_features={made * 16}," in said
