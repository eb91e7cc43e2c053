"""Random damage to golden files, and random values that must survive being written."""

import importlib.util
import math
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyescream_py.torch7 import Storage, T7Error, Table, TorchObject, load, save
from eyescream_py.torch7.files.classes import TENSOR_CLASSES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("torch7_load", ROOT / "fuzz" / "torch7_load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_refused_or_read(fuzz, tmp_path):
    done, good = fuzz.run(fuzz.Mutator(7), count=4000, seconds=math.inf, findings=tmp_path)
    assert done == 4000
    assert 0.02 < good / done < 0.8  # the damage is neither hopeless nor harmless


def test_the_same_seed_damages_the_same_way(fuzz):
    first, second = fuzz.Mutator(3), fuzz.Mutator(3)
    assert [first() for _ in range(50)] == [second() for _ in range(50)]


def test_a_finding_is_kept(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "load", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fuzz.run(lambda: b"input", count=1, seconds=1, findings=tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"input"]


def test_damaged_files_take_little_memory(fuzz):
    mutator = fuzz.Mutator(11)
    inputs = [data for data in (mutator() for _ in range(500)) if len(data) < 20_000]
    tracemalloc.start()
    for data in inputs:
        try:
            load(data)
        except T7Error:
            continue
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


DTYPES = sorted(set(TENSOR_CLASSES.values()), key=str)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    bits = draw(st.binary(min_size=0, max_size=40))
    bits = bits[: len(bits) // dtype.itemsize * dtype.itemsize]
    flat = torch.tensor(list(bits), dtype=torch.uint8).view(dtype)
    if flat.numel() % 2 == 0 and flat.numel() and draw(st.booleans()):
        flat = flat.view(2, -1)
        flat = flat.t() if draw(st.booleans()) else flat[1:]
    return flat


numbers = st.floats() | st.integers(-(2**53), 2**53)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
byte_strings = st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape"))
leaves = st.none() | st.booleans() | numbers | strings | byte_strings | tensors()
leaves = leaves | tensors().map(lambda tensor: Storage(tensor.flatten()))
keys = strings | st.booleans() | st.floats(allow_nan=False) | st.integers(-9, 99)


def _branches(children):
    table = st.dictionaries(keys, children, max_size=4).map(Table)
    names = st.sampled_from(["nn.Linear", "nn.Sequential", "cudnn.X"])
    return (
        table
        | st.lists(children, max_size=4)
        | st.lists(children, min_size=1, max_size=2).map(lambda values: [values, values])
        | st.builds(TorchObject, names, table, st.integers(0, 3))
    )


values = st.recursive(leaves, _branches, max_leaves=12)
forms = st.fixed_dictionaries(
    {}, optional={"ascii": st.booleans(), "long_size": st.sampled_from([4, 8])}
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(values, forms)
def test_random_values_survive(value, form):
    try:
        data = save(None, value, **form)
    except T7Error as error:
        assert "4-byte longs" in str(error)  # noqa: PT017
        return
    read = load(data)
    assert same(value, read, bool(form.get("ascii")))
    assert save(None, read, **form) == data


def same(wrote, read, ascii):
    """Whether `read` is what `wrote` becomes; in ASCII the payload of a NaN is not kept."""
    if isinstance(wrote, list):
        wrote = Table.from_list(wrote)
    if isinstance(wrote, Table):
        return list(wrote) == list(read) and all(same(wrote[k], read[k], ascii) for k in wrote)
    if isinstance(wrote, TorchObject):
        return (wrote.typename, wrote.version) == (read.typename, read.version) and same(
            wrote.fields, read.fields, ascii
        )
    if isinstance(wrote, Storage):
        return same(wrote.tensor, read.tensor, ascii)
    if isinstance(wrote, torch.Tensor):
        return same_tensor(wrote, read, ascii)
    if isinstance(wrote, float):
        return wrote == read or (math.isnan(wrote) and math.isnan(read))
    return type(wrote) is type(read) and wrote == read


def same_tensor(wrote, read, ascii):
    if wrote.dtype != read.dtype or wrote.shape != read.shape:
        return False
    if ascii:
        return torch.equal(wrote.nan_to_num(nan=7), read.nan_to_num(nan=7))
    return torch.equal(bits_of(wrote), bits_of(read)) and wrote.stride() == read.stride()


def bits_of(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)
