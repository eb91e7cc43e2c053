"""Tiny files that ask for a lot of memory: refused in one line wherever tensors become memory."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from eyescream_py.data.dataset import load_dataset
from eyescream_py.system.errors import UserError
from eyescream_py.torch7 import T7Error, Table, load, save, to_module
from eyescream_py.torch7.__main__ import main
from eyescream_py.torch7.files.memory import SPARE, Copies, own

from ..class_cases import modules, node

HUGE = torch.zeros(1).expand(2**38)  # a terabyte of one number
OVERLAPPING = torch.zeros(2**17).as_strided((2**16, 2**16), (1, 1))  # 16 GB in half a megabyte


def reread(value: object) -> object:
    data = save(None, value)
    assert len(data) < 2**20
    return load(data)


@pytest.mark.parametrize("tensor", [HUGE, OVERLAPPING], ids=["stride 0", "overlapping"])
def test_a_tensor_that_repeats_its_memory_is_no_memory(tensor: torch.Tensor) -> None:
    with pytest.raises(T7Error, match="repeats its memory"):
        own(reread(tensor))


def test_what_lua_expands_is_copied() -> None:
    assert own(torch.ones(1).expand(3, 4)).stride() == (4, 1)
    whole = torch.zeros(4, 5)
    assert own(whole) is whole


def test_many_views_of_one_storage_count_together() -> None:
    copies, storage = Copies(), torch.zeros(SPARE // 4)
    for _ in range(9):  # eight times the storage, and the spare bytes
        copies.allow(storage)
    with pytest.raises(T7Error, match="repeats its memory"):
        copies.allow(storage)


@pytest.mark.parametrize("tensor", [HUGE, OVERLAPPING], ids=["stride 0", "overlapping"])
def test_convert_to_safetensors_refuses_in_one_line(tensor: torch.Tensor, tmp_path: Path) -> None:
    save(tmp_path / "small.t7", {"a": tensor})
    out = tmp_path / "out.safetensors"
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "small.t7"), str(out)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "a: a tensor of" in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    "network",
    [
        node("nn.Linear", weight=HUGE.reshape(2**19, 2**19), bias=HUGE[: 2**19]),
        node("nn.View", size=torch.ones(1, dtype=torch.int64).expand(2**38)),
        node("nn.Constant", value=OVERLAPPING),
        node("nn.PCAColorTransform", inputChannels=2**16, eigenVectors=OVERLAPPING),
        node(
            "nn.SpatialConvolutionMap",
            nInputPlane=1,
            nOutputPlane=1,
            kW=1,
            kH=1,
            connTable=torch.ones(1, 1).expand(2**36, 2),
        ),
        node("nn.InstanceNormalization", nOutput=2**31 - 1, affine=False),
        node("nn.Bottle", nInputDim=2**31 - 1, modules=modules(node("nn.Tanh"))),
    ],
    ids=lambda obj: obj.typename,
)
def test_layers_of_such_tensors_are_refused_in_one_line(network: object) -> None:
    with pytest.raises(T7Error) as caught:
        to_module(reread(network))
    assert "\n" not in str(caught.value)


def test_many_layers_over_one_storage_are_refused() -> None:
    memory = torch.zeros(2**17)  # half a megabyte, of which every layer has another view
    views = [memory[i : i + 2**16].reshape(256, 256) for i in range(600)]
    layers = [node("nn.Linear", weight=view) for view in views]
    with pytest.raises(T7Error, match=r"\(\d+\) nn.Linear: a tensor of 256x256 repeats its memory"):
        to_module(load(save(None, node("nn.Sequential", modules=modules(*layers)))))


def test_a_layer_that_is_used_often_is_copied_once() -> None:
    weight = torch.zeros(2**11, 2**11)  # 16 MB
    layers = modules(*(node("nn.Linear", weight=weight) for _ in range(100)))
    module = to_module(node("nn.Sequential", modules=layers))
    assert len({id(layer.weight) for layer in module.children()}) == 1


def test_a_data_set_that_repeats_its_memory_is_refused(tmp_path: Path) -> None:
    images = torch.zeros(1).expand(2**26, 3, 16, 16)
    save(tmp_path / "faces.t7", images)
    with pytest.raises(UserError, match="repeats its memory"):
        load_dataset(str(tmp_path / "faces.t7"), 3, 16)


def test_an_empty_table_is_no_list_of_sizes() -> None:
    with pytest.raises(T7Error, match="connTable is no tensor of indices"):
        to_module(
            node(
                "nn.SpatialConvolutionMap",
                nInputPlane=1,
                nOutputPlane=1,
                kW=1,
                kH=1,
                connTable=Table(),
            )
        )
