"""What the MLN's programs choose for a GPU, with a pretended one."""

import importlib.util

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eyescream_py.mln import checkpoints, command_reconstruct, fast, nufft
from eyescream_py.mln.__main__ import main
from eyescream_py.system import device as devices
from tests.fake_cuda import CUDA, PreparedError, stop_at_preparation
from tests.pretended_gpu import pretended_gpu


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_half_precision_is_for_a_gpu(device, half, monkeypatch):
    class Network:
        def to(self, device):
            return self

    work = object.__new__(command_reconstruct._Work)
    work.network, work._method, work._half = "a checkpoint", "mln", half
    monkeypatch.setattr(checkpoints, "restore_network", lambda checkpoint: Network())
    monkeypatch.setattr(fast, "FastNetwork", lambda network, half: half)
    assert work.methods(device) == {"mln": half and device == CUDA}


@pytest.mark.parametrize(("device", "name"), [(CUDA, "gridded"), ("cpu", "finufft")])
def test_a_gpu_grids_where_a_processor_has_finufft(device, name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: wanted == "finufft")
    monkeypatch.setattr(nufft, "Finufft", lambda *given: "finufft")
    monkeypatch.setattr(nufft, "GriddedNUFFT", lambda *given, device: "gridded")
    assert nufft.choose_operator(np.full((4, 2), 0.3), 8, device) == name


def test_the_device_is_prepared_before_anything_is_computed(monkeypatch):
    stop_at_preparation(monkeypatch, devices)
    done = CliRunner().invoke(main, ["train", "--threads=1"])
    assert isinstance(done.exception, PreparedError), done.output
    assert done.exception.args == (CUDA, False, True)  # whole float32 products


def test_a_recorded_run_ends_as_the_same_run_as_written(tmp_path, monkeypatch):
    scan, ends = tmp_path / "scan", []
    made = CliRunner().invoke(main, ["simulate", f"--out={scan}", "--side=16", "--coils=3",
                                     "--samples=300", "--turns=6"])  # fmt: skip
    assert made.exit_code == 0, made.output
    with pretended_gpu(monkeypatch) as gpu:
        for capture in ("--capture", "--no-capture"):
            out = tmp_path / capture
            done = CliRunner().invoke(main, [
                "train", f"--params={scan / 'Params.txt'}", f"--out={out}", "--batches=8", capture,
                "--gpu=0", "--threads=1", "--InitExamples=60", "--nToLoad=8", "--test-images=0",
                "--learning_rate_half_life=2000",  # of batches: less would be of minutes
            ])  # fmt: skip
            assert done.exit_code == 0, (done.output, done.exception)
            (file,) = out.rglob("checkpoint_new.safetensors")
            ends.append(load_file(file))
    assert [graph.replays > 2 for graph in gpu.graphs] == [True]
    assert ends[0].keys() == ends[1].keys()
    assert not [name for name, found in ends[0].items() if not torch.equal(found, ends[1][name])]
