"""Every network of tests/golden/classes: outputs and gradients are those of the real Lua Torch."""

from pathlib import Path

import pytest

from .golden_classes import Entry, entries, fault

PENDING = set((Path(__file__).parent / "golden_pending.txt").read_text().split())
pending = pytest.mark.xfail(reason="not yet supported", strict=True)
CASES = [
    pytest.param(entry, id=entry.name, marks=[pending] if entry.name in PENDING else [])
    for entry in entries()
]


@pytest.mark.parametrize("entry", CASES)
def test_outputs_and_gradients_are_those_of_lua(entry: Entry) -> None:
    assert fault(entry) == ""
