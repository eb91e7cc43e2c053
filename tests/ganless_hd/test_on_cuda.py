"""What ganless-hd chooses for a GPU, with a pretended one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eyescream_py.ganless_hd import data, networks, start
from eyescream_py.ganless_hd.__main__ import main
from eyescream_py.ganless_hd.basis import analytic_basis
from eyescream_py.ganless_hd.trainer import chosen_precision
from tests.fake_cuda import CUDA, PreparedError, pretend_capability, stop_at_preparation
from tests.ganless_hd.test_training import state, train
from tests.pretended_gpu import INSTEAD, ops, pretended_gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "device", "capability", "dtype"),
    [
        ("auto", CUDA, (8, 0), torch.bfloat16),
        ("auto", CUDA, (7, 5), torch.float32),
        ("auto", CPU, (8, 0), torch.float32),
        ("bfloat16", CPU, (7, 5), torch.bfloat16),
        ("float32", CUDA, (8, 0), torch.float32),
    ],
)
def test_bfloat16_is_chosen_where_the_gpu_has_it(name, device, capability, dtype, monkeypatch):
    pretend_capability(monkeypatch, *capability)
    assert chosen_precision(name, device) == dtype


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_batches_for_a_gpu_are_pinned(device):
    batches = data.EndlessBatches(1, 1)
    assert data.make_loader([0], batches, 0, device).pin_memory is (device == CUDA)


@pytest.mark.parametrize(("device", "composed"), [(CUDA, True), (CPU, False)])
def test_wide_layers_compose_their_kernels_on_a_gpu(device, composed):
    wide = networks.FACTORED_FROM
    layer = networks.BasisConv2d(wide, wide, analytic_basis(), 0.1)
    assert (layer.kernel_for(SimpleNamespace(device=device)) is not None) is composed


def test_the_device_is_prepared_before_anything_is_computed(monkeypatch, tmp_path):
    stop_at_preparation(monkeypatch, start)
    words = ["train", f"--dataroota={tmp_path}", f"--out={tmp_path / 'run'}", "--threads=1"]
    done = CliRunner().invoke(main, words)
    assert isinstance(done.exception, PreparedError), done.output
    assert done.exception.args == (CUDA, False, False)


@pytest.mark.parametrize("averaging", ["last", "ema"])
def test_a_recorded_run_ends_as_the_same_run_as_written(
    averaging, tiny_flags, tmp_path, monkeypatch
):
    ends = []
    with pretended_gpu(monkeypatch) as gpu:
        for capture in ("--capture", "--no-capture"):
            out = tmp_path / capture
            done = CliRunner().invoke(main, [
                "train", *tiny_flags, "--gpu=0", f"--out={out}", "--max-steps=16",
                "--itersPerEpoch=40", capture, f"--averaging={averaging}",
            ])  # fmt: skip
            assert done.exit_code == 0, (done.output, done.exception)
            ends.append(load_file(out / "saves" / "latest.safetensors"))
    assert [graph.replays for graph in gpu.graphs] == [13, 5]
    assert ends[0].keys() == ends[1].keys()
    assert not [name for name, found in ends[0].items() if not torch.equal(found, ends[1][name])]


def test_a_run_goes_on_to_the_bit_where_a_gpu_rounds_as_no_processor_does(
    tiny_options, tmp_path, monkeypatch
):
    def rounded_up(x):
        return torch.nextafter(x.rsqrt(), x.new_tensor(torch.inf))

    monkeypatch.setitem(INSTEAD, ops.rsqrt.default, rounded_up)
    base = replace(tiny_options, gpu=0, precision="float32")
    whole = replace(base, out=str(tmp_path / "whole"), max_steps=8)
    parts = replace(base, out=str(tmp_path / "parts"), max_steps=4)
    with pretended_gpu(monkeypatch):
        train(whole)
        train(parts)
        train(replace(parts, resume=True, max_steps=8), {"max_steps"})
    (a, _), (b, _) = state(whole), state(parts)
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]
