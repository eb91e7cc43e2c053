import dataclasses
import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from eyescream_py.srez.checkpoints import (
    checkpoint_path,
    load_generator,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from eyescream_py.srez.steps import build_networks
from eyescream_py.system.errors import UserError

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
        {"width": 1 / 8},
        {"loss_func": "wgan"},
        {"sample_size": 64},
        {"optimizer": "rmsprop"},
    ):
        options = dataclasses.replace(tiny, **change)
        with pytest.raises(UserError, match="same flags"):
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
