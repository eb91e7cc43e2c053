"""Checkpoints that earlier versions wrote, kept as they were (their places aside), still work."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eyescream_py.srez.checkpoints import load_generator, read_checkpoint, restore
from eyescream_py.srez.networks import use_batch_statistics
from eyescream_py.srez.old_checkpoints import upgraded
from eyescream_py.srez.steps import build_networks

KEPT = Path(__file__).with_name("checkpoints")


@pytest.mark.parametrize("name", ["first_resnet", "first_deconv", "second_resnet", "second_deconv"])
def test_an_old_generator_makes_what_it_made(name):
    generator, stored = load_generator(KEPT / f"{name}.safetensors")
    expected = load_file(KEPT / f"{name}_output.safetensors")
    use_batch_statistics(generator, True)
    with torch.no_grad():
        assert torch.allclose(generator(expected["input"]), expected["output"], atol=1e-5)
    assert stored.batch == 6


@pytest.mark.parametrize("name", ["first_resnet", "second_deconv"])
def test_an_old_run_goes_on_with_its_optimizers(name):
    path = KEPT / f"{name}.safetensors"
    stored = read_checkpoint(path)
    networks = build_networks(stored.options, torch.device("cpu"))
    restore(networks, stored, stored.options, path)
    slots = networks.generator_optimizer.state_dict()["state"]
    assert len(slots) == len(list(networks.generator.parameters()))
    assert {float(s["step"]) for s in slots.values()} == {6.0}
    for i, p in enumerate(networks.generator.parameters()):
        assert slots[i]["exp_avg"].shape == p.shape


def test_old_running_statistics_lose_their_start_values():
    """srez-1 averaged with a momentum of 0.01 from 0 and 1: after 5 equal batches that is known."""
    mean, variance = torch.tensor([2.0, -1.0]), torch.tensor([4.0, 0.5])
    running_mean, running_var = torch.zeros(2), torch.ones(2)
    for _ in range(5):
        running_mean, running_var = running_mean.lerp(mean, 0.01), running_var.lerp(variance, 0.01)
    old = {"generator/a.running_mean": running_mean, "generator/a.running_var": running_var}
    new = upgraded(old, 5)
    assert torch.allclose(new["generator/a.running_mean"], mean, atol=1e-4)
    assert torch.allclose(new["generator/a.running_var"], variance, atol=1e-4)
    assert new["generator/a.seen"] == 5
