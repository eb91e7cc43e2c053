"""The step as a recording: with a pretended graph on the processor, with a real one on a GPU."""

import dataclasses

import pytest
import torch

from eyescream_py.srez.batches import Batches, _cut_out, _gathered, draw_augmentation
from eyescream_py.srez.checkpoints import checkpoint_path, read_checkpoint
from eyescream_py.srez.steps import build_networks, build_step, train_step
from eyescream_py.srez.training import run_train
from tests.fake_cuda import RECORDING, recording_device, values_read
from tests.srez.test_batches import random_faces


@pytest.fixture(params=RECORDING)
def device(request, monkeypatch):
    return recording_device(request.param, monkeypatch)


@pytest.mark.parametrize("objective", ["gan", "wgan", "wgangp"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_is_the_written_one(device, tiny, objective, precision):
    options = dataclasses.replace(tiny, loss_func=objective, n_critic=2, precision=precision)
    written, recorded = (build_networks(options, device) for _ in range(2))
    batches = Batches(random_faces(20), options, device)
    step = build_step(recorded, options, device)
    for k in range(12):
        a = train_step(written, batches.batch(k), options, k % 2 == 1)
        b = step(batches.batch(k), k % 2 == 1)
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert float(b[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-5), (k, name)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_recorded_run_goes_on_to_the_bit(device, tiny, tmp_path, optimizer):
    options = dataclasses.replace(
        tiny, optimizer=optimizer, n_critic=2, max_batches=14, learning_rate_half_life=4
    )

    def tensors(name, *parts):
        folder = {
            key: str(tmp_path / name / key)
            for key in ("checkpoint_dir", "train_dir", "summary_dir")
        }
        for number, batches in enumerate(parts):
            run = dataclasses.replace(options, **folder, max_batches=batches, resume=bool(number))
            run_train(run, device, say=lambda text: None)
        return read_checkpoint(checkpoint_path(folder["checkpoint_dir"])).tensors

    whole, parts = tensors("whole", 14), tensors("parts", 9, 14)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("objective", ["gan", "wgan", "wgangp"])
def test_nothing_of_a_step_is_read_back(tiny, objective):
    options = dataclasses.replace(tiny, loss_func=objective)
    networks = build_networks(options, torch.device("cpu"))
    batch = Batches(random_faces(8), options, torch.device("cpu")).batch(0)
    assert values_read(lambda: train_step(networks, batch, options)) == []


def test_pictures_cut_out_at_once_are_those_cut_out_one_by_one():
    draws = draw_augmentation(32, torch.Generator().manual_seed(3))
    windows = random_faces(32).windows
    assert set(draws.flip.tolist()) == {True, False}
    assert torch.equal(_gathered(windows, draws), _cut_out(windows, draws))
