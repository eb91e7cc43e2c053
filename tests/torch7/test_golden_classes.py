"""Every network of tests/golden/classes: outputs and gradients are those of the real Lua Torch."""

from pathlib import Path

import pytest

from scripts import class_table

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


def test_the_table_has_the_classes_of_the_code_and_the_networks_that_agree() -> None:
    page = class_table.PAGE.read_text()
    rows = [line.rpartition(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    known = class_table.codecs()
    none = class_table.Tally()
    expected = [class_table.row(name, known[name], none).rpartition(" | ")[0] for name in known]
    assert set(expected) <= set(rows)
    good = len(CASES) - len(PENDING)
    assert f"{good} of {len(CASES)} agree" in page
