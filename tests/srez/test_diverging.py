"""Runs whose numbers are none any more: they end, and keep what was good."""

import dataclasses

import pytest
import torch

from eyescream_py.srez import options, training
from eyescream_py.srez.checkpoints import checkpoint_path
from eyescream_py.srez.report import DivergedError
from eyescream_py.srez.training import run_train
from tests.srez.test_training import CPU, quiet, tensors


def test_losses_that_are_no_numbers_stop_the_run(tiny, monkeypatch):
    def step(batch, with_generator):
        return {"generator_loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(training, "build_step", lambda *arguments: step)
    with pytest.raises(DivergedError, match="losses are no numbers any more at batch 10"):
        run_train(dataclasses.replace(tiny, max_batches=200), CPU, say=quiet)


def test_weights_that_are_no_numbers_are_not_saved_over_a_good_checkpoint(tiny, monkeypatch):
    monkeypatch.setitem(options.MOSTS, "learning_rate_start", 1e300)  # which no flag takes
    run_train(tiny, CPU, say=quiet)
    before = tensors(tiny)
    ruinous = dataclasses.replace(tiny, resume=True, learning_rate_start=1e300, max_batches=8)
    for period in (1000, 1):
        with pytest.raises(DivergedError, match=r"values of generator/.* are no numbers any more"):
            run_train(dataclasses.replace(ruinous, checkpoint_period=period), CPU, say=quiet)
        assert all(torch.equal(before[name], value) for name, value in tensors(tiny).items())


@pytest.mark.parametrize("what", ["running_var", "exp_avg_sq"])
def test_statistics_and_moments_that_are_no_numbers_are_not_saved(tiny, monkeypatch, what):
    real = training.build_step

    def build_step(networks, options, device):
        step = real(networks, options, device)

        def spoiling(*given):
            losses = step(*given)
            if what == "running_var":
                held = dict(networks.generator.named_buffers())
                next(v for name, v in held.items() if name.endswith(what)).fill_(float("nan"))
            else:
                next(iter(networks.critic_optimizer.state.values()))[what].fill_(float("inf"))
            return losses

        return spoiling

    monkeypatch.setattr(training, "build_step", build_step)
    with pytest.raises(DivergedError, match=f"{what} are no numbers any more"):
        run_train(dataclasses.replace(tiny, max_batches=3), CPU, say=quiet)
    assert not checkpoint_path(tiny.checkpoint_dir).exists()
