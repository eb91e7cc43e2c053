"""Damaged, foreign and hostile files: a distinct error with its byte offset, and little memory."""

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

from eyescream_py.torch7 import Limits, T7Error, Table, TorchObject, load, save

GOLDEN = Path(__file__).parents[2] / "golden"


def i32(*values):
    return struct.pack(f"<{len(values)}i", *values)


def i64(*values):
    return struct.pack(f"<{len(values)}q", *values)


def chars(text):
    return i32(len(text)) + text


def head(index, name, version=b"V 1"):
    return i32(4, index) + (chars(version) if version else b"") + chars(name)


def float_storage(index, *values, size=None):
    count = len(values) if size is None else size
    data = struct.pack(f"<{len(values)}f", *values)
    return head(index, b"torch.FloatStorage") + i64(count) + data


def float_tensor(shape, strides, offset, storage):
    layout = i32(len(shape)) + i64(*shape) + i64(*strides) + i64(offset)
    return head(1, b"torch.FloatTensor") + layout + storage


STORAGE = float_storage(2, 1, 2, 3, 4)
NUMBER = i32(1) + struct.pack("<d", 2.5)


def test_the_builder_of_these_files_makes_good_ones():
    tensor = load(float_tensor((2, 2), (1, 2), 1, STORAGE))
    assert tensor.tolist() == [[1, 3], [2, 4]]


BAD_FILES = {
    "empty": (b"", "not a Torch 7 file: it is empty", 0),
    "zip": (b"PK\x03\x04rest", "it is a zip archive", 0),
    "pickle": (pickle.dumps({"a": 1}), "it is a Python pickle", 0),
    "html": (b"\n<!DOCTYPE html><html>", "it is an HTML or XML page", 0),
    "gzip": (b"\x1f\x8b\x08\x00rest", "compressed with gzip", 0),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", 0),
    "safetensors": (save_safetensors({"a": torch.ones(2)}), "it is a safetensors file", 0),
    "numpy": (b"\x93NUMPY\x01\x00v\x00", "it is a NumPy array", 0),
    "matlab": (b"MATLAB 5.0 MAT-file", "it is a MATLAB file", 0),
    "xz": (b"\xfd7zXZ\x00rest", "compressed with xz", 0),
    "no file": (b"404: Not Found", "the download gave no file", 0),
    "big endian": (struct.pack(">4i", 3, 1, 1, 9), "truncated: a table of 1 pairs, but 4", 8),
    "big endian tag": (struct.pack(">2i", 9, 0), "not a Torch 7 file: it begins with", 0),
    "text": (b"hello there", "not a Torch 7 file: it begins with b'hello th'", 0),
    "tag alone": (i32(1), "truncated: a number of 8 bytes, but 0 remain", 4),
    "half a tag": (i32(3, 1, 1) + b"\1", "truncated: a table of 1 pairs, but 1 bytes remain", 8),
    "bad tag": (i32(3, 1, 2) + NUMBER + i32(9) + bytes(20), "bad tag 9", 24),
    "bad boolean": (i32(5, 2), "bad boolean 2", 4),
    "huge string": (i32(2, 2**31 - 1), "a string of size 2147483647 is above the limit", 4),
    "long string": (i32(2, 100) + b"abc", "truncated: a string of 100 bytes, but 3 remain", 8),
    "negative string": (i32(2, -1), "negative size -1 of a string", 4),
    "huge table": (i32(3, 1, 10**9), "truncated: a table of 1000000000 pairs", 8),
    "negative table": (i32(3, 1, -5), "negative size -5 of a table", 8),
    "nil key": (i32(3, 1, 1, 0) + NUMBER, "a table key that is nil", 12),
    "nan key": (
        i32(3, 1, 1, 1) + struct.pack("<d", float("nan")) + NUMBER,
        "a table key that is nan",
        12,
    ),
    "index zero": (i32(3, 0, 0), "bad reference: index 0 is not positive", 4),
    "other kind": (
        i32(3, 1, 1) + NUMBER + i32(4, 1) + bytes(8),
        "bad reference: index 1 is of another kind",
        28,
    ),
    "own content": (head(1, b"nn.X") + i32(4, 1), "bad reference: nn.X is its own content", 23),
    "unknown class": (head(1, b"torch.DiskFile") + bytes(99), "unknown class torch.DiskFile", 8),
    "binary class": (head(1, b"nn.\xff\0") + bytes(99), "is not the name of a class", 8),
    "huge storage": (
        float_storage(1, 1.0, size=2**39),
        "truncated: a storage of 2199023255552 bytes, but 4 remain",
        45,
    ),
    "negative storage": (float_storage(1, size=-1), "negative size -1 of a storage", 37),
    "dimensions": (
        head(1, b"torch.FloatTensor") + i32(10**6) + bytes(64),
        "a tensor's shape of size 1000000 is above the limit of 64",
        36,
    ),
    "negative dimensions": (
        head(1, b"torch.FloatTensor") + i32(-2) + bytes(64),
        "negative size -2 of a tensor's shape",
        36,
    ),
    "negative shape": (
        float_tensor((-2,), (1,), 1, STORAGE),
        "negative size or zero in shape (-2,)",
        36,
    ),
    "negative stride": (
        float_tensor((2,), (-1,), 2, STORAGE),
        "negative size or zero in shape",
        36,
    ),
    "beyond": (float_tensor((5,), (1,), 1, STORAGE), "tensor beyond its storage", 36),
    "stride beyond": (float_tensor((2,), (4,), 1, STORAGE), "tensor beyond its storage", 36),
    "offset beyond": (float_tensor((4,), (1,), 2, STORAGE), "tensor beyond its storage", 36),
    "offset zero": (float_tensor((4,), (1,), 0, STORAGE), "tensor beyond its storage", 36),
    "overflowing": (
        float_tensor((2, 2), (2**62, 2**62), 1, STORAGE),
        "tensor beyond its storage",
        36,
    ),
    "no storage": (float_tensor((4,), (1,), 1, i32(0)), "tensor beyond its storage", 36),
    "expanded bomb": (
        float_tensor((2**40, 2**40), (0, 0), 1, STORAGE),
        "a tensor of size 1208925819614629174706176 is above the limit",
        36,
    ),
    "own storage": (float_tensor((4,), (1,), 1, i32(4, 1)), "index 1 is of another kind", 68),
    "number as storage": (float_tensor((4,), (1,), 1, NUMBER), "bad tag 1 where", 64),
    "storage of another class": (
        float_tensor((1,), (1,), 1, head(2, b"torch.ByteStorage") + i64(4) + bytes(4)),
        "torch.ByteStorage as the storage of a torch.FloatTensor",
        64,
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_has_its_own_error(case):
    data, message, offset = BAD_FILES[case]
    with pytest.raises(T7Error) as error:
        load(data)
    assert message in str(error.value)
    assert error.value.offset == offset


BAD_ASCII = {
    "no number": (b"3\n1\nmany\n", "a number expected, found b'many'", 4),
    "two": (b"3\n1 1\n0\n", "a line of 1 numbers expected, found 2", 2),
    "ends": (b"3\n1\n", "truncated: a line of numbers expected, but the file ends", 4),
    "large": (b"3\n99999999999\n0\n", "an integer of 32 bits expected", 2),
    "string": (b"2\n50\nabc\n", "truncated: a string of 50", 5),
    "storage": (b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n9999\n1 2\n", "truncated: a storage", 35),
    "few": (
        b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n2\n123\n5\n1\n",
        "a line of 2 numbers expected, found 1",
        32,
    ),
    "many": (
        b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n2\n1 2 3\n",
        "a line of 2 numbers expected, found 3",
        32,
    ),
    "range": (
        b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n1\n3000000000\n",
        "a number that no element of torch.int32 holds",
        32,
    ),
    "beyond 64 bits": (
        b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n1\n623058430092136939527\n",
        "a number that no element of torch.int32 holds",
        32,
    ),
    "float": (
        b"4\n1\n3\nV 1\n16\ntorch.IntStorage\n1\n1.5\n",
        "a number expected, found b'1.5'",
        32,
    ),
}


@pytest.mark.parametrize("case", BAD_ASCII)
def test_bad_ascii_file_has_its_own_error(case):
    data, message, offset = BAD_ASCII[case]
    with pytest.raises(T7Error) as error:
        load(data)
    assert message in str(error.value)
    assert error.value.offset == offset


def test_a_class_is_not_called_like_a_version():
    """Found by fuzzing: written again without its version, such an object would read as another."""
    header, name = b"V 0", b"V 7"
    data = bytearray()
    for word in (4, 1):  # an object, the first
        data += word.to_bytes(4, "little")
    for text in (header, name):
        data += len(text).to_bytes(4, "little") + text
    data += bytes(4)  # nil, its content
    with pytest.raises(T7Error, match="b'V 7' is not the name of a class"):
        load(bytes(data))


@pytest.mark.parametrize("name", ["V 7", "", "7up", "nn.\n"])
def test_what_could_not_be_read_again_is_not_written(name):
    with pytest.raises(T7Error, match="is not the name of a class"):
        save(None, TorchObject(name, Table()))


def test_wrong_long_size_is_named():
    for name, stated in (("zoo_b32.t7", 8), ("zoo.t7", 4)):
        with pytest.raises(T7Error, match="wrong long size: this file has"):
            load(GOLDEN / name, long_size=stated)


def test_ascii_opened_as_binary_and_the_reverse():
    with pytest.raises(T7Error, match="this file is ASCII, but was opened as binary"):
        load(GOLDEN / "zoo_ascii.t7", ascii=False)
    with pytest.raises(T7Error, match="this file is not ASCII, but was opened as such"):
        load(GOLDEN / "zoo.t7", ascii=True)


@pytest.mark.parametrize("name", ["zoo.t7", "zoo_ascii.t7", "zoo_b32.t7"])
def test_every_shortened_file_is_refused(name):
    data = (GOLDEN / name).read_bytes()
    last = len(data) - (2 if "ascii" in name else 1)  # the last newline may be missing
    for length in [*range(0, last, 11), last]:
        with pytest.raises(T7Error):
            load(data[:length])


def test_file_that_shrinks_while_it_is_read(tmp_path):
    class Shrinking(io.BytesIO):
        def read(self, count=-1):
            return super().read(min(count, 8))

    with pytest.raises(T7Error, match="became shorter while it was read"):
        load(Shrinking(STORAGE))


@pytest.mark.parametrize("case", ["huge string", "huge table", "huge storage", "expanded bomb"])
def test_claimed_sizes_allocate_nothing(case):
    tracemalloc.start()
    with pytest.raises(T7Error):
        load(BAD_FILES[case][0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_limits_can_be_lowered_and_raised():
    nested = save(None, [[["text"]], torch.zeros(3)])
    for limits, message in [
        (Limits(depth=2), "nested deeper than the limit of 2"),
        (Limits(objects=4), "more objects than the limit of 4"),
        (Limits(string_bytes=3), "a string of size 4 is above the limit of 3"),
        (Limits(elements=2), "a tensor of size 3 is above the limit of 2"),
        (Limits(dimensions=0), "a tensor's shape of size 1 is above the limit of 0"),
    ]:
        with pytest.raises(T7Error, match=message):
            load(nested, limits=limits)
    exactly = Limits(depth=3, objects=5, string_bytes=18, elements=3, dimensions=1)
    assert load(nested, limits=exactly)[1][1][1] == "text"
    wide = float_tensor((1,) * 65, (1,) * 65, 1, STORAGE)
    with pytest.raises(T7Error, match="limit of 64"):
        load(wide)
    assert load(wide, limits=Limits(dimensions=65)).dim() == 65


def test_depth_is_not_bounded_by_recursion():
    value = "bottom"
    for level in range(20_000):
        value = Table({1: value}) if level % 2 else TorchObject("nn.Deep", Table(inner=value))
    data = save(None, value)
    read = load(data)
    assert save(None, read) == data
    levels = 0
    while read != "bottom":
        read = read[1] if isinstance(read, Table) else read.fields["inner"]
        levels += 1
    assert levels == 20_000


def test_a_text_file_object_is_refused(tmp_path):
    (tmp_path / "a.t7").write_text("3\n")
    with (tmp_path / "a.t7").open() as file, pytest.raises(T7Error, match="mode 'rb'"):
        load(file)


def test_swapped_or_missing_arguments_are_told(tmp_path):
    with pytest.raises(TypeError, match=r"save\(target, value\): the target is .* not Table"):
        save(Table(a=1), tmp_path / "a.t7")
    with pytest.raises(TypeError, match="load takes a path, bytes or a binary file, not NoneType"):
        load(None)
    assert not list(tmp_path.iterdir())


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.t7")


class Breaks:
    """A value that no file can hold, after one that fills a buffer."""


@pytest.mark.parametrize("through_link", [False, True])
def test_a_save_that_fails_leaves_the_file_that_stood_there(tmp_path, through_link):
    path = tmp_path / "a.t7"
    save(path, torch.arange(4.0))
    before, name = path.read_bytes(), path
    if through_link:
        name = tmp_path / "link.t7"
        name.symlink_to(path)
    with pytest.raises(T7Error):
        save(name, [torch.rand(1 << 18), Breaks()])
    assert path.read_bytes() == before
    assert name.is_symlink() == through_link
    save(name, torch.arange(5.0))
    assert load(path).tolist() == [0, 1, 2, 3, 4]
    assert name.is_symlink() == through_link
    assert sorted(tmp_path.iterdir()) == sorted({path, name})


def test_a_save_replaces_nothing_before_its_end(tmp_path, monkeypatch):
    path = tmp_path / "a.t7"
    save(path, 1)
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(load(path)))
    save(path, 2)
    assert seen == [1]
    assert load(path) == 2


def test_a_name_as_long_as_names_can_be_is_saved(tmp_path):
    save(path := tmp_path / ("ä" * 125 + ".t7"), 3)
    assert load(path) == 3


def test_save_to_a_pipe_writes_to_it(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        save(pipe, 7)
        assert load(os.read(reader, 100)) == 7
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["", ".", "nowhere/a.t7"])
def test_what_is_no_file_is_an_os_error_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, IsADirectoryError)) as error:
        save(name, 1)
    assert error.value.filename in (name, str(tmp_path / name), str(tmp_path))
    assert not list(tmp_path.iterdir())
