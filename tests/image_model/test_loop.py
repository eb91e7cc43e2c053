import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.image_model import replay
from eyescream_py.image_model.checkpoints import read_checkpoint
from eyescream_py.image_model.loop import Run, new_run_folder, rates_of, resume, set_rates
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions, RunOptions
from eyescream_py.image_model.replay import open_for_run
from eyescream_py.image_model.training import ImageModel, load_domains
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import read_json_lines

CPU = torch.device("cpu")


class Windows:
    """Stands in for Visdom: keeps what it was given."""

    def __init__(self) -> None:
        self.shown: dict[str, list] = {}

    def images(self, window, images, title, columns=10) -> None:
        self.shown.setdefault(window, []).append(images)

    def curve(self, window, x, values, title, xlabel="", ylabel="") -> None:
        self.shown.setdefault(window, []).append((x, values))

    def close(self) -> None:
        self.shown = {}


def run_for(
    heads: Path,
    folder: Path,
    steps: int,
    load: Path | None = None,
    decay_steps: int = 0,
    device: torch.device = CPU,
    **options,
):
    """One `train` run of `steps` steps in `folder`; with `load` it goes on from there."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    given = {key: options.pop(key) for key in ("optim", "norm") if key in options}
    image = ImageOptions(batch_size=4, image_size=16, **{"optim": "RMSP", **given})
    gan = GanOptions(use_replay=True, cache_size=9, objective=options.pop("objective", "log"))
    model = ModelOptions(
        synth_dir=str(heads / "Faces_depth"),
        real_dir=str(heads / "Faces_real"),
        nd_dir=str(heads / "Faces_ND"),
        **{"l1": True, "use_nd_l1": True, "use_recon": True, **options},
    )
    learner = ImageModel(model, image, gan, load_domains(model, image, rng, device), rng, device)
    checkpoint = read_checkpoint(load) if load else None
    if checkpoint:
        resume(learner, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    learner.game.replay = open_for_run(gan, (1, 16, 16), folder, checkpoint)
    windows = Windows()
    frequencies = RunOptions(
        max_steps=steps,
        display_freq=2,
        gen_print_freq=3,
        ckpt_freq=4,
        gen_num=2,
        decay_steps=decay_steps,
        command_line="train --flip",
    )
    run = Run(learner, frequencies, folder, windows)
    try:
        run.train(checkpoint.step if checkpoint else 0)
    finally:
        learner.close()
    return windows


def numbers(folder: Path) -> dict[int, dict]:
    return {record["step"]: record for record in read_json_lines(folder / "metrics.jsonl")}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path).tensors


@pytest.mark.parametrize("options", [{}, {"optim": "ADAM", "gen_arch": "NU"}, {"use_nd_gan": True}])
def test_a_resumed_run_is_the_uninterrupted_one(heads: Path, tmp_path: Path, options) -> None:
    run_for(heads, tmp_path / "whole", 8, **options)
    run_for(heads, tmp_path / "first", 4, **options)
    run_for(heads, tmp_path / "second", 4, tmp_path / "first/model.ckpt-4.safetensors", **options)
    whole, second = numbers(tmp_path / "whole"), numbers(tmp_path / "second")
    assert list(second) == [5, 6, 7, 8]
    assert all(second[step] == whole[step] for step in second)
    a = tensors(tmp_path / "whole/model.ckpt-8.safetensors")
    b = tensors(tmp_path / "second/model.ckpt-8.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("decay", [0, 6])  # the latter has begun before the kill
def test_a_run_killed_after_its_checkpoint_is_resumed_with_the_same_replay(
    heads: Path, tmp_path: Path, monkeypatch, decay: int
) -> None:
    run_for(heads, tmp_path / "whole", 8, decay_steps=decay)
    monkeypatch.setattr(Run, "_draw", lambda self, step: None if step < 6 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_for(heads, tmp_path / "killed", 8, decay_steps=decay)
    monkeypatch.undo()
    left = tmp_path / "killed/model.ckpt-4.safetensors"
    run_for(heads, tmp_path / "again", 4, left, decay_steps=decay)
    assert numbers(tmp_path / "again") == {
        step: record for step, record in numbers(tmp_path / "whole").items() if step > 4
    }


def test_each_optimizer_gets_a_share_of_its_own_rate() -> None:
    named = {rate: torch.optim.SGD([torch.zeros(1)], rate) for rate in (0.5, 0.25)}
    learner = SimpleNamespace(optimizers=named)
    set_rates(learner, rates_of(learner), 0.5)
    assert rates_of(learner) == {0.5: 0.25, 0.25: 0.125}


def test_files_of_a_run(heads: Path, tmp_path: Path) -> None:
    windows = run_for(heads, tmp_path / "run", 5)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"metrics.jsonl", "replay.npy", "step_3", "step_5"} <= names
    assert (tmp_path / "run/hyperparams.txt").read_text() == "train --flip\n"
    assert {"model.ckpt-4.safetensors", "model.ckpt-5.safetensors"} <= names
    assert sorted(p.name for p in (tmp_path / "run/step_3").iterdir()) == ["0.png", "1.png"]
    with Image.open(tmp_path / "run/step_3/0.png") as file:
        assert file.size == (32, 16)
    assert list(numbers(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert set(windows.shown) == {
        "losses", "difference", "input", "output", "target", "replay", "reconstruction"
    }  # fmt: skip
    for title in ("input", "output", "replay"):
        assert windows.shown[title][0].min() == 0
        assert windows.shown[title][0].max() == 1
        assert len(windows.shown[title][0]) == 4  # a batch
    assert [x for x, _ in windows.shown["difference"]] == [2, 4, 5]


def test_rates_fall_in_a_line_over_the_last_steps(heads: Path, tmp_path: Path, monkeypatch) -> None:
    rates: list[dict] = []
    step = ImageModel.step

    def watched(self: ImageModel) -> dict[str, float]:
        rates.append({name: o.param_groups[0]["lr"] for name, o in self.optimizers.items()})
        return step(self)

    monkeypatch.setattr(ImageModel, "step", watched)
    run_for(heads, tmp_path / "run", 5, decay_steps=3)
    for name, first in rates[0].items():
        shares = [rate[name] / first for rate in rates]
        assert shares == pytest.approx([1, 1, 0.75, 0.5, 0.25])


def test_a_signal_saves_and_stops(heads: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    step = ImageModel.step

    def interrupted(self: ImageModel) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(ImageModel, "step", interrupted)
    run_for(heads, tmp_path / "run", 50)
    assert "SIGTERM: saved step 1 and stopped." in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run/model.ckpt-1.safetensors").step == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loss_that_is_not_finite_stops_the_run_before_a_save(
    heads: Path, tmp_path: Path, monkeypatch
) -> None:
    values = iter([0.5] * 4 + [float("nan")] * 9)
    monkeypatch.setattr(ImageModel, "l1_step", lambda self, x, y: {"L1": next(values)})
    with pytest.raises(UserError, match=r"step 5: L1 .* go on from .*model\.ckpt-4"):
        run_for(heads, tmp_path / "run", 12)
    checkpoints = [p.name for p in (tmp_path / "run").glob("model.ckpt-*")]
    assert checkpoints == ["model.ckpt-4.safetensors"]


def test_a_weight_that_is_not_finite_is_not_saved(heads: Path, tmp_path: Path, monkeypatch) -> None:
    calls = iter(range(1, 13))

    def spoil(self, x, y):
        if next(calls) == 4:  # the fourth step's losses are known already, and it is saved
            next(self.modules["generator"].parameters()).data.fill_(torch.inf)
        return {"L1": 0.5}

    monkeypatch.setattr(ImageModel, "l1_step", spoil)
    with pytest.raises(UserError, match=r"step 4: .* no longer a finite .* start again with"):
        run_for(heads, tmp_path / "run", 12)
    assert not list((tmp_path / "run").glob("model.ckpt-*"))


@pytest.mark.parametrize("what", ["running_mean", "exp_avg"])
def test_statistics_and_moments_that_are_not_finite_are_not_saved(
    heads: Path, tmp_path: Path, monkeypatch, what
) -> None:
    step = ImageModel.l1_step

    def spoil(self, x, y):
        figures = step(self, x, y)
        if what == "exp_avg":
            next(iter(self.optimizers["l1"].state.values()))[what].fill_(torch.inf)
        else:
            held = dict(self.modules["generator"].named_buffers())
            next(v for name, v in held.items() if name.endswith(what)).fill_(torch.nan)
        return figures

    monkeypatch.setattr(ImageModel, "l1_step", spoil)
    with pytest.raises(UserError, match=f"step 1: .*{what} is no longer a finite number"):
        run_for(heads, tmp_path / "run", 1, optim="ADAM", norm="batch")
    assert not list((tmp_path / "run").glob("model.ckpt-*"))


def test_a_full_disk_does_not_end_a_run_that_has_saved(
    heads: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    import eyescream_py.image_model.loop as loop

    save = loop.save_checkpoint

    def full(path, step, *rest) -> None:
        if step == 8:
            raise OSError(28, "No space left on device")
        save(path, step, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    run_for(heads, tmp_path / "run", 9)
    assert "Could not save" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run/model.ckpt-9.safetensors").step == 9


def test_a_replay_that_cannot_be_settled_is_no_checkpoint_lost(
    heads: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """What was pushed until the checkpoint is in the cache: only that this is settled fails."""
    settle = replay._write_state

    def full(path, pushes, count) -> None:
        if pushes:
            raise OSError(28, "No space left on device")
        settle(path, pushes, count)

    run_for(heads, tmp_path / "whole", 8)
    capsys.readouterr()
    with monkeypatch.context() as broken:
        broken.setattr(replay, "_write_state", full)
        run_for(heads, tmp_path / "run", 4)
    said = capsys.readouterr().out
    assert "Could not save" not in said
    assert "Could not write how much of the replay cache is settled: No space left" in said
    run_for(heads, tmp_path / "again", 4, tmp_path / "run/model.ckpt-4.safetensors")
    assert numbers(tmp_path / "again") == {
        step: record for step, record in numbers(tmp_path / "whole").items() if step > 4
    }


def test_networks_that_a_checkpoint_lacks_start_afresh(heads, tmp_path: Path, capsys) -> None:
    run_for(heads, tmp_path / "a", 1, use_recon=False)
    run_for(heads, tmp_path / "b", 1, tmp_path / "a/model.ckpt-1.safetensors")
    assert "holds no reconstructor: it starts afresh" in capsys.readouterr().out


def test_a_checkpoint_with_a_damaged_state_is_one_line(heads: Path, tmp_path: Path) -> None:
    run_for(heads, tmp_path / "a", 1)
    checkpoint = read_checkpoint(tmp_path / "a/model.ckpt-1.safetensors")
    checkpoint.state["rng"] = {"bit_generator": "PCG64"}
    monkey = pytest.MonkeyPatch()
    monkey.setattr("tests.image_model.test_loop.read_checkpoint", lambda path: checkpoint)
    with monkey.context(), pytest.raises(UserError, match="is damaged, its state lacks"):
        run_for(heads, tmp_path / "b", 1, tmp_path / "a/model.ckpt-1.safetensors")
    monkey.undo()


def test_run_folders_never_collide(tmp_path: Path) -> None:
    folders = {new_run_folder(tmp_path / "logs") for _ in range(3)}
    assert len(folders) == 3
    assert all(f.name.isdigit() for f in folders)
