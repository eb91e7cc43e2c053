import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eyescream_py.image_model.checkpoints import (
    check_settings_agree,
    read_checkpoint,
    save_checkpoint,
)
from eyescream_py.image_model.generate import load_generator
from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.networks import build_generator
from eyescream_py.image_model.options import ImageOptions
from eyescream_py.system.errors import UserError

SETTINGS = ImageOptions(image_size=16).settings("image-model") | {"gen_arch": "U"}


def trained(optim: str = "RMSP") -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = build_generator("U", 1, 16)
    optimizer = build_optimizer(optim, network.parameters(), 1e-3)
    network(torch.randn(2, 1, 16, 16)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def save(path: Path, network, optimizer, state: dict | None = None) -> None:
    save_checkpoint(path, 42, SETTINGS, state or {}, {"generator": network}, {"l1": optimizer})


@pytest.mark.parametrize("optim", ["RMSP", "ADAM"])
def test_round_trip_of_weights_moments_step_and_state(tmp_path: Path, optim: str) -> None:
    network, optimizer = trained(optim)
    state = {"rng": {"big": 2**100}, "queue": [3, 1]}
    save(tmp_path / "c.safetensors", network, optimizer, state)
    checkpoint = read_checkpoint(tmp_path / "c.safetensors", ("image-model",))
    assert checkpoint.step == 42
    assert checkpoint.state == state
    assert checkpoint.settings == SETTINGS
    assert not checkpoint.has("discriminator")
    again = build_generator("U", 1, 16)
    other = build_optimizer(optim, again.parameters(), 5e-3)
    checkpoint.restore(again, "generator")
    checkpoint.restore_optimizer(other, "l1")
    assert other.param_groups[0]["lr"] == 5e-3
    for module, opt in ((network, optimizer), (again, other)):
        opt.param_groups[0]["lr"] = 1e-3
        opt.zero_grad()
        module(torch.ones(1, 1, 16, 16)).square().mean().backward()
        opt.step()
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    save(tmp_path / "c.safetensors", *trained())
    checkpoint = read_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=r"generator/c1.conv.weight has shape \(32, 1, 1, 1\)"):
        checkpoint.restore(build_generator("U", 3, 16), "generator")
    with pytest.raises(UserError, match=r"generator/layers.* is missing|generator/0.* is missing"):
        checkpoint.restore(build_generator("F", 1, 16), "generator")
    few = build_optimizer("RMSP", [torch.nn.Parameter(torch.zeros(3))], 1)
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.restore_optimizer(few, "l1")
    checkpoint.tensors["optimizer:l1/0/exp_avg"] = torch.zeros(32, 1, 1, 1)
    adam = build_optimizer("ADAM", build_generator("U", 1, 16).parameters(), 1)
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.restore_optimizer(adam, "l1")
    with pytest.raises(UserError, match="--gen_arch=V"):
        check_settings_agree(checkpoint, {**SETTINGS, "gen_arch": "V"})
    check_settings_agree(checkpoint, SETTINGS)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "c.safetensors", *trained())
    with pytest.raises(UserError, match="a network of kind image-model; this needs semi"):
        read_checkpoint(tmp_path / "c.safetensors", ("semi",))


def hostile(path: Path, **changes) -> None:
    record = {"version": 2, "step": 1, "settings": dict(SETTINGS), "state": {}}
    for key, value in changes.items():
        if key in record:
            record[key] = value
        else:
            record["settings"][key] = value
    save_file({"x": torch.zeros(1)}, path, {"image_model": json.dumps(record)})


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"\xff" * 8 + b"{}"),
        lambda p: p.write_bytes((100).to_bytes(8, "little") + b"{" * 100),
        lambda p: save_file({"x": torch.zeros(1)}, p),
        lambda p: save_file({"x": torch.zeros(1)}, p, {"image_model": "[]"}),
        lambda p: save_file({"x": torch.zeros(1)}, p, {"image_model": "{"}),
        lambda p: hostile(p, step=-1),
        lambda p: hostile(p, step="7"),
        lambda p: hostile(p, settings=None),
        lambda p: hostile(p, state=[]),
        lambda p: hostile(p, image_size=10**9),
        lambda p: hostile(p, image_size="big"),
        lambda p: hostile(p, image_size=2048, gen_arch="NU"),
        lambda p: hostile(p, channels=10**6),
        lambda p: hostile(p, gen_arch="__import__"),
        lambda p: hostile(p, norm="yes"),
        lambda p: hostile(p, kind="pickle"),
        lambda p: hostile(p, kind="semi"),
        lambda p: hostile(p, image_size=30),
        lambda p: hostile(p, image_size=True),
        lambda p: hostile(p, critic=[]),
        lambda p: hostile(p, step=2**60),
        lambda p: save_file({"x": torch.zeros(1)}, p, {"image_model": "[" * 5000}),
        lambda p: save_file({"x": torch.zeros(1)}, p, {"image_model": "{}"}),
        lambda p: save_file({"x": torch.zeros(1)}, p, {"image_model": "[1]"}),
    ],
)
def test_damaged_and_hostile_files_are_one_line(tmp_path: Path, write) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    with pytest.raises(UserError, match="is no checkpoint of this program, or is damaged") as error:
        read_checkpoint(path)
    assert "\n" not in error.value.message


def test_a_header_that_asks_for_much_builds_nothing(tmp_path: Path) -> None:
    """212 bytes would have made a dense layer of a gigabyte."""
    path = tmp_path / "bomb.safetensors"
    settings = SETTINGS | {"gen_arch": "NU", "image_size": 512}
    record = {"version": 2, "step": 1, "settings": settings, "state": {}}
    save_file({"x": torch.zeros(1)}, path, {"image_model": json.dumps(record)})
    with peak_below(100e6), pytest.raises(UserError, match=r"generator/c1\.\S+ is missing"):
        load_generator(read_checkpoint(path), torch.device("cpu"))


@contextlib.contextmanager
def peak_below(limit: float) -> Iterator[None]:
    """Fails if resident memory was ever higher by `limit` bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < limit


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    network, optimizer = trained()
    with torch.no_grad():
        network.c1.conv.bias[0] = value
    save(tmp_path / "c.safetensors", network, optimizer)
    with pytest.raises(
        UserError, match=r"generator/c1\.conv\.bias with values that are no numbers"
    ):
        load_generator(read_checkpoint(tmp_path / "c.safetensors"), torch.device("cpu"))


def test_a_checkpoint_of_the_future_is_named(tmp_path: Path) -> None:
    record = {"version": 3, "step": 1, "settings": SETTINGS, "state": {}}
    save_file({"x": torch.zeros(1)}, tmp_path / "c", {"image_model": json.dumps(record)})
    with pytest.raises(UserError, match="is of version 3"):
        read_checkpoint(tmp_path / "c")


def test_a_file_cut_short_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(path, *trained())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\S*: there is no such checkpoint"):
        read_checkpoint(tmp_path / "none")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "c.safetensors"
    network, optimizer = trained()
    save(path, network, optimizer)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        save(path, network, optimizer, {"new": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
