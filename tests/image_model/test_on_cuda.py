"""The random numbers of a GPU in a checkpoint, with a pretended GPU."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eyescream_py.image_model import __main__ as command
from eyescream_py.image_model.__main__ import main
from eyescream_py.image_model.checkpoints import (
    read_checkpoint,
    restore_random_state,
    save_checkpoint,
)
from eyescream_py.image_model.networks import build_generator
from eyescream_py.image_model.options import ImageOptions
from eyescream_py.system import device as devices
from tests.fake_cuda import CUDA, PreparedError, stop_at_preparation
from tests.pretended_gpu import pretended_gpu

STATE = torch.arange(16, dtype=torch.uint8)  # a seed and an offset


@pytest.fixture
def machine(monkeypatch):
    """A function that tells whether there is a GPU, and the states that it was set to."""
    was_set = []

    def has_gpu(yes):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: yes)

    monkeypatch.setattr(torch.cuda, "get_rng_state", STATE.clone)
    monkeypatch.setattr(torch.cuda, "set_rng_state", was_set.append)
    return has_gpu, was_set


@pytest.mark.parametrize("saved_with", [False, True])
@pytest.mark.parametrize("restored_with", [False, True])
def test_a_gpus_state_travels_and_is_left_where_there_is_none(
    saved_with, restored_with, machine, tmp_path
):
    has_gpu, was_set = machine
    settings = ImageOptions(image_size=16).settings("image-model") | {"gen_arch": "U"}
    network = build_generator("U", 1, 16)
    has_gpu(saved_with)
    save_checkpoint(tmp_path / "c", 1, settings, {}, {"generator": network}, {})
    has_gpu(restored_with)
    restore_random_state(read_checkpoint(tmp_path / "c"))
    expected = [STATE.tolist()] if saved_with and restored_with else []
    assert [state.tolist() for state in was_set] == expected


@pytest.mark.parametrize("words", [["train"], ["semi-stage1"], ["semi-stage2", "--load_encoder=e"]])
def test_the_device_is_prepared_before_anything_is_computed(words, monkeypatch):
    stop_at_preparation(monkeypatch, devices)
    monkeypatch.setattr(command, "_read", lambda path, kind: None)
    done = CliRunner().invoke(main, [*words, "--threads=1"])
    assert isinstance(done.exception, PreparedError), done.output
    assert done.exception.args == (CUDA, False, False)


def ends_of_runs(mode, heads, folder, monkeypatch, fault=None):
    """What a recorded run saves and one as written, in which recordings fail at an operation; the
    recordings that were made, and what was said.
    """
    flags = [
        "train", f"--synth_dir={heads / 'Faces_depth'}", f"--real_dir={heads / 'Faces_real'}",
        "--image_size=16", "--batch_size=2", "--max_steps=8", "--noplot", "--gpu=0", "--threads=1",
        *mode,
    ]  # fmt: skip
    ends, said = [], ""
    with pretended_gpu(monkeypatch) as gpu:
        gpu.fault = fault
        for name in ("graph", "written"):
            switch = ["--no_capture"] if name == "written" else []
            done = CliRunner().invoke(main, [*flags, f"--log_dir={folder / name}", *switch])
            assert done.exit_code == 0, (done.output, done.exception)
            (saved,) = (folder / name).rglob("model.ckpt-8.safetensors")
            ends.append(load_file(saved))
            said += done.output
    return ends, gpu.graphs, said


@pytest.mark.parametrize("mode", [(), ("--use_recon", "--use_replay", "--L2gan")])
def test_a_recorded_run_ends_as_the_same_run_as_written(mode, heads, tmp_path, monkeypatch):
    (first, second), graphs, _ = ends_of_runs(mode, heads, tmp_path, monkeypatch)
    assert graphs
    assert max(graph.replays for graph in graphs) > 2
    assert first.keys() == second.keys()
    assert not [name for name, found in first.items() if not torch.equal(found, second[name])]


@pytest.mark.parametrize(
    ("mode", "fault"),
    # in G's first part, in its second one, in D's step between them
    [((), 3), (("--diff_low=-1", "--diff_high=-1"), 90), (("--diff_low=-1", "--diff_high=1"), 60)],
)
def test_a_run_whose_recording_fails_ends_as_written(mode, fault, heads, tmp_path, monkeypatch):
    (first, second), graphs, said = ends_of_runs(mode, heads, tmp_path, monkeypatch, fault)
    assert said.count("this run goes on without, slower and otherwise the same.") == 1
    # those before it, it, and one that ended well after it
    assert [graph.replays for graph in graphs] == ([0, 1] if fault == 3 else [1, 0, 1])
    assert len(graphs[-2].calls) == fault
    assert first.keys() == second.keys()
    assert not [name for name, found in first.items() if not torch.equal(found, second[name])]
