"""A stranger's network or state is only a file; an earlier version's is still ours."""

import errno
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from eyescream_py.ganless_hd import start
from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.checkpoints import read_network, read_tensors, write_pth, write_tensors
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options, resumed
from eyescream_py.ganless_hd.resuming import check_tensors, earlier_run, state_file
from eyescream_py.ganless_hd.start import opened_run
from eyescream_py.system.errors import UserError

VERSION_1 = Path(__file__).parent / "version_1"  # written by the program before it had numbers
NETWORK = {"kind": "network", "width": 0.0625, "imgSize": 64, "colormap": True}


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(path, tensors, metadata):
    """A safetensors file whose description of itself is any text."""
    path.write_bytes(save(tensors, metadata={"ganless_hd": metadata}))
    return path


@pytest.fixture
def tensors():
    return dict(UNet(0.0625).state_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1e9}, {"width": 4.5}, {"width": 0}, {"width": -1}, {"width": "1"},
        {"width": True}, {"width": [1]}, {"width": 10**400}, {"width": float("nan")},
        {"width": float("inf")}, {"width": 4}, {"imgSize": 10**9}, {"imgSize": 0},
        {"imgSize": 64.0}, {"imgSize": "64"}, {"colormap": 1}, {"colormap": None},
        {"version": 99}, {"version": "2"}, {"version": None}, {"kind": "run"},
    ],
)  # fmt: skip
def test_networks_that_lie_about_themselves(tmp_path, tensors, change):
    path = write(tmp_path / "liar.safetensors", tensors, json.dumps(NETWORK | change))
    with pytest.raises(UserError, match=r"liar\.safetensors: "):
        read_network(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "{", '"', "", "nul", "{}{}"])
def test_descriptions_that_are_none(tmp_path, tensors, text):
    path = write(tmp_path / "odd.safetensors", tensors, text)
    with pytest.raises(UserError, match=r"odd\.safetensors: its description of itself"):
        read_network(path)


@pytest.mark.parametrize(
    "value", [torch.full((3,), float("nan")), torch.zeros(4), torch.zeros(3, dtype=torch.int32)]
)
def test_tensors_that_do_not_fit(tmp_path, tensors, value):
    path = tmp_path / "misfit.safetensors"
    write_tensors(path, tensors | {"collapse.bias": value}, NETWORK)
    with pytest.raises(UserError, match=r"misfit\.safetensors: .*collapse\.bias"):
        read_network(path)


def test_half_precision_opens_as_single(tmp_path, tensors):
    path = tmp_path / "half.safetensors"
    write_tensors(path, {name: value.half() for name, value in tensors.items()}, NETWORK)
    got = read_network(path).network.state_dict()
    assert all(torch.equal(got[name], tensors[name].half().float()) for name in tensors)


def test_an_exported_network_is_a_plain_state_dict(tmp_path, tensors):
    source, target = tmp_path / "n.safetensors", tmp_path / "n.pth"
    write_tensors(source, tensors, NETWORK)
    result = invoke("export", source, target)
    assert result.exit_code == 0, result.output
    assert target.read_bytes()[:2] == b"\x80\x02"  # torch 0.4 knows no zip archives
    loaded = torch.load(target, weights_only=True)
    assert list(loaded) == list(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert torch.equal(read_network(target).network.collapse.weight, UNet(0.0625).collapse.weight)
    assert "ends in .pth or" in invoke("export", source, tmp_path / "n.bin").stderr
    assert "is there already" in invoke("export", source, target).stderr


def test_half_precision_is_half_as_large(tmp_path, tensors):
    source, target = tmp_path / "n.safetensors", tmp_path / "half.safetensors"
    write_tensors(source, tensors, NETWORK)
    assert invoke("export", source, target).exit_code == 0
    assert target.stat().st_size < 0.6 * source.stat().st_size
    saved = read_network(target)
    assert (saved.size, saved.colormap, saved.width) == (64, True, 0.0625)
    assert torch.equal(saved.network.collapse.weight, tensors["collapse.weight"].half().float())


def state(options, **changes):
    """(tensors, about) of a run that has done one batch."""
    with torch.device("meta"):
        count = sum(p.numel() for p in UNet(options.width).parameters())
    adam = {f"adam.{n}": torch.zeros(count) for n in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    kept = {
        "weights": torch.zeros(count), **adam, "adam.step": torch.tensor(2.0),
        "averaging.iterates": torch.zeros(2, count), "averaging.pushed": torch.tensor(2),
    }  # fmt: skip
    about = {
        "kind": "run", "features": "a", "photos": "b",
        "options": {"width": options.width},
        "progress": {"iteration": 1, "epoch_loss": 0.0, "epoch_steps": 2},
    }  # fmt: skip
    return kept | changes.get("tensors", {}), about | changes.get("about", {})


def opened(options, **changes):
    path = state_file(options.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, *state(options, **changes))
    given = replace(options, resume=True)
    run = earlier_run(given)
    kept = resumed(given, run.options, ())
    kept.check()
    check_tensors(run, kept.width)
    return run


def test_a_state_that_tells_the_truth_opens(tiny_options):
    assert opened(tiny_options).progress.iteration == 1


@pytest.mark.parametrize(
    "about",
    [
        {"options": None}, {"options": []}, {"options": {"width": 1e9}},
        {"options": {"width": "1"}}, {"options": {"batchSize": 10**9}},
        {"options": {"imgSize": 2**40}}, {"options": {"lr": float("nan")}},
        {"options": {"lr": float("inf")}}, {"options": {"seed": -1}},
        {"options": {"seed": 10**400}}, {"options": {"pearson": "none"}},
        {"options": {"dataroota": "photos"}}, {"options": {"dataroota": [3]}},
        {"options": {"noplot": 1}}, {"options": {"port": 1.5}},
        {"progress": None}, {"progress": {}}, {"features": None}, {"photos": 3},
        {"progress": {"iteration": -1, "epoch_loss": 0.0, "epoch_steps": 0}},
        {"progress": {"iteration": 1.5, "epoch_loss": 0.0, "epoch_steps": 0}},
        {"progress": {"iteration": 1, "epoch_loss": float("nan"), "epoch_steps": 0}},
        {"progress": {"iteration": 1, "epoch_loss": 10**400, "epoch_steps": 0}},
        {"progress": {"iteration": 1, "epoch_loss": 0.0, "epoch_steps": 2**70}},
        {"kind": "network"}, {"kind": None},
    ],
)  # fmt: skip
def test_states_that_lie_about_themselves(tiny_options, about):
    with pytest.raises(UserError):
        opened(tiny_options, about=about)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights": torch.zeros(3)}, {"weights": torch.zeros(31_332, dtype=torch.int64)},
        {"weights": torch.full((31_332,), float("inf"))}, {"adam.exp_avg": torch.zeros(1)},
        {"adam.step": torch.tensor(-1.0)}, {"adam.step": torch.tensor(float("nan"))},
        {"adam.step": torch.zeros(2)}, {"averaging.pushed": torch.tensor(-(2**31))},
        {"averaging.pushed": torch.tensor(2**60)}, {"averaging.pushed": torch.tensor(1)},
        {"averaging.iterates": torch.zeros(9, 31_332)}, {"extra": torch.zeros(2, 2)},
    ],
)  # fmt: skip
def test_states_with_tensors_that_do_not_fit(tiny_options, tensors):
    wrong = r"latest\.safetensors: .*(not of this network|are no numbers)"
    with pytest.raises(UserError, match=wrong):
        opened(tiny_options, tensors=tensors)


def test_version_1_goes_on(photos, tmp_path):
    """--features-width 0.02 too, whose channels cannot be told from the first layer's."""
    run = tmp_path / "run"
    (run / "saves").mkdir(parents=True)
    shutil.copy(VERSION_1 / "features.safetensors", run)
    shutil.copy(VERSION_1 / "latest.safetensors", run / "saves")
    result = invoke("train", "--out", run, "--resume", "--max-steps", 12, "--dataroota", photos)
    assert result.exit_code == 0, result.output
    assert "The photographs are not those" not in result.output
    assert read_tensors(state_file(run))[1]["progress"]["iteration"] == 6


def test_version_1_paints(photos, tmp_path):
    network, photo = VERSION_1 / "network.safetensors", photos / "scene_00000.jpg"
    result = invoke("sample", photo, "--network", network, "--out", tmp_path, "--gpu", -1)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("width", [0.1, 0.3])
def test_any_width_of_the_features_resumes(tiny_options, width):
    options = replace(tiny_options, features_width=width, width=0.02, max_steps=2)
    for more in ({}, {"resume": True, "max_steps": 4}):
        with opened_run(replace(options, **more), set(more)) as run:
            run.train()
    assert run.progress.iteration == 2


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        (flag, value)
        for flag in ("--cache-gb", "--width", "--features-width", "--ema-decay", "--lr")
        for value in ("nan", "inf", "-inf", "-1", "1e400")
    ],
)
def test_numbers_that_are_none_are_refused(flag, value):
    result = invoke("train", "--dataroota", "x", flag, value)
    assert result.exit_code == 2
    assert flag in result.stderr


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("flag", ["--basis", "--features", "--init"])
def test_empty_files_are_one_line(tiny_flags, tmp_path, flag, suffix):
    empty = tmp_path / f"empty{suffix}"
    empty.touch()
    result = invoke("train", *tiny_flags, flag, empty)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {flag}={empty}: not a readable")


def test_a_basis_that_is_no_number_is_one_line(tiny_flags, tmp_path):
    torch.save({"conv": torch.full((4, 4, 3, 3), float("nan"))}, tmp_path / "nan.pth")
    result = invoke("train", *tiny_flags, "--basis", tmp_path / "nan.pth")
    assert result.exit_code == 2
    assert "values that are no numbers" in result.stderr


def hold(options, ready, done):
    with opened_run(options, ()):
        ready.set()
        done.wait(60)


def test_a_second_run_in_the_folder_is_told_who_is_there(tiny_options):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tiny_options, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(UserError, match=rf"process {other.pid} .*; wait for it, or give"),
            opened_run(tiny_options, ()),
        ):
            pass
    finally:
        done.set()
        other.join()


def test_what_killed_runs_left_half_written_is_removed(tiny_options):
    left = [
        tiny_options.folder / name / ".x.safetensors.999999999.0123456789ab.tmp"
        for name in ("", "saves", "images", "cache/ab")
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with opened_run(tiny_options, ()):
        assert not any(path.exists() for path in left)


def test_flags_without_effect_are_taken_and_said(tiny_flags):
    result = invoke("train", *tiny_flags, "--max-steps", 2, "--encoderStep", 3, "--levels", 5)
    assert result.exit_code == 0, result.output
    for name in ("encoderStep", "levels"):
        assert f"--{name}: has no effect, as in the published program." in result.output


def test_defaults_pass_their_own_check():
    Options(dataroota=("x",)).check()


def test_write_pth_needs_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_pth(tmp_path / "none" / "a.pth", UNet(0.02))


def test_a_cache_that_cannot_be_written_is_said(tiny_options, tmp_path, monkeypatch, capsys):
    def refused(path, size=0):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(start, "demand_room", refused)
    with opened_run(replace(tiny_options, cache=str(tmp_path / "c")), ()):
        pass
    line = f"Could not write copies to {tmp_path / 'c'}: Permission denied; training goes on."
    assert capsys.readouterr().out.count(line) == 1
