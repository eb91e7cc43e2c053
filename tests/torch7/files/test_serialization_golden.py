"""Files that the real Lua Torch wrote: what they hold, and the same bytes when written again."""

import json
import math
from pathlib import Path

import pytest
import torch

from eyescream_py.torch7 import LuaFunction, Storage, Table, TorchObject, load, save

GOLDEN = Path(__file__).parents[2] / "golden"
ZOOS = ["zoo.t7", "zoo_ascii.t7", "zoo_b32.t7"]


@pytest.fixture(params=ZOOS)
def zoo(request):
    return load(GOLDEN / request.param)


def test_zoo_tensors(zoo):
    expected = json.loads((GOLDEN / "zoo_tensors.json").read_text())
    for name, value in expected.items():
        module, _, field = name.partition("_")
        tensor = zoo[module].fields[field] if module == "linear" else zoo[name]
        assert list(tensor.shape) == value["shape"]
        assert tensor.flatten().tolist() == pytest.approx(value["data"], rel=1e-7, abs=1e-9), name


def test_zoo_dtypes(zoo):
    dtypes = {
        "byte3": torch.uint8,
        "char3": torch.int8,
        "short3": torch.int16,
        "int3": torch.int32,
        "long3": torch.int64,
        "float3": torch.float32,
        "double3": torch.float64,
    }
    assert {name: zoo[name].dtype for name in dtypes} == dtypes


def test_zoo_views_keep_strides_and_share_memory(zoo):
    assert zoo["transposed"].stride() == (1, 4, 12)
    assert zoo["narrowed"].storage_offset() == 4
    assert zoo["expanded"].stride() == (1, 0)
    assert zoo["view_a"] is zoo["float3"]
    zoo["view_a"][1, 0, 0] = -5
    assert zoo["view_b"][0, 0] == -5
    assert zoo["emptytensor"].shape == (0,)


def test_zoo_bare_storages(zoo):
    assert isinstance(zoo["fstorage"], Storage)
    assert zoo["fstorage"].typename == "torch.FloatStorage"
    assert list(zoo["fstorage"]) == [1.5, 2.5]
    assert zoo["lstorage"].tolist() == [3, 4, 5]
    assert zoo["lstorage"].tensor.dtype is torch.int64


def test_zoo_scalars(zoo):
    assert (zoo["int"], zoo["negative"], zoo["half"]) == (42, -7, 0.5)
    assert type(zoo["int"]) is int
    assert (zoo["big"], zoo["tiny"]) == (1e300, 1e-300)
    assert (zoo["inf"], zoo["ninf"]) == (math.inf, -math.inf)
    assert math.isnan(zoo["nan"])
    assert zoo["yes"] is True
    assert zoo["no"] is False


def test_zoo_strings(zoo):
    assert (zoo["empty"], zoo["text"], zoo["utf8"]) == ("", "plain text", "grün")
    assert zoo["bytes"].encode("utf-8", "surrogateescape") == b"a\0b\nc\xff"


def test_zoo_tables(zoo):
    assert zoo["list"].to_list() == [10, 20, 30]
    assert zoo["sparse"] == {1: "one", 3: "three", 2.5: "two and a half", -1: "minus"}
    assert zoo["emptytable"] == {}
    assert zoo["mixed"]["x"]["y"]["z"] == "deep"
    assert zoo["boolkey"][True] == "T"
    assert zoo["boolkey"][False] == "F"
    assert zoo["shared_a"] is zoo["shared_b"]
    assert zoo["cycle"]["me"] is zoo["cycle"]


def test_zoo_objects(zoo):
    linear = zoo["linear"]
    assert isinstance(linear, TorchObject)
    assert (linear.typename, linear.version) == ("nn.Linear", 1)
    assert linear.fields["_type"] == "torch.FloatTensor"


def test_zoo_closure_is_opaque(zoo):
    closure = zoo["closure"]
    assert isinstance(closure, LuaFunction)
    assert closure.code.startswith(b"\x1bLJ")
    assert closure.upvalues[1]["value"] == 41


def test_unreferenced_repeats_what_was_shared():
    value = load(GOLDEN / "zoo_unreferenced.t7")
    assert value["a"] == value["b"] == {1: 1, 2: 2, "name": "shared"}
    assert value["a"] is not value["b"]
    assert value["t"].shape == (2, 3, 4)


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*.net")) + sorted(GOLDEN.glob("*.t7")), ids=str
)
def test_written_again_it_is_the_same_file(path):
    form = {"ascii": "ascii" in path.name, "long_size": 4 if "b32" in path.name else 8}
    assert save(None, load(path), **form) == path.read_bytes()


def test_cuda_file_keeps_its_classes_and_its_values():
    plain, cuda = (load(GOLDEN / f"adversarial_mini{kind}.net") for kind in ("", "_cuda"))
    weight, on_cuda = (first_weight(net["G"]) for net in (plain, cuda))
    assert on_cuda.t7_class == ("torch.CudaTensor", 1)
    assert on_cuda.device.type == "cpu"
    assert torch.equal(weight, on_cuda)


def first_weight(module):
    for child in module.fields.get("modules", Table()).values():
        if "weight" in child.fields:
            return child.fields["weight"]
        if (found := first_weight(child)) is not None:
            return found
    return None
