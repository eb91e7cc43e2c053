"""The choice between float32 and bfloat16 on a processor."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from eyescream_py.game import trial
from eyescream_py.game.trial import Part
from eyescream_py.networks import models, models_c2f, models_small
from eyescream_py.torch7.layers.stochastic import Dropout


def parts():
    return {
        "faces": [Part(models.create_D((1, 8, 8)), [(1, 8, 8)]),
                  Part(models.create_G((1, 8, 8), 4), [(4,)])],
        "c2f": [Part(models_c2f.create_D((1, 4, 4)), [(1, 4, 4)] * 2),
                Part(models_c2f.create_G((1, 4, 4)), [(1, 4, 4)] * 2)],
        "small": [Part(models_small.create_D((3, 32, 32)), [(3, 32, 32)], last=True)],
        "dropout": [Part(nn.Sequential(nn.Linear(4, 4), Dropout()), [(4,)], fast=False)],
    }  # fmt: skip


@pytest.mark.parametrize("case", parts())
def test_a_trial_times_both_and_leaves_the_run_alone(case, monkeypatch):
    monkeypatch.setattr(trial, "ROUNDS", 1)
    torch.manual_seed(3)
    networks = parts()[case]
    before = [copy.deepcopy(part.network) for part in networks]
    state = torch.get_rng_state()
    ms = trial.milliseconds(networks, 4)
    assert set(ms) == {"fp32", "bf16"}
    assert all(0 < value < 60000 for value in ms.values())
    assert torch.equal(torch.get_rng_state(), state)
    for part, old in zip(networks, before, strict=True):
        for p, q in zip(part.network.parameters(), old.parameters(), strict=True):
            assert torch.equal(p, q)
            assert p.grad is None
            assert p.stride() == q.stride()
        assert not any("forward" in vars(layer) for layer in part.network.modules())


def test_a_trial_ends_when_its_time_is_up(monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    passes = []
    monkeypatch.setattr(
        trial, "_passes", lambda p, n, name, compiled: lambda: passes.append((name, n))
    )
    trial.milliseconds(parts()["faces"], 1024)
    # one to warm up, one that counts; 16,384 pixels of 8x8 pictures
    assert passes == [("fp32", 256), ("bf16", 256)] * 2


def test_a_trial_leaves_nothing_in_memory(monkeypatch, capsys):
    copies = []

    def noted(network, rounded, compiled):
        copies.append(weakref.ref(network))
        exchange(network, rounded, compiled)

    exchange = trial.speed_up
    monkeypatch.setattr(trial, "speed_up", noted)
    monkeypatch.setattr(trial, "ROUNDS", 1)
    gc.disable()  # or it might come at a moment that hides what stays
    try:
        trial.chosen(parts()["faces"], 4)
        assert len(copies) == 4
        assert [copy() for copy in copies] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize(("bf16", "name"), [(80.0, "bf16"), (95.0, "fp32"), (240.0, "fp32")])
def test_bfloat16_has_to_be_clearly_quicker(bf16, name, monkeypatch, capsys):
    monkeypatch.setattr(trial, "milliseconds", lambda *given: {"fp32": 100.0, "bf16": bf16})
    assert trial.chosen([], 16) == name
    said = capsys.readouterr().out
    assert said.startswith(f"--precision=auto: {name}; ")
    assert f"{bf16:.0f} ms in bf16, 100 ms in fp32" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("ms", "shown"), [(1043.2, "1043"), (42.4, "42"), (3.14, "3.1"), (0.4, "0.4")]
)
def test_no_time_is_shown_as_nothing(ms, shown, monkeypatch, capsys):
    monkeypatch.setattr(trial, "milliseconds", lambda *given: {"fp32": ms, "bf16": ms})
    trial.chosen([], 16)
    assert f"took {shown} ms in bf16, {shown} ms in fp32." in capsys.readouterr().out
