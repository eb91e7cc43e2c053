"""Runs in CUDA graphs, on a GPU where there is one, else on a pretended one: what they save is what
the same runs save as they are written.
"""

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.game import fused_adam
from eyescream_py.game.capture import _OnCuda
from eyescream_py.results import story
from eyescream_py.system import kernels_in_torch
from eyescream_py.training import setup
from tests.pretended_gpu import Kernels, pretended_gpu
from tests.small_runs import FILES, SCRIPTS, assert_same, pictures, records, small_run

RUN = ("--gpu=0", "--epochs=1", "--log_every=0", "--N_epoch=28")  # seven iterations


@pytest.fixture
def recordings(monkeypatch):
    """Those of the iterations of a run on pictures in colour."""
    in_colour = [word for word in SCRIPTS["train"] if word != "--grayscale"]
    monkeypatch.setitem(SCRIPTS, "train", tuple(in_colour))
    made, record = [], _OnCuda.record
    monkeypatch.setattr(
        _OnCuda, "record", lambda self, work: made.append(record(self, work)) or made[-1]
    )
    monkeypatch.setattr(fused_adam, "LARGE", 64)  # so that weights learn early
    monkeypatch.setattr(story, "write_curves_if_possible", lambda save, trainer: None)
    if torch.cuda.is_available():
        yield made
        return
    with pretended_gpu(monkeypatch) as gpu:
        kernels = Kernels(gpu, kernels_in_torch)
        monkeypatch.setattr(setup, "fused_kernels", lambda device, rounded: kernels)
        yield made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (("--D_arch=residual", "--D_planes=64", "--D_r1=1", "--D_r1_every=2"), 2),
        (("--D_arch=small", "--D_planes=32", "--D_augment=colour,mirror,translation,cutout"), 1),
    ],
    ids=["residual D", "saturation"],
)
def test_a_run_in_graphs_saves_what_it_does_as_written(
    flags, kinds, precision, recordings, tmp_path
):
    data = pictures(tmp_path, "train", channels=3)
    flags = (*RUN, *flags, "--G_arch=conv", "--G_planes=16", f"--precision={precision}")
    small_run("train", tmp_path / "graph", data, *flags)
    assert len(recordings) == kinds
    assert all(recordings)
    small_run("train", tmp_path / "written", data, *flags, "--no_capture")
    assert len(recordings) == kinds
    first, second = (torch7.load(tmp_path / name / FILES["train"]) for name in ("graph", "written"))
    assert_same(first, second)
    metrics = [records(tmp_path / name / "metrics.jsonl") for name in ("graph", "written")]
    assert metrics[0] == metrics[1]
