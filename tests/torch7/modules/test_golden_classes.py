"""Every network of tests/golden/classes: outputs and gradients are those of the real Lua Torch."""

import pytest

from scripts import class_table

from ..golden_classes import Entry, case_of, compare_output, differences, entries, fault, run

DIFFER = differences()


def marks(entry: Entry) -> list[pytest.MarkDecorator]:
    why = DIFFER.get(entry.name)
    return [pytest.mark.xfail(reason=why)] if why else []


CASES = [pytest.param(entry, id=entry.name, marks=marks(entry)) for entry in entries()]


@pytest.mark.parametrize("entry", CASES)
def test_outputs_and_gradients_are_those_of_lua(entry: Entry) -> None:
    assert fault(entry) == ""


@pytest.mark.parametrize("name", DIFFER)
def test_where_something_differs_it_is_what_the_list_says(name: str) -> None:
    entry = next(entry for entry in entries() if entry.name == name)
    case = case_of(entry)
    tolerance = 1e-5 if DIFFER[name].startswith("gradients: ") else 3e-4
    assert compare_output(case, run(case), tolerance) == ""


def test_the_table_has_the_classes_of_the_code_and_the_networks_that_agree() -> None:
    page = class_table.PAGE.read_text()
    rows = [line.rpartition(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    known = class_table.codecs()
    none = class_table.Tally()
    expected = [class_table.row(name, known[name], none).rpartition(" | ")[0] for name in known]
    assert set(expected) <= set(rows)
    good = len(CASES) - len(DIFFER)
    assert f"{good} of {len(CASES)} agree" in page
