import pickle

import pytest
import torch

from eyescream_py.ganless_hd.checkpoints import copy_matching, read_tensors, write_tensors
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.system.errors import UserError


def test_round_trip_with_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"w": torch.randn(3, 2).T, "n": torch.tensor(7), "empty": torch.zeros(0, 5)}
    write_tensors(path, tensors, {"kind": "network", "width": 0.5})
    back, about = read_tensors(path)
    assert about == {"version": 2, "kind": "network", "width": 0.5}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_old_file_stays_beside_the_new_one(tmp_path):
    path = tmp_path / "a.safetensors"
    for number in (1.0, 2.0):
        write_tensors(path, {"w": torch.tensor([number])}, {}, keep_old=True)
    assert read_tensors(path)[0]["w"] == 2
    path.with_name("a.safetensors.old").rename(tmp_path / "b.safetensors")
    assert read_tensors(tmp_path / "b.safetensors")[0]["w"] == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_unreadable_files_are_named(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\{suffix}: not a readable"):
        read_tensors(path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    write_tensors(path, {"w": torch.randn(100)}, {})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a readable"):
        read_tensors(path)


def test_missing_file_and_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "none" / "a.safetensors", {"w": torch.zeros(1)}, {})


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pth_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"w": Evil()}, path)
    with pytest.raises(UserError, match=r"evil\.pth"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match=r"evil\.pth"):
        read_tensors(path)
    assert "ran" not in capsys.readouterr().out


def test_pth_with_the_state_dict_inside(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, path)
    tensors, about = read_tensors(path)
    assert list(tensors) == ["w"]
    assert about == {}


def test_matching_tensors_are_copied_and_named():
    source, target = UNet(0.125, seed=1), UNet(0.125, seed=2)
    tensors = source.state_dict()
    tensors["collapse.weight"] = torch.zeros(3, 99, 1, 1)
    del tensors["encoderLevels.1.bias"]
    before = target.collapse.weight.detach().clone()
    copied, left = copy_matching(target, tensors | {"unknown": torch.zeros(1)})
    assert set(left) == {"collapse.weight", "encoderLevels.1.bias"}
    assert len(copied) + len(left) == len(target.state_dict())
    assert torch.equal(target.encoderLevels[4].params, source.encoderLevels[4].params)
    assert torch.equal(target.collapse.weight, before)
