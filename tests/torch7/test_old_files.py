"""Files as programs of 2014 to 2017 wrote them: older versions of classes, and other layouts."""

import struct

import pytest
import torch

from eyescream_py.torch7 import Table, load, save, to_module


def item(*parts: int | float | str | bytes) -> bytes:
    """Items of a binary file: an int, a double, a string of its length, or bytes as they are."""
    made = b""
    for part in parts:
        if isinstance(part, str):
            made += struct.pack("<i", len(part)) + part.encode()
        elif isinstance(part, bytes):
            made += part
        else:
            made += struct.pack("<d" if isinstance(part, float) else "<i", part)
    return made


def table(index: int, *pairs: bytes) -> bytes:
    """A table of tag 3 from its keys and values."""
    return item(3, index, len(pairs) // 2, *pairs)


def text(value: str) -> bytes:
    return item(2, value)


def number(value: float) -> bytes:
    return item(1, float(value))


SQUARE = item(4, 7, "V 1", "nn.Square", table(8))


@pytest.mark.parametrize("version", [2, 3])
def test_data_parallel_table_writes_its_devices_before_its_fields(version: int) -> None:
    """As cunn's __write of 2016: gpuAssignments, then the fields, of which one is in a cycle."""
    itself = table(10, text("dpt"), item(4, 3))
    fields = table(
        5, text("dimension"), number(1), text("modules"), table(6, number(1), SQUARE),
        text("impl"), item(4, 9, "V 1", "nn.DataParallelTable.Basic", itself),
    )  # fmt: skip
    devices = table(4, number(1), number(1), number(2), number(2))
    network = item(4, 3, f"V {version}", "nn.DataParallelTable", devices, fields)
    data = table(1, text("model"), network, text("epoch"), number(12))
    checkpoint = load(data)
    assert checkpoint["epoch"] == 12
    assert checkpoint["model"].header == Table.from_list([1, 2])
    assert to_module(checkpoint["model"])(torch.tensor([3.0])).item() == 9
    assert save(None, checkpoint).endswith(text("epoch") + number(12))
