"""What srez chooses for a GPU, with a pretended one."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eyescream_py.srez import __main__ as command
from eyescream_py.srez import bench, data
from eyescream_py.srez.data import Faces
from eyescream_py.srez.optimizers import build_optimizer
from eyescream_py.srez.options import Options
from eyescream_py.system import device as devices
from eyescream_py.system.recording import set_rate
from tests.fake_cuda import CUDA, OnCuda, PreparedError, stop_at_preparation
from tests.pretended_gpu import pretended_gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
@pytest.mark.parametrize("gpu", [False, True])
def test_the_rate_that_a_recording_reads_is_a_tensor(gpu, name):
    p = torch.ones(3, requires_grad=True)
    optimizer = build_optimizer(Options(optimizer=name), [OnCuda(p.detach()) if gpu else p])
    (group,) = optimizer.param_groups
    rate = group["lr"]
    assert isinstance(rate, torch.Tensor) is gpu
    assert group.get("capturable", gpu) is gpu
    set_rate(optimizer, 0.25)
    assert float(group["lr"]) == 0.25
    assert (group["lr"] is rate) is gpu


@pytest.mark.parametrize(("free", "stays"), [(None, False), (24, False), (23, True)])
def test_windows_go_to_the_device_where_they_take_half_of_its_free_memory(free, stays, monkeypatch):
    device = torch.device("meta")  # the device of torch's that only counts stands for a GPU
    monkeypatch.setattr(data, "free_memory", lambda of: free if of == device else None)
    faces = Faces(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, 4), torch.arange(1))
    moved = faces.to(device)
    assert moved.windows.device.type == ("cpu" if stays else "meta")


@pytest.mark.parametrize(
    ("main", "words", "place"), [(command.main, ["--run=train"], devices), (bench.main, [], bench)]
)
def test_the_device_is_prepared_before_anything_is_computed(main, words, place, monkeypatch):
    stop_at_preparation(monkeypatch, place)
    done = CliRunner().invoke(main, [*words, "--threads=1"])
    assert isinstance(done.exception, PreparedError), done.output
    assert done.exception.args == (CUDA, False, False)


def test_a_recorded_run_ends_as_the_same_run_as_written(faces_folder, tmp_path, monkeypatch):
    ends = []
    with pretended_gpu(monkeypatch) as gpu:
        for capture in (1, 0):
            save = tmp_path / str(capture)
            places = [f"--{n}={save / n}" for n in ("checkpoint_dir", "train_dir", "summary_dir")]
            done = CliRunner().invoke(command.main, [
                "--run=train", f"--dataset={faces_folder}", "--cache_dir=", *places,
                "--sample_size=32", "--width=0.0625", "--batch_size=2", "--max_batches=8",
                f"--capture={capture}", "--gpu=0", "--threads=1",
            ])  # fmt: skip
            assert done.exit_code == 0, (done.output, done.exception)
            ends.append(load_file(save / "checkpoint_dir" / "checkpoint.safetensors"))
    assert [graph.replays > 2 for graph in gpu.graphs] == [True]
    assert ends[0].keys() == ends[1].keys()
    assert not [name for name, found in ends[0].items() if not torch.equal(found, ends[1][name])]
