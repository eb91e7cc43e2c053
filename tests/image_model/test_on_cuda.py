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


@pytest.mark.parametrize("mode", [(), ("--use_recon", "--use_replay", "--L2gan")])
def test_a_recorded_run_ends_as_the_same_run_as_written(mode, heads, tmp_path, monkeypatch):
    flags = [
        "train", f"--synth_dir={heads / 'Faces_depth'}", f"--real_dir={heads / 'Faces_real'}",
        "--image_size=16", "--batch_size=2", "--max_steps=8", "--noplot", "--gpu=0", "--threads=1",
        *mode,
    ]  # fmt: skip
    ends = []
    with pretended_gpu(monkeypatch) as gpu:
        for name in ("graph", "written"):
            switch = ["--no_capture"] if name == "written" else []
            done = CliRunner().invoke(main, [*flags, f"--log_dir={tmp_path / name}", *switch])
            assert done.exit_code == 0, (done.output, done.exception)
            (saved,) = (tmp_path / name).rglob("model.ckpt-8.safetensors")
            ends.append(load_file(saved))
    assert gpu.graphs
    assert max(graph.replays for graph in gpu.graphs) > 2
    assert ends[0].keys() == ends[1].keys()
    assert not [name for name, found in ends[0].items() if not torch.equal(found, ends[1][name])]
