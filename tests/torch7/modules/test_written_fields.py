"""What is written anew has the fields that Lua's own constructors make: backward passes need them.

Held against every golden network, which were saved as they had been built.
"""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, to_module

from ..golden_classes import case_of, entries, objects

# Fields that the classes' methods make themselves where they lack, or only print, or never use.
NOT_NEEDED = {
    "nn.BiSequencer": "backwardModule bwdSeq forwardModule fwdSeq mergeModule mergeSeq",
    "nn.BiSequencerLM": "backwardModule bwdSeq forwardModule fwdSeq mergeModule mergeSeq",
    "nn.SeqBRNN": "backwardModule forwardModule merge",
    "nn.FastLSTM": "i2g o2g",
    "nn.GRU": "i2g o2g",
    "nn.InstanceNormalization": "bn",
    "nn.MuFuRu": "operations ops",
    "nn.Sequencer": "dpnn_mediumEmpty",
}


def kind(value: Any) -> str:
    """As Lua's C code tells fields apart: real tensors are of the network's type, others not."""
    if isinstance(value, Tensor):
        return "real tensor" if value.is_floating_point() else str(value.dtype)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


class Fields:
    """Names that all objects of a class have, what is in them, and lists' smallest lengths."""

    def __init__(self) -> None:
        self.names: dict[str, set[Any]] = {}
        self.kinds: dict[tuple[str, Any], set[str]] = defaultdict(set)
        self.length: dict[tuple[str, Any], int] = {}
        self.versions: dict[str, set[int]] = defaultdict(set)

    def see(self, net: TorchObject) -> None:
        for obj in objects(net):
            if not isinstance(obj.fields, Table):
                continue
            now = set(obj.fields)
            self.versions[obj.typename].add(obj.version)
            self.names[obj.typename] = self.names.get(obj.typename, now) & now
            for name, value in obj.fields.items():
                key = obj.typename, name
                self.kinds[key].add(kind(value))
                if isinstance(value, Table) and name != "modules":
                    self.length[key] = min(self.length.get(key, len(value)), len(value))


@pytest.fixture(scope="module")
def both() -> tuple[Fields, Fields]:
    """Of the golden networks, and of what we write of them."""
    luas, ours = Fields(), Fields()
    for entry in entries():
        net = case_of(entry)["net"]
        luas.see(net)
        try:
            ours.see(from_module(to_module(net, dtype=None), as_read=False))
        except T7Error as error:
            if "no Lua nn class is known" not in error.message:  # one that is written as read only
                raise
    return luas, ours


def test_no_field_is_missing(both: tuple[Fields, Fields]) -> None:
    luas, ours = both
    missing = {
        name: sorted(luas.names[name] - has - set(NOT_NEEDED.get(name, "").split()))
        for name, has in ours.names.items()
        if name in luas.names
    }
    assert len(missing) > 150
    assert {name: fields for name, fields in missing.items() if fields} == {}


def test_fields_are_of_lua_kinds(both: tuple[Fields, Fields]) -> None:
    luas, ours = both
    other = {
        key: (found, luas.kinds[key])
        for key, found in ours.kinds.items()
        if key in luas.kinds and not found <= luas.kinds[key]
    }
    assert other == {}
    shorter = {
        key: (ours.length[key], length)
        for key, length in luas.length.items()
        if key in ours.length and ours.length[key] < length
    }
    assert shorter == {}


def test_versions_are_lua_versions(both: tuple[Fields, Fields]) -> None:
    luas, ours = both
    other = {
        name: (found, luas.versions[name])
        for name, found in ours.versions.items()
        if name in luas.versions and not found <= luas.versions[name]
    }
    assert other == {}


def test_buffers_are_empty() -> None:
    for name, value in anew("nn.Tanh").items():
        assert not isinstance(value, Tensor) or value.numel() == 0, name


def test_layers_of_two_inputs_have_a_buffer_for_each() -> None:
    """Lua resizes gradInput[1] and gradInput[2] of these without asking whether they are there."""
    for name in ("nn.MM", "nn.MV", "nn.DotProduct", "nn.CosineDistance", "nn.TemporalGlimpse"):
        found = anew(name, size=3)["gradInput"]
        assert [type(part) for part in found.to_list()] == [torch.Tensor] * 2


def test_buffers_of_classes_that_no_golden_network_holds() -> None:
    """stnbhwd's BilinearSamplerBHWD.lua and fast-neural-style's GramMatrix.lua."""
    assert anew("nn.BilinearSamplerBHWD")["gradInput"] == {}
    assert anew("nn.GramMatrix", normalize=True)["buffer"].numel() == 0


def anew(name: str, **fields: Any) -> Table:
    written = from_module(to_module(TorchObject(name, Table(fields))), as_read=False).fields
    assert isinstance(written, Table)
    return written
