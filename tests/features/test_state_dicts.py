"""A stranger's file of tensors is only a file."""

import contextlib
import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eyescream_py.features.state_dicts import read_state_dict
from eyescream_py.system.errors import UserError


class Bytes:
    """Unpickles as a million zero bytes: torch's own reader would make them."""

    def __reduce__(self):
        return bytearray, (10**6,)


class Shell:
    def __reduce__(self):
        import os

        return os.system, ("touch planted",)


def rezipped(source, target, compression):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saved_comes_back(tmp_path, zipped):
    state = OrderedDict(a=torch.randn(3, 4), b=nn.Parameter(torch.ones(2).half()))
    state["c"] = torch.tensor(3)
    path = tmp_path / "mine.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    got = read_state_dict(path)
    assert all(torch.equal(got[name], state[name]) for name in state)
    assert not got["b"].requires_grad


@pytest.mark.parametrize("value", [Bytes(), Shell()])
@pytest.mark.parametrize("zipped", [True, False])
def test_anything_beside_tensors_is_refused_unread(tmp_path, monkeypatch, value, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": value}, "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"bad\.pth: holds '.*' beside tensors; not opened"):
        read_state_dict("bad.pth")
    assert not (tmp_path / "planted").exists()


def test_zip_bombs_are_refused_unread(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    rezipped(tmp_path / "plain.pth", tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 10**4
    with pytest.raises(UserError, match=r"bomb\.pth: is compressed"):
        read_state_dict(tmp_path / "bomb.pth")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"wide\.pth: the tensor a is larger than the file"):
        read_state_dict(tmp_path / "wide.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02.",
        b"PK\x03\x04" + bytes(40),
        b"PK\x05\x06" + bytes(18),
        pickle.dumps([1, 2]),
        b"\x80" + bytes(1000),
        struct.pack("<Q", 2**60) + b"{}",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_rubbish_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"rubbish{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rubbish\.\w+: (not a readable|holds a )"):
        read_state_dict(path)


def test_damage_anywhere_never_leaves_a_traceback(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0)}, buffer)
    whole = buffer.getvalue()
    path = tmp_path / "damaged.pth"
    for place in range(0, len(whole), 7):
        for content in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
            path.write_bytes(content)
            with contextlib.suppress(UserError):
                read_state_dict(path)


@pytest.mark.parametrize("name", ["f.pth", "f.safetensors"])
def test_numbers_that_are_none_are_refused(tmp_path, name):
    state = {"weight": torch.full((2, 2), float("nan")), "bias": torch.zeros(2)}
    (torch.save if name == "f.pth" else save_file)(state, tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: .*weight with values that are no numbers"):
        read_state_dict(tmp_path / name)
