"""Checkpoints: finding, reading, checking and writing them."""

import gc

import pytest
import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.networks import checkpoints
from eyescream_py.system.errors import UserError


def network(inputs=3, outputs=2):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Sigmoid())


def test_found_as_named_else_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.net").write_bytes(b"x")
    assert checkpoints.find("a.net", tmp_path / "logs") == tmp_path / "logs/a.net"
    (tmp_path / "a.net").write_bytes(b"y")
    assert checkpoints.find("a.net", tmp_path / "logs").read_bytes() == b"y"
    with pytest.raises(UserError, match=r"^--network=/none/b.net is no file$"):
        checkpoints.find("/none/b.net", tmp_path)
    with pytest.raises(UserError, match=r"--D_base=b.net: neither b.net nor .*logs/b.net"):
        checkpoints.find("b.net", tmp_path / "logs", "--D_base")


def test_written_and_read_back(tmp_path):
    path = tmp_path / "a.net"
    net = network()
    net[1].running_mean.fill_(3)
    checkpoints.write(path, {"net": net}, {"epoch": 4, "resume": {"x": torch.arange(3)}})
    content = checkpoints.read(path)
    again = network()
    checkpoints.copy_into(again, content, "net", path)
    for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a.double(), b.double()) or a.dtype == torch.int64
    assert content["epoch"] == 4
    assert content["resume"]["x"].tolist() == [0, 1, 2]
    checkpoints.write(path, {"net": net}, {"epoch": 5})
    assert checkpoints.read(tmp_path / "a.net.old")["epoch"] == 4


def test_other_sizes_and_other_counts_change_nothing(tmp_path):
    path = tmp_path / "a.net"
    checkpoints.write(path, {"net": network()}, {})
    content = checkpoints.read(path)
    for other in (network(4), nn.Sequential(nn.Linear(3, 2))):
        before = [p.clone() for p in other.parameters()]
        with pytest.raises(UserError, match="give the options"):
            checkpoints.copy_into(other, content, "net", path)
        assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_a_network_that_diverged_is_refused(tmp_path, value):
    for name in ("0.weight", "1.running_var"):
        net = network().double()
        net.state_dict()[name].view(-1)[-1] = value  # 1e300 is infinite in single precision
        table = torch7.Table(net=torch7.from_module(net))
        with pytest.raises(UserError, match="network net holds numbers that are not finite"):
            checkpoints.module(table, "net", tmp_path / "a.net")


def test_what_is_no_table_of_networks(tmp_path):
    for name, value, words in (
        ("number", 3.0, "holds no table of networks"),
        ("table", {"D": 1}, r"holds no network D \(it holds: D\)"),
        ("object", {"D": torch7.TorchObject("my.Own", {"a": 1})}, r"network D: .*my.Own"),
    ):
        path = tmp_path / name
        torch7.save(path, value)
        with pytest.raises(UserError, match=words):
            checkpoints.module(checkpoints.read(path), "D", path)
    with pytest.raises(UserError, match=r"--G_base=.*Is a directory"):
        checkpoints.read(tmp_path, "--G_base")


def test_what_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.net"
    checkpoints.write(path, {"net": network()}, {"epoch": 1})
    before = path.read_bytes()
    with pytest.raises(torch7.T7Error):
        checkpoints.write(path, {"net": network()}, {"epoch": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.net"]


def test_saves_do_not_pile_up_in_memory(tmp_path):
    """What one save copied is gone before the next one copies."""
    net = nn.Sequential(nn.Linear(500, 500))
    counts = []
    for _ in range(4):
        checkpoints.write(tmp_path / "a.net", {"net": net}, {})
        alive = [x for x in gc.get_objects() if isinstance(x, torch7.TorchObject)]
        counts.append(len(alive))
    assert counts == [counts[0]] * 4
