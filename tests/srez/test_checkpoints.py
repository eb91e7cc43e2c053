import dataclasses
import json
import struct
from math import nan

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eyescream_py.srez.batches import Batches
from eyescream_py.srez.checkpoints import (
    checkpoint_path,
    load_generator,
    read_checkpoint,
    restore,
    save_checkpoint,
    write_checkpoint,
)
from eyescream_py.srez.options import Options
from eyescream_py.srez.steps import build_networks, train_step
from eyescream_py.system.errors import UserError
from tests.srez.test_batches import random_faces

CPU = torch.device("cpu")


@pytest.fixture
def saved(tiny, tmp_path):
    networks = build_networks(tiny, CPU)
    return networks, save_checkpoint(tmp_path, networks, tiny, 7, 12.5)


def test_round_trip(tiny, saved):
    networks, path = saved
    stored = read_checkpoint(path)
    assert (stored.options, stored.batch, stored.seconds) == (tiny, 7, 12.5)
    other = build_networks(dataclasses.replace(tiny, random_seed=5), CPU)
    restore(other, stored, tiny, path)
    for role in ("generator", "critic"):
        pairs = zip(
            getattr(networks, role).state_dict().values(),
            getattr(other, role).state_dict().values(),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    generator, _ = load_generator(path)
    assert not generator.training


def test_the_one_before_is_kept(tiny, saved, tmp_path):
    networks, path = saved
    save_checkpoint(tmp_path, networks, tiny, 8, 13.0)
    assert read_checkpoint(path).batch == 8
    assert read_checkpoint(path.with_name(path.name + ".old")).batch == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, path.name + ".old"]


def test_resuming_with_other_shapes_is_refused_by_name(tiny, saved):
    _, path = saved
    for change in (
        {"width": 1 / 8}, {"loss_func": "wgan"}, {"loss_func": "wgangp"}, {"sample_size": 64},
        {"optimizer": "rmsprop"}, {"input": "noise"}, {"scale": 2}, {"critic_width": 1 / 8},
    ):  # fmt: skip
        ((name, value),) = change.items()
        options = dataclasses.replace(tiny, **change)
        with pytest.raises(UserError, match=f"--{name}=.*has {value}: give the same flags"):
            restore(build_networks(options, CPU), read_checkpoint(path), options, path)


def test_missing_foreign_and_damaged_files_are_refused(tiny, saved, tmp_path):
    _, path = saved
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(checkpoint_path(tmp_path / "absent"))
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of srez"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    data = path.read_bytes()
    for wrong in (b"", data[:40], data[:-10], b"\xff" * 200):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(path)


def _with_header(path, change):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_numbers_in_a_header_build_nothing(saved):
    """A small file that claims the widest network is refused by its shapes."""
    import tracemalloc

    _, path = saved
    wide = Options(width=64.0, sample_size=128, scale=8)
    metadata = {"format": "srez-2", "options": json.dumps(dataclasses.asdict(wide)), "batch": "1",
                "seconds": "1.0"}  # fmt: skip
    save_file({"generator/a": torch.zeros(1)}, path, metadata)
    assert path.stat().st_size < 3000
    tracemalloc.start()
    with pytest.raises(UserError, match="does not fit its own header"):
        load_generator(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "options",
    ["[" * 100_000, '{"width": 1e300}', '{"width": NaN}', '{"sample_size": 1e9}',
     '{"random_seed": ' + "9" * 400 + "}", '{"optimizer": "sgd"}', '{"learning_beta1": "0.5"}',
     '{"width": true}', '{"crop": null}', '{"batch_size": 1.5}',
     '{"test_list": 7}', '{"bn": []}', '{"sample_size": 64, "scale": 0}', "7", "null"],
)  # fmt: skip
def test_hostile_options_are_refused_in_one_line(saved, options):
    _, path = saved
    _with_header(path, lambda header: header["__metadata__"].__setitem__("options", options))
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_optimizer_is_refused(tiny, saved, tmp_path):
    networks, _ = saved
    train_step(networks, Batches(random_faces(6), tiny, CPU).batch(0), tiny)
    path = save_checkpoint(tmp_path, networks, tiny, 1, 1.0)
    good = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    changes = [
        ("critic_optimizer/0/exp_avg", torch.zeros(1)),
        ("critic_optimizer/0/exp_avg", torch.full_like(good["critic_optimizer/0/exp_avg"], nan)),
        ("critic_optimizer/x/exp_avg", torch.zeros(1)),
        ("critic_optimizer/999/exp_avg", torch.zeros(1)),
        ("critic_optimizer/0/other", torch.zeros_like(good["critic_optimizer/0/exp_avg"])),
    ]
    for name, value in changes:
        save_file({**good, name: value}, path, metadata)
        with pytest.raises(UserError, match=r"optimizer is damaged|are no numbers"):
            restore(build_networks(tiny, CPU), read_checkpoint(path), tiny, path)


def test_a_generator_alone_enlarges_and_does_not_resume(tiny, saved):
    _, path = saved
    stored = read_checkpoint(path)
    alone = {n: t for n, t in stored.tensors.items() if n.startswith("generator/")}
    write_checkpoint(path, dataclasses.replace(stored, tensors=alone, grey=True))
    generator, again = load_generator(path)
    assert again.grey
    assert not generator.training
    with pytest.raises(UserError, match="generator alone"):
        restore(build_networks(tiny, CPU), again, tiny, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch", "many"), ("options", "[]"), ("options", '{"width": "wide"}'), ("options", "{")],
)
def test_damaged_headers_are_refused(saved, key, value):
    _, path = saved
    _with_header(path, lambda header: header["__metadata__"].__setitem__(key, value))
    with pytest.raises(UserError, match="header is damaged"):
        read_checkpoint(path)


def test_a_header_that_lies_about_the_network_is_refused(tiny, saved):
    _, path = saved
    wider = json.dumps(dataclasses.asdict(dataclasses.replace(tiny, width=0.25)))
    _with_header(path, lambda header: header["__metadata__"].__setitem__("options", wider))
    with pytest.raises(UserError, match="does not fit its own header"):
        load_generator(path)
