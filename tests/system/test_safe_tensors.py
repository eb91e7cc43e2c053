import json
import math
import os
import random
import resource
import struct

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from eyescream_py.system import safe_tensors
from eyescream_py.system.safe_tensors import (
    TensorsError,
    check_shapes,
    held_by,
    load_module,
    not_finite,
    on_meta,
    read_header,
    read_tensors,
)  # fmt: skip


class Net(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)


def file_of(tensors, metadata=None) -> bytes:
    return save({n: t.contiguous() for n, t in tensors.items()}, metadata)


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def written(tmp_path, content: bytes):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    return path


def test_the_same_as_the_library_reads(tmp_path):
    torch.manual_seed(1)
    tensors = {f"a.{d}": (torch.randn(3, 4) * 9).to(d) for d in
               (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)}  # fmt: skip
    tensors |= {"empty": torch.empty(0, 7), "one": torch.tensor(3.5)}
    tensors["axes"] = torch.arange(2.0).reshape(*[1] * 15, 2)
    path = written(tmp_path, file_of(tensors, {"facts": "José"}))
    header = read_header(path)
    ours, theirs = read_tensors(header), load_file(path)
    assert header.metadata == {"facts": "José"}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)
    assert read_tensors(header, "a.").keys() == {n[2:] for n in tensors if n.startswith("a.")}


def test_a_module_comes_back_and_can_be_trained(tmp_path):
    net = Net()
    path = written(tmp_path, file_of({f"G.{n}": t for n, t in net.state_dict().items()}))
    again = load_module(read_header(path), Net, "G.")
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert all(p.requires_grad for p in again.parameters())
    again.norm(again.layer(torch.randn(4, 3))).sum().backward()


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "more than 0 bytes"),
        (b"\xff" * 40, "a header of 18446744073709551615 bytes"),
        (struct.pack("<Q", 1 << 30) + b"{}", "a header of 1073741824 bytes"),
        (struct.pack("<Q", 4) + b"{} ", "a header of 4 bytes"),
        (with_header(b"[" * 100_000), "no JSON"),
        (with_header(b"\xff\xfe{}"), "no JSON"),
        (with_header([]), "no table"),
        (with_header({"__metadata__": []}), "metadata"),
        (with_header({"__metadata__": {"a": 1}}), "metadata"),
        (with_header(b'{"a":{},"a":{}}'), "twice"),
        (with_header({"a": []}), "in no known way"),
        (with_header({"a": F32 | {"dtype": "F9"}}, bytes(4)), "in no known way"),
        (with_header({"a": F32 | {"dtype": []}}, bytes(4)), "in no known way"),
        (with_header({"a": F32 | {"shape": [-1]}}, bytes(4)), "impossible size"),
        (with_header({"a": F32 | {"shape": [1.0]}}, bytes(4)), "impossible size"),
        (with_header({"a": F32 | {"shape": [True]}}, bytes(4)), "impossible size"),
        (with_header({"a": F32 | {"shape": [1] * 99}}, bytes(4)), "impossible size"),
        (with_header({"a": F32 | {"shape": [2**62, 2**62]}}, bytes(4)), "do not have"),
        (with_header({"a": F32}, bytes(3)), "cut short"),
        (with_header({"a": F32}, bytes(5)), "cut short"),
        (with_header({"a": F32, "b": F32}, bytes(4)), "overlap"),
    ],
)
def test_one_line_per_cause(content, reason, tmp_path):
    with pytest.raises(TensorsError, match=r"^[^\n]*$") as refused:
        read_header(written(tmp_path, content))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("norm.bias"), "header: norm.bias is missing"),
        (
            lambda t: [t.pop(f"norm.{name}") for name in ("weight", "bias", "running_var")],
            "norm.weight is missing; norm.bias is missing; norm.running_var is missing",
        ),
        (lambda t: t.update(more=torch.zeros(1)), "more is not part of the network"),
        (lambda t: t.update({"layer.bias": torch.zeros(6)}), "layer.bias is 6, not 5"),
        (lambda t: t.update({"layer.bias": torch.tensor(0.0)}), "layer.bias is one number, not 5"),
        (
            lambda t: t.update({"layer.bias": torch.zeros(5).half()}),
            "layer.bias is of torch.float16, not torch.float32",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, reason, tmp_path):
    tensors = Net().state_dict()
    change(tensors)
    header = read_header(written(tmp_path, file_of(tensors)))
    with pytest.raises(TensorsError, match="do not fit its own header") as refused:
        check_shapes(header, on_meta(Net))
    assert str(refused.value).endswith(reason)


def test_a_header_that_asks_for_petabytes_allocates_nothing(tmp_path):
    header = read_header(written(tmp_path, file_of(Net().state_dict())))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TensorsError, match=r"^[^;]*; [^;]*; [^;]* and 3 more$"):
        load_module(header, lambda: Net(2**48))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_header_larger_than_any_is_not_read(tmp_path):
    path = written(tmp_path, struct.pack("<Q", 17 << 20))
    os.truncate(path, 1 << 30)
    with pytest.raises(TensorsError, match="a header of 17825792 bytes"):
        read_header(path)


def test_tensors_may_stand_in_any_order_and_a_bool_is_any_byte(tmp_path):
    entries = {
        "late": {"dtype": "BOOL", "shape": [3], "data_offsets": [4, 7]},
        "early": F32,
        "nothing": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    }
    data = struct.pack("<f3B", 2.5, 0, 1, 2)
    found = read_tensors(read_header(written(tmp_path, with_header(entries, data))))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "late": [False, True, True], "early": [2.5], "nothing": [],
    }  # fmt: skip
    assert found["late"].view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(("count", "said"), [(1, "a"), (3, "a, b, c"), (5, "a, b, c and 2 more")])
def test_a_file_with_values_that_are_no_numbers_is_refused(count, said, tmp_path):
    tensors = {name: torch.tensor([1.0, math.nan]) for name in "abcde"[:count]}
    header = read_header(written(tmp_path, file_of({**tensors, "sound": torch.ones(2)})))
    with pytest.raises(TensorsError, match=f"^{said} with values that are no numbers$"):
        read_tensors(header)


def test_more_tensors_than_any_network_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_tensors, "MAX_TENSORS", 6)
    with pytest.raises(TensorsError, match="it has 7 tensors, at most 6 are read"):
        read_header(written(tmp_path, file_of(Net().state_dict())))


def test_damaged_files_end_in_an_error_of_ours(tmp_path):
    whole = bytearray(file_of(Net().state_dict(), {"a": "b"}))
    rng = random.Random(7)
    refused = 0
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(600, len(content)))] = rng.randrange(256)
        path = written(tmp_path, bytes(content[: rng.randint(0, len(content))]))
        try:
            load_module(read_header(path), Net)
        except TensorsError:
            refused += 1
    assert refused > 450


def test_the_file_that_shrinks_while_it_is_read(tmp_path):
    path = written(tmp_path, file_of(Net().state_dict()))
    header = read_header(path)
    os.truncate(path, header.data_start + 10)
    with pytest.raises(TensorsError, match="cut short while"):
        read_tensors(header)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), -float("inf")])
def test_what_a_run_holds_is_asked_for_numbers_that_are_none(fault):
    net = Net()
    adam = torch.optim.Adam(net.parameters())
    net.norm(net.layer(torch.ones(4, 3))).square().sum().backward()
    adam.step()
    moment = adam.state[net.layer.bias]["exp_avg_sq"]
    for held, name in (
        (net.layer.weight.detach(), "net/layer.weight"),
        (net.norm.running_var, "net/norm.running_var"),
        (moment, "optimizer:adam/1/exp_avg_sq"),
    ):
        assert not not_finite(held_by({"net": net}, {"adam": adam}))
        kept = held.flatten()[-1].clone()
        held.view(-1)[-1] = fault
        assert not_finite(held_by({"net": net}, {"adam": adam})) == [name]
        held.view(-1)[-1] = kept


def test_numbers_that_are_none_are_named_whatever_their_kind():
    sound = {
        "whole": torch.tensor([1, -2]),
        "yes": torch.tensor([True, False]),
        "empty": torch.empty(0),
        "single": torch.tensor(3.0, requires_grad=True),
        "large": torch.tensor([3e38, -3e38]),
        "half": torch.tensor([6e4]).half(),
    }
    assert not not_finite(sound)
    faults = (math.nan, math.inf, -math.inf)
    broken = {
        f"{fault} {dtype}": torch.tensor([1.0, fault, 2.0], dtype=dtype)
        for fault in faults
        for dtype in (torch.float32, torch.bfloat16, torch.complex64)
    }
    assert not_finite({**sound, **broken}) == list(broken)
