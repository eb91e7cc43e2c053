"""The step as a recording: with a pretended graph on the processor, with a real one on a GPU."""

import copy
from dataclasses import replace

import pytest
import torch

from eyescream_py.features import frozen
from eyescream_py.ganless_hd.losses import PerceptualLoss, Reference
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.trainer import Trainer
from eyescream_py.system.device import prepare_cuda
from tests.fake_cuda import RECORDING, gpu, recording_device, values_read
from tests.ganless_hd.test_trainer import batch
from tests.ganless_hd.test_training import state, train


@pytest.fixture(params=RECORDING)
def device(request, monkeypatch):
    return recording_device(request.param, monkeypatch)


def trainer(features, device, **options):
    loss = PerceptualLoss(frozen(copy.deepcopy(features)).to(device))
    network = UNet(0.0625, seed=3, recompute=options.get("recompute", False))
    return Trainer(network, loss, Options(**options), device)


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "last", "precision": "float32"},
        {"averaging": "ema", "precision": "bfloat16"},
        {"averaging": "none", "precision": "float32", "recompute": True},
    ],
)
def test_recorded_steps_are_the_written_ones(small_features, device, options):
    written = trainer(small_features, device, capture=False, **options)
    recorded = trainer(small_features, device, capture=True, **options)
    for k in range(7):
        inputs, targets = (t.to(device) for t in batch(k, count=1 if k == 5 else 2))
        a, b = (one.train_batch(inputs, targets).clone() for one in (written, recorded))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if k % 3 == 2:
            first, second = written.take_sums()[0], recorded.take_sums()[0]
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(written.averaged_weights(), recorded.averaged_weights())


@pytest.mark.parametrize("averaging", ["last", "ema"])
def test_a_recorded_run_goes_on_to_the_bit(tiny_options, tmp_path, device, averaging):
    on = 0 if device.type == "cuda" else -1
    base = replace(tiny_options, averaging=averaging, gpu=on, print_every=3, capture=True)
    whole = replace(base, out=str(tmp_path / "whole"), max_steps=20)
    parts = replace(base, out=str(tmp_path / "parts"), max_steps=12)
    train(whole)
    train(parts)
    train(replace(parts, resume=True, max_steps=20), {"max_steps"})
    (a, _), (b, _) = state(whole), state(parts)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_of_a_step_is_read_back(small_features):
    made = trainer(small_features, torch.device("cpu"))
    inputs, targets = batch(0)
    reference = Reference(targets, made._looked(targets))
    assert values_read(lambda: made._looked(targets)) == []
    step = made._descended
    assert values_read(lambda: step(inputs, targets, *reference.activations)) == []


@gpu
def test_features_rounded_once_are_those_that_autocast_rounds_each_time(small_features):
    device = torch.device("cuda")
    prepare_cuda(device, fast=False, strict=False)
    pictures = batch(0)[1].to(device)
    eyes = frozen(copy.deepcopy(small_features)).to(device)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        eyes = copy.deepcopy(eyes).to(dtype)
        with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
            found.append(eyes(pictures))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
