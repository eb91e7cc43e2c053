"""Files of other programs, given by mistake: one line each that says what they are."""

import gzip
import io
import math
import pickle
import tarfile

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.torch7 import T7Error, load, save
from eyescream_py.torch7.__main__ import main


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("models/net.t7")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(bytes(4)))
    return buffer.getvalue()


def pth(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer, **options)
    return buffer.getvalue()


FILES = [
    (tar(), "a tar archive: unpack it first"),
    (gzip.compress(bytes(4), mtime=0), "compressed with gzip: unpack it first"),
    (pth(), "a zip archive"),
    (pth(_use_new_zipfile_serialization=False), "a Python pickle"),
    (pickle.dumps({"a": [1]}, 0), "a Python pickle"),
    (pickle.dumps([1], 1), "a Python pickle"),
    (b"\x08\x09\x12\x07pytorch\x1a\x052.0.0", "an ONNX model"),
    (b"\x0a\x07AlexNet\x12\x04data" + bytes(9), "protocol buffers"),
    (b"\n", "it begins with b'\\\\n'"),
    (b"\n\x07", "it begins with b'\\\\n"),
    (b"\x1c\0\0\0TFL3" + bytes(90), "a TensorFlow Lite model"),
    (b"\x1bLJ\2\n", "a compiled Lua program"),
    (b"\n-- a program\nrequire 'nn'\n", "it begins with b'\\\\n-- a p"),
    (bytes(900), "it begins with nil \\(zeros\\), and 896 bytes follow"),
]


@pytest.mark.parametrize(("data", "words"), FILES)
def test_other_files_are_named(data, words, tmp_path):
    path = tmp_path / "model.t7"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(T7Error, match=words):
            load(source)


def test_nil_is_a_value_by_itself_and_in_a_stream():
    assert load(save(None, None)) is None
    stream = io.BytesIO(save(None, None) + save(None, 7))
    assert [load(stream), load(stream)] == [None, 7]


@pytest.mark.parametrize("ascii", [False, True])
def test_what_follows_the_first_value_is_told(ascii, tmp_path):
    first, second = (save(None, value, ascii=ascii) for value in ({"a": 1}, {"b": 2}))
    for rest, told in [(second, f"{len(second)} bytes follow"), (b"\n\n" * ascii, "")]:
        path = tmp_path / "two.t7"
        path.write_bytes(first + rest)
        done = CliRunner().invoke(main, ["show", str(path)])
        assert done.exit_code == 0
        assert done.stdout == "a: 1\n"
        assert done.stderr.count("\n") == bool(told)
        assert told in done.stderr


def test_decimal_commas_of_a_locale_in_an_ascii_file():
    values = {"x": torch.tensor([0.5, -1.25, 3.0]), "rate": 0.0625, "text": "1.5"}
    lines = save(None, values, ascii=True)
    turned = lines.replace(b"0.5 ", b"0,5 ").replace(b"-1.25", b"-1,25")
    turned = turned.replace(b"0.0625", b"0,0625")
    assert turned.count(b",") == 3
    assert save(None, load(turned), ascii=True) == lines
    with pytest.raises(T7Error, match="a number expected"):
        load(turned.replace(b"0,0625", b"0,06,25"))


def test_infinity_and_nan_of_windows_in_an_ascii_file():
    """printf of Microsoft's runtime, until 2015 and since; as elements and as numbers."""
    for nan, minus_nan in ((b"1.#QNAN", b"-1.#IND"), (b"1.#SNAN", b"-nan(ind)"), (b"nan", b"-nan")):
        for inf in (b"1.#INF", b"1.#INF000", b"inf"):
            line = b" ".join([b"0.5", inf, b"-" + inf, nan, minus_nan])
            storage = b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n5\n" + line + b"\n"
            values = load(storage).tensor
            assert values[:3].tolist() == [0.5, math.inf, -math.inf]
            assert values.isnan().tolist() == [False] * 3 + [True] * 2
            assert values.signbit().tolist() == [False, False, True, False, True]
            assert load(b"1\n-" + inf.replace(b".", b",") + b"\n") == -math.inf
    for wrong in (b"1.#INFO", b"2.#INF", b"1.#", b"nan(", b"1.#J", b"#"):
        with pytest.raises(T7Error, match="a number expected, found"):
            load(b"1\n" + wrong + b"\n")
