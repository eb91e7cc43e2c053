"""Every supported class: output, round trip through a file, and fields that make no sense."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save
from eyescream_py.torch7 import to_module as module_of
from eyescream_py.torch7.modules import conversion as registry
from eyescream_py.torch7.modules import fused as modules_fused
from eyescream_py.torch7.modules import graph as modules_graph
from eyescream_py.torch7.modules import recurrent as modules_recurrent

from ..class_cases import PLAIN_CASES, SQUARE, Case, modules, storage, tables
from ..class_cases_images import IMAGE_CASES
from ..golden_classes import golden_classes

CASES = [*PLAIN_CASES, *IMAGE_CASES]
ELSEWHERE = [*modules_graph.CODECS, *modules_recurrent.CODECS, *modules_fused.CODECS]


def fresh(x: Any) -> Any:
    """A copy: layers with Lua's ``inplace`` overwrite their input."""
    return [fresh(entry) for entry in x] if isinstance(x, list) else x.clone()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_class_computes_what_lua_does_and_survives_a_round_trip(case: Case) -> None:
    module = module_of(TorchObject(case.name, Table(case.fields), case.version))
    expected = case.expected(fresh(case.x))
    torch.testing.assert_close(module(fresh(case.x)), expected, rtol=1e-5, atol=1e-5)
    module.eval()
    written = from_module(module, as_read=False)
    again = module_of(load(save(None, written)))
    assert type(again) is type(module)
    assert not again.training
    torch.testing.assert_close(again(fresh(case.x)), module(fresh(case.x)), rtol=0, atol=0)
    for old, new in zip(module.parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new)
    assert {"output", "gradInput", "_type", "train"} <= set(written.fields)


def test_every_class_has_a_case() -> None:
    """Here, among the golden networks, or in a test file of its kind."""
    tested = {case.name.rpartition(".")[2] for case in CASES} | golden_classes()
    elsewhere = {name for codec in ELSEWHERE for name in codec.lua} | {
        "SoftMaxForest",
        "SoftMaxTree",
        "TemporalGlimpse",
    }
    assert set(registry._READERS) <= tested | elsewhere


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([2**40, -(2**63), 1.5, float("nan"), float("inf"), "x", b"x"]),
    st.builds(lambda *shape: torch.zeros(shape), *[st.integers(0, 3)] * 2),
    st.builds(lambda n: torch.arange(n), st.integers(0, 3)),
    st.builds(storage, st.integers(-2, 3), st.integers(-2, 3)),
    st.builds(Table),
    st.builds(lambda n: tables((1, n), (n, n)), st.integers(-1, 2)),
    st.builds(lambda: modules(SQUARE)),
)
COMMON_FIELDS = ["train", "weight", "bias", "dimension", "padding", "eps", "inplace"]


@st.composite
def nonsense(draw: st.DrawFn) -> tuple[Case, dict[str, Any]]:
    """A case and other values for some of its fields."""
    case = draw(st.sampled_from(CASES))
    names = st.sampled_from([*case.fields, *COMMON_FIELDS])
    return case, draw(st.dictionaries(names, NASTY, min_size=1, max_size=4))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(nonsense())
def test_wrong_fields_end_in_t7errors(example: tuple[Case, dict[str, Any]]) -> None:
    case, changes = example
    fields = {**case.fields, **changes}
    try:
        module = module_of(TorchObject(case.name, Table(fields), case.version))
    except T7Error:
        return
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
