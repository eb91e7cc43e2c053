"""Tables, and what `save` makes of Python's values."""

import io
import math
import os

import numpy as np
import pytest
import torch

from eyescream_py import torch7
from eyescream_py.torch7 import LuaFunction, Storage, T7Error, Table, TorchObject, load, save


def again(value, **form):
    return load(save(None, value, **form))


def test_table_keys_are_told_apart_as_lua_does():
    table = Table([(1, "one"), (True, "yes"), (0, "zero"), (False, "no")])
    assert len(table) == 4
    assert (table[1], table[1.0], table[True], table[0], table[False]) == (
        "one",
        "one",
        "yes",
        "zero",
        "no",
    )
    table[2.0] = "two"
    assert 2 in table
    assert table.get(2) == table.pop(2.0) == table.setdefault(2, "two") == "two"
    assert True in table
    del table[True]
    assert True not in table
    assert 1 in table


def test_boolean_and_number_keys_survive():
    assert save(None, again({1: "a"} | {2: "b"})) == save(None, {1: "a", 2: "b"})
    table = Table([(1, "one"), (True, "yes")])
    assert again(table) == table
    assert [isinstance(key, int) for key in again(table)] == [True, False]


def test_tables_from_and_to_lists():
    table = Table.from_list("abc")
    assert table == {1: "a", 2: "b", 3: "c"}
    table["name"], table[5] = "x", "after a gap"
    assert table.to_list() == ["a", "b", "c"]
    assert Table().to_list() == []


def test_tables_are_hashed_by_identity_and_can_be_keys():
    inner = Table({"a": 1})
    outer = Table({inner: "table as key"})
    assert outer[inner] == "table as key"
    assert Table({"a": 1}) not in outer
    (key,) = again(outer)
    assert key == {"a": 1}


def test_table_constructors_and_copies_keep_the_rules():
    table = Table([(2.0, "two")], name="x")
    table.update({True: "yes"}, other=1)
    assert table.copy() == table == {2: "two", "name": "x", True: "yes", "other": 1}
    assert isinstance(table.copy(), Table)


@pytest.mark.parametrize(
    "number", [0, -1, 2**53, -(2**53), 0.5, 1e300, 5e-324, math.inf, -math.inf]
)
@pytest.mark.parametrize("ascii", [False, True])
def test_numbers_survive(number, ascii):
    read = again(number, ascii=ascii)
    assert read == number
    assert type(read) is type(number) or number in (1e300,)


@pytest.mark.parametrize("ascii", [False, True])
def test_signs_of_zero_and_nan_survive(ascii):
    for number in (-0.0, math.copysign(math.nan, -1), math.nan):
        read = again(number, ascii=ascii)
        assert math.copysign(1, read) == math.copysign(1, number)
        assert math.isnan(read) == math.isnan(number)


def test_an_integer_that_no_double_holds_is_refused():
    assert again(2**60) == 2.0**60
    for number in (2**53 + 1, 10**400, np.int64(2**53 + 1)):
        with pytest.raises(
            T7Error, match=r"is no double, and all numbers of Lua are \(in opt.seed"
        ):
            save(None, {"opt": {"seed": number}})


def test_python_values_become_luas():
    read = again(
        {
            "list": ["a", ("b", None)],
            "bytes": b"\xff\x00",
            "numpy": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("s")],
        }
    )
    assert read["list"].to_list()[1].to_list()[0] == "b"
    assert read["bytes"].encode("utf-8", "surrogateescape") == b"\xff\x00"
    assert read["numpy"].to_list() == [0.5, 3, True, "s"]


def test_arrays_become_tensors():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    read = again([array, array, array[:, ::-1], np.array(2.5), np.zeros((0, 3))])
    assert read[1] is read[2]
    assert torch.equal(read[1], torch.from_numpy(array))
    assert read[3].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert read[4].tolist() == [2.5]
    assert read[5].shape == (0,)
    readonly = np.ones(2)
    readonly.flags.writeable = False
    assert again(readonly).tolist() == [1, 1]


def test_dtypes_that_torch7_lacks():
    read = again([torch.tensor([True, False]), torch.tensor([1.5], dtype=torch.bfloat16)])
    assert read[1].dtype is torch.uint8
    assert read[2].dtype is torch.float32
    assert (read[1].tolist(), read[2].tolist()) == ([1, 0], [1.5])
    for tensor in (torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()):
        with pytest.raises(T7Error, match="cannot hold"):
            save(None, tensor)
    with pytest.raises(T7Error, match="cannot hold an array of <U1"):
        save(None, np.array(["a"]))
    with pytest.raises(T7Error, match="no masks: give the array's filled"):
        save(None, np.ma.array([1.0, 2.0], mask=[False, True]))
    with pytest.raises(T7Error, match=r"cannot hold a value of type complex \(in a.2\)"):
        save(None, {"a": [1, 1j]})


def test_views_are_written_as_views_of_one_memory():
    base = torch.arange(12.0).view(3, 4)
    data = save(None, {"base": base, "row": base[1], "column": base[:, 2], "t": base.t()})
    assert data.count(b"torch.FloatStorage") == 1
    read = load(data)
    read["base"][1, 2] = -1
    assert (read["row"][2], read["column"][1], read["t"][2, 1]) == (-1, -1, -1)
    assert read["t"].stride() == (1, 4)


def test_parameters_and_scalars():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    read = again([parameter, torch.tensor(7)])
    assert not read[1].requires_grad
    assert read[2].tolist() == [7]


def test_long_storages_in_both_sizes():
    storage = Storage(torch.tensor([3, -1, 2**31 - 1]))
    for long_size in (4, 8):
        read = again(storage, long_size=long_size)
        assert (read.typename, read.tolist()) == ("torch.LongStorage", [3, -1, 2**31 - 1])
    assert (len(storage), list(storage), storage[1]) == (3, [3, -1, 2**31 - 1], -1)
    with pytest.raises(T7Error, match="values that 4-byte longs cannot"):
        save(None, Storage(torch.tensor([2**31])), long_size=4)


@pytest.mark.parametrize("kind", ["Cuda", "CudaHalf", "CudaLong", "Cl"])
def test_classes_of_other_devices_are_kept(kind):
    named = save(None, {"x": torch.ones(3)}).replace(b"\x11\0\0\0torch.FloatTensor", b"TENSOR")
    dtypes = {"CudaHalf": torch.float16, "CudaLong": torch.int64}
    tensor = torch.ones(3, dtype=dtypes.get(kind, torch.float32))
    tensor.t7_class = (f"torch.{kind}Tensor", 1)
    data = save(None, {"x": tensor, "view": tensor[1:]})
    assert f"torch.{kind}Tensor".encode() in data
    assert f"torch.{kind}Storage".encode() in data
    assert save(None, load(data)) == data
    assert named.count(b"TENSOR") == 1


def test_versions():
    normalization = TorchObject("nn.BatchNormalization", Table(eps=1e-5), version=2)
    data = save(None, normalization)
    assert b"V 2\x15\0\0\0nn.BatchNormalization" in data
    old = TorchObject("nn.Linear", Table(weight=torch.ones(1)), version=0)
    old.fields["weight"].t7_class = ("torch.FloatTensor", 0)
    data = save(None, old)
    assert b"V " not in data
    read = load(data)
    assert (read.typename, read.version) == ("nn.Linear", 0)
    assert save(None, read) == data


def test_functions_of_all_tags_survive():
    upvalues = Table.from_list([Table(name="up", value=2)])
    recursive = LuaFunction(8, b"\x1bLJ\x02code", upvalues)
    upvalues[1]["value"] = recursive
    read = again([LuaFunction(6, b"old", Table()), LuaFunction(7, b"legacy", Table()), recursive])
    assert [read[k].tag for k in (1, 2, 3)] == [6, 7, 8]
    assert [read[k].code for k in (1, 2, 3)] == [b"old", b"legacy", b"\x1bLJ\x02code"]
    assert read[3].upvalues[1]["value"] is read[3]


def test_unreferenced():
    shared = Table(a=1)
    read = again({"x": shared, "y": shared}, referenced=False)
    assert read["x"] == read["y"]
    assert read["x"] is not read["y"]
    shared["me"] = shared
    with pytest.raises(T7Error, match="contains itself needs referenced=True"):
        save(None, shared, referenced=False)


@pytest.mark.parametrize("form", [{}, {"ascii": True}, {"long_size": 4}])
def test_paths_files_and_bytes_are_the_same(tmp_path, form):
    value = {"x": torch.randn(300, 400), "text": "a" * 300_000}
    data = save(None, value, **form)
    save(tmp_path / "a.t7", value, **form)
    save(str(tmp_path / "b.t7"), value, **form)
    assert (tmp_path / "a.t7").read_bytes() == (tmp_path / "b.t7").read_bytes() == data
    for source in (tmp_path / "a.t7", data, bytearray(data), memoryview(data), io.BytesIO(data)):
        read = load(source)
        assert torch.equal(read["x"], value["x"])
        assert read["text"] == value["text"]


def test_a_file_object_is_left_behind_the_value():
    file = io.BytesIO()
    file.write(b"header")
    for value in ("first", torch.ones(3), "third"):
        save(file, value)
    file.seek(6)
    assert load(file) == "first"
    assert load(file).tolist() == [1, 1, 1]
    assert load(file) == "third"
    with pytest.raises(T7Error, match="it is empty"):
        load(file)


def test_a_pipe_can_be_read():
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        save(file, [1, "two"])
    with os.fdopen(reading, "rb") as file:
        assert load(file)[2] == "two"


def test_what_is_read_can_be_written_to_and_outlives_the_file(tmp_path):
    save(tmp_path / "a.t7", torch.zeros(200_000))
    read = load(tmp_path / "a.t7")
    (tmp_path / "a.t7").write_bytes(b"")
    read += 1
    assert read.sum() == 200_000


def test_public_names():
    assert set(torch7.__all__) >= {
        "load",
        "save",
        "to_module",
        "from_module",
        "TorchObject",
        "Table",
        "T7Error",
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = torch7.nothing
    with pytest.raises(ValueError, match="long_size must be"):
        load(b"", long_size=5)
    with pytest.raises(ValueError, match="long_size must be"):
        save(None, 1, long_size=2)


ODD_OBJECTS = [
    TorchObject("torch.Generator", bytes(range(256)) * 19 + bytes(184)),
    TorchObject("torch.Timer", None),
    TorchObject("tds.Vec", Table.from_list([1, "a", Table(x=1)]), 0),
    TorchObject("tds.Hash", Table(k=2), 0),
    TorchObject("tds.Hash", Table(), 0),
    TorchObject("nn.GPU", Table(device=2), header=Table.from_list(["torch.CudaTensor", 2])),
    TorchObject("nn.DataParallelTable", Table(dimension=1), 3, Table.from_list([1, 2])),
    TorchObject("nn.DataParallelTable", Table(dimension=1), 1),
]


@pytest.mark.parametrize("form", [{}, {"ascii": True}])
def test_objects_that_are_not_one_table_of_fields(form):
    values = load(save(None, [*ODD_OBJECTS, "end", ODD_OBJECTS[0]], **form)).to_list()
    for old, new in zip(ODD_OBJECTS, values, strict=False):
        assert (new.typename, new.fields, new.version) == (old.typename, old.fields, old.version)
        assert new.header == old.header
    assert values[-2] == "end"
    assert values[-1] is values[0]


def test_generators_of_4_byte_longs_are_smaller():
    state = bytes(range(256)) * 9 + bytes(240)
    generator = TorchObject("torch.Generator", state)
    value = load(save(None, [generator, torch.arange(3)], long_size=4))
    assert value[1].fields == state
    with pytest.raises(T7Error, match="5048 bytes"):
        save(None, generator)


def test_a_cut_hash_is_refused():
    data = save(None, TorchObject("tds.Hash", Table(a=1, b=2), 0))
    with pytest.raises(T7Error, match="truncated"):
        load(data[:-9])
    with pytest.raises(T7Error):
        load(data.replace(b"\2\0\0\0\0\0\0\0\2", b"\2\0\0\0\0\1\0\0\2", 1))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_ascii_file_from_an_editor_of_windows(mark, end, tmp_path):
    values = {"words": "two", "x": torch.arange(6.0).reshape(2, 3), 3.0: [True, "", 1.5]}
    lines = save(None, values, ascii=True)
    path = tmp_path / "A.T7"
    path.write_bytes(mark + lines.replace(b"\n", end))
    for turned in (load(path), load(path.read_bytes(), ascii=True)):
        assert save(None, turned, ascii=True) == save(None, load(lines), ascii=True)
    with pytest.raises(T7Error, match="this file is ASCII"):
        load(path, ascii=False)


def test_a_mark_alone_is_no_ascii_file():
    for data in (b"\xef\xbb\xbf", b"\xef\xbb\xbf\1\0\0\0", b"\xef\xbb\xbf9\n"):
        with pytest.raises(T7Error, match="it begins with"):
            load(data)


def test_empty_storages_in_ascii_leave_no_trace():
    empty = Storage(torch.empty(0, dtype=torch.int64))
    assert save(None, empty, ascii=True).endswith(b"torch.LongStorage\n0\n")


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_an_ascii_file_that_an_editor_of_windows_saved(ends, tmp_path):
    save(tmp_path / "a.t7", {"x": torch.arange(3.0), "text": "a"}, ascii=True)
    text = b"\xef\xbb\xbf" + (tmp_path / "a.t7").read_bytes().replace(b"\n", ends)
    assert load(text)["x"].tolist() == [0, 1, 2]
    assert load(text)["text"] == "a"


@pytest.mark.parametrize("field", ["batchsize", "inputSize", "outputSize"])
def test_sizes_that_lua_never_filled_are_cut_to_4_bytes(field):
    """nn.Reshape makes such a storage; in a file of 64 bits any number may stand there."""
    sizes = Storage(torch.tensor([2**40 + 7, 6]))
    layer = TorchObject("nn.Reshape", Table({field: sizes}))
    assert load(save(None, [layer, 1], long_size=4))[1].fields[field].tolist() == [7, 6]
    for filled in (Table(size=sizes), Table({field: sizes.tensor}), sizes):
        with pytest.raises(T7Error, match="4-byte longs cannot"):
            save(None, filled, long_size=4)
