import json
import os
import shutil
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py import features
from eyescream_py.ganless_hd.checkpoints import fingerprint, read_tensors, write_tensors
from eyescream_py.ganless_hd.data import (
    ContourPhotos,
    ResizedPhotos,
    fixed_batches,
    fixed_pairs,
    to_network,
)
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.start import opened_run
from eyescream_py.ganless_hd.training import Run, next_batch, spread, state_file
from eyescream_py.system.errors import UserError


def train(options, typed=()):
    with opened_run(options, typed) as run:
        run.train()
    return run


def state(options):
    return read_tensors(state_file(options.folder))


def records(options, event):
    lines = (options.folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def test_files_of_two_epochs(tiny_options):
    options = replace(tiny_options, epochs=2, heldout=3, sheet_every=3)
    train(options)
    sheets = {path.name for path in (options.folder / "images").iterdir()}
    expected = {f"output-{number}.png" for number in (1, 3, 6)}
    assert sheets == expected | {"heldout-4.png", "heldout-8.png"}
    page = np.asarray(Image.open(options.folder / "images" / "output-1.png"))
    assert page.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    means = [record["mean"] for record in records(options, "epoch")]
    names = {path.name for path in (options.folder / "saves").iterdir()}
    assert {f"autoEncoder-{mean}.safetensors" for mean in means} <= names
    assert len(means) == 2


def test_mean_loss_is_over_all_steps_of_the_epoch(tiny_options):
    options = replace(tiny_options, epochs=2, print_every=1)
    train(options)
    steps = [record["total"] for record in records(options, "train")]
    assert len(steps) == 2 * 4  # seven crops in batches of two
    means = [record["mean"] for record in records(options, "epoch")]
    assert means == pytest.approx(np.reshape(steps, (2, 4)).mean(1), rel=1e-6)


def test_saved_network_is_the_live_one_under_published_averaging(tiny_options):
    run = train(replace(tiny_options, epochs=1))
    (path,) = (tiny_options.folder / "saves").glob("autoEncoder-*.safetensors")
    tensors, about = read_tensors(path)
    flat = torch.cat(
        [tensors[name].flatten() for name, _ in run.trainer.network.named_parameters()]
    )
    assert torch.equal(flat, run.trainer.flat.vector)
    assert about == {
        "version": 2, "kind": "network", "width": 0.0625, "imgSize": 64, "colormap": True
    }  # fmt: skip


def test_saved_network_is_the_teacher_where_there_is_one(tiny_options):
    run = train(replace(tiny_options, epochs=1, averaging="ema"))
    (path,) = (tiny_options.folder / "saves").glob("autoEncoder-*.safetensors")
    tensors, _ = read_tensors(path)
    flat = torch.cat(
        [tensors[name].flatten() for name, _ in run.trainer.network.named_parameters()]
    )
    assert torch.equal(flat, run.trainer.averaging.teacher())
    assert not torch.equal(flat, run.trainer.flat.vector)


@pytest.mark.parametrize("averaging", ["last", "ema"])
def test_resumed_run_equals_an_uninterrupted_one(tiny_options, averaging):
    whole = replace(tiny_options, out=tiny_options.out + "-whole", averaging=averaging, epochs=2)
    train(whole)
    parts = replace(tiny_options, averaging=averaging)
    train(replace(parts, max_steps=6))  # in the middle of the first epoch
    train(replace(parts, resume=True, max_steps=12), {"max_steps"})
    train(replace(parts, resume=True, epochs=2, max_steps=0), {"epochs", "max_steps"})
    (expected, about), (tensors, other) = state(whole), state(parts)
    assert about["progress"]["iteration"] == 8
    assert about["progress"] == other["progress"]
    assert all(torch.equal(expected[name], tensors[name]) for name in expected)
    means = [[record["mean"] for record in records(run, "epoch")] for run in (whole, parts)]
    assert means[0] == means[1]
    old = state_file(parts.folder).with_name("latest.safetensors.old")
    _, before = read_tensors(old.rename(old.with_suffix("")))
    assert before["progress"]["iteration"] == 6


def test_resuming_drops_metrics_from_behind_the_state(tiny_options):
    options = replace(tiny_options, max_steps=4, print_every=1)
    train(options)
    with open(options.folder / "metrics.jsonl", "a") as file:
        file.write('{"event": "train", "iteration": 3}\n{"event": "tra')
    train(replace(options, resume=True, max_steps=6), {"max_steps"})
    assert [record["iteration"] for record in records(options, "train")] == [1, 2, 3]
    assert all("total" in record for record in records(options, "train"))


def test_averaging_restarts_with_each_epoch(tiny_options):
    options = replace(tiny_options, epochs=2)  # four batches an epoch, eight steps
    train(options)
    assert state(options)[0]["averaging.pushed"] == 8


def test_held_out_losses_of_both_weights(tiny_options):
    options = replace(tiny_options, epochs=1, heldout=3, averaging="ema")
    run = train(options)
    (record,) = records(options, "held out")
    with run.trainer.flat.replaced_by(run.trainer.averaged_weights()):
        assert record["averaged"] == run.trainer.evaluate(run.held_out)
    assert record["raw"] == run.trainer.evaluate(run.held_out)
    assert record["raw"] != record["averaged"]
    assert sum(len(inputs) for inputs, _ in run.held_out) == 3


def test_held_out_photographs_are_the_last_by_name_and_are_not_trained_on(tiny_options, photos):
    names = sorted(path.name for path in photos.iterdir())
    with opened_run(replace(tiny_options, heldout=3, colormap=False), ()) as run:
        seen = [path.name for path in run.dataset.photos.photos]
        held_out = [torch.cat(halves) for halves in zip(*run.held_out, strict=True)]
    assert seen == names[:-3]
    own = ResizedPhotos([photos / name for name in names[-3:]], 72)
    ((inputs, targets),) = fixed_batches(fixed_pairs(own, 64, False), 3)
    assert torch.equal(held_out[0], inputs)
    assert torch.equal(held_out[1], targets)


def test_sheets_show_input_output_and_target(tiny_options, monkeypatch):
    shown = {}
    monkeypatch.setattr(Run, "_show", lambda run, name, columns: shown.setdefault(name, columns))
    run = train(replace(tiny_options, epochs=1, heldout=3, averaging="ema"))
    cpu = torch.device("cpu")
    inputs, targets = (to_network(half, cpu) for half in spread(run.held_out))
    with run.trainer.flat.replaced_by(run.trainer.averaged_weights()):
        expected = [inputs, run.trainer.predict(inputs), targets]
    assert all(map(torch.equal, shown["heldout"], expected))
    first = [torch.stack(half) for half in zip(run.dataset[0], run.dataset[1], strict=True)]
    inputs, outputs, targets = shown["output"]
    assert torch.equal(inputs, to_network(first[0], cpu))
    assert torch.equal(targets, to_network(first[1], cpu))
    assert outputs.std() > 0
    assert not torch.equal(outputs, inputs)


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (4, [0, 1, 2, 3]), (11, [0, 2, 4, 6, 8, 10])]
)
def test_shown_held_out_photographs_are_spread_over_all(count, shown):
    numbers = torch.arange(count)
    inputs, targets = spread([(half, -half) for half in numbers.split(4)])
    assert inputs.tolist() == shown
    assert torch.equal(targets, -inputs)


def test_a_signal_saves_and_stops(tiny_options, capsys):
    with opened_run(tiny_options, ()) as run:
        train_batch, done = run.trainer.train_batch, []

        def interrupted(inputs, targets):
            done.append(1)
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_batch(inputs, targets)

        run.trainer.train_batch = interrupted
        run.train()
    assert state(tiny_options)[1]["progress"]["iteration"] == 3
    assert "SIGTERM: stopped after batch 3" in capsys.readouterr().out


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tiny_options):
    train(replace(tiny_options, max_steps=4))
    before = state_file(tiny_options.folder).read_bytes()
    with opened_run(replace(tiny_options, resume=True, max_steps=8), {"max_steps"}) as run:
        run.trainer.flat.set(torch.full_like(run.trainer.flat.vector, float("nan")))
        with pytest.raises(UserError, match="a weight is no number any more at batch 2; "):
            run._save_state()
        with pytest.raises(UserError, match="the loss is no number any more at batch 4"):
            run.train()
    assert state_file(tiny_options.folder).read_bytes() == before


def test_a_run_in_the_folder_is_not_overwritten(tiny_options):
    train(replace(tiny_options, max_steps=2))
    with pytest.raises(UserError, match="holds a run already; give --resume"):
        train(tiny_options)


def test_resuming_nothing_is_refused(tiny_options):
    with pytest.raises(UserError, match="--resume: no run in"):
        train(replace(tiny_options, resume=True))


def test_resuming_as_another_run_is_refused(tiny_options):
    train(replace(tiny_options, max_steps=2))
    other = replace(tiny_options, resume=True, lr=0.5)
    with pytest.raises(UserError, match=r"--lr=0\.5: the run in .* has 0\.001"):
        train(other, {"lr"})
    with pytest.raises(UserError, match="--features: works at the start"):
        train(replace(tiny_options, resume=True, features="x.pth"), {"features"})


def test_resuming_takes_what_was_not_typed_from_the_run(tiny_options):
    train(replace(tiny_options, max_steps=2, lr=5e-4))
    with opened_run(replace(tiny_options, resume=True, width=1.0), ()) as run:
        assert (run.options.lr, run.options.width) == (5e-4, 0.0625)


def test_other_features_are_noticed(tiny_options, small_features):
    train(replace(tiny_options, max_steps=2))
    path = tiny_options.folder / "features.safetensors"
    write_tensors(path, small_features.state_dict(), {})
    with pytest.raises(UserError, match="not the features that the run"):
        train(replace(tiny_options, resume=True))
    path.unlink()
    with pytest.raises(UserError, match=r"^\S+features\.safetensors: no such file; the run needs"):
        train(replace(tiny_options, resume=True))


def test_given_features_are_used_for_loss_and_basis(tiny_options, small_features, tmp_path, capsys):
    path = tmp_path / "resnet.safetensors"
    write_tensors(path, small_features.state_dict(), {})
    options = replace(tiny_options, features=str(path), max_steps=2)
    with opened_run(options, ()) as run:
        basis = run.trainer.network.encoderLevels[0].basisWeights
        torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
        assert not torch.allclose(basis[0], basis[0].mean().expand(9), atol=1e-3)
    text = capsys.readouterr().out
    assert f"Features: ResNet-18 from {path}." in text
    assert f"singular vectors of the 3x3 filters in {path}." in text
    assert "RANDOM" not in text


def test_random_features_are_said_to_be_random(tiny_options, capsys):
    with opened_run(tiny_options, ()) as run:
        assert run.about["features"] == fingerprint(tiny_options.folder / "features.safetensors")
    text = capsys.readouterr().out
    assert "Features: a RANDOM ResNet-18 (seed 0, width 0.0625)" in text
    assert "from scratch (seed 0)" in text


def test_the_seed_decides_crops_weights_and_features_which_training_crops_calibrate(tiny_options):
    options = replace(tiny_options, seed=4, colormap=False, pearson="channel")
    with opened_run(options, ()) as run:
        assert run.trainer.loss.scope == "channel"
        start = UNet(0.0625, seed=4).state_dict()
        assert all(torch.equal(start[k], v) for k, v in run.trainer.network.state_dict().items())
        again = ContourPhotos(run.dataset.photos, 64, False, seed=4)
        assert all(map(torch.equal, run.dataset[5], again[5]))
        crops = torch.stack([run.dataset[number][1] for number in range(128)])
        known = features.load("random", width=0.0625, seed=4)
        batches = [to_network(part, torch.device("cpu")) for part in crops.split(16)]
        features.calibrate(known, batches)
        taps = run.trainer.loss.features(batches[0])
        for found, wanted in zip(taps, features.frozen(known)(batches[0]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_init_copies_and_names_tensors(tiny_options, tmp_path, capsys):
    first = train(replace(tiny_options, epochs=1))
    (path,) = (tiny_options.folder / "saves").glob("autoEncoder-*")
    again = replace(tiny_options, out=str(tmp_path / "again"), init=str(path), seed=9)
    with opened_run(again, ()) as run:
        assert torch.equal(run.trainer.flat.vector, first.trainer.flat.vector)
    assert f"from {path}: encoderLevels.0.params, " in capsys.readouterr().out
    wider = replace(again, out=str(tmp_path / "wider"), width=0.125)
    with opened_run(wider, ()):
        text = capsys.readouterr().out
    assert "collapse.bias" in text.split("From scratch:")[0]
    assert "encoderLevels.0.params" in text.split("From scratch:")[1]


def test_init_from_a_file_without_one_fitting_tensor(tiny_options, tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"x": torch.zeros(1)}, {})
    with (
        pytest.raises(UserError, match=r"--init=.*other\.safetensors: no tensor"),
        opened_run(replace(tiny_options, init=str(path)), ()),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgSize": 100}, "--imgSize=100: give a multiple of 64"),
        ({"loadSize": 64}, "--loadSize=64: must be greater than --imgSize=64"),
        ({"dataroota": ()}, "--dataroota: give at least one folder"),
        ({"heldout": 10}, "--heldout=10: leaves no photograph"),
    ],
)
def test_options_that_cannot_work(tiny_options, change, message):
    with (
        pytest.raises(UserError, match=message),
        opened_run(replace(tiny_options, **change), ()),
    ):
        pass


def test_stored_options_are_plain_values(tiny_options):
    train(replace(tiny_options, max_steps=2))
    stored = state(tiny_options)[1]["options"]
    assert stored == json.loads(json.dumps(asdict(replace(tiny_options, max_steps=2))))


def test_a_workers_error_comes_without_its_traceback():
    def worker():
        raise UserError("Caught UserError in worker\nTraceback\nUserError: what the person reads")
        yield

    with pytest.raises(UserError) as error:
        next_batch(worker())
    assert error.value.message == "what the person reads"


def test_a_folder_that_was_removed_comes_back(tiny_options, capsys):
    with opened_run(replace(tiny_options, max_steps=2), ()) as run:
        shutil.rmtree(tiny_options.folder)
        run.train()
        (tiny_options.folder / "features.safetensors").unlink()
        run._save_state()
    assert state_file(tiny_options.folder).is_file()
    assert fingerprint(tiny_options.folder / "features.safetensors") == run.about["features"]
    assert "saves was removed or renamed: made again." in capsys.readouterr().out
