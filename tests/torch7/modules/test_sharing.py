"""What shares memory in a file shares it in a module, and is written so."""

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save
from eyescream_py.torch7 import to_module as module_of

from ..class_cases import linear, sequential


def test_shared_modules_stay_shared() -> None:
    shared = linear(3, 3)
    net = module_of(sequential(shared, sequential(shared)))
    assert net[0] is net[1][0]
    written = load(save(None, from_module(net))).fields["modules"]
    assert written[1] is written[2].fields["modules"][1]


def test_parameters_that_share_memory_stay_shared() -> None:
    flat = torch.randn(15)  # as Lua's getParameters leaves them: views of one storage
    weight, tied, bias = flat[:9].view(3, 3), flat[:9].view(3, 3), flat[12:]
    net = module_of(sequential(linear(weight=weight, bias=bias), linear(weight=tied, bias=bias)))
    assert net[0].weight is net[1].weight
    assert net[0].bias is net[1].bias
    again = module_of(load(save(None, from_module(net))))
    assert again[0].weight is again[1].weight
    assert len(list(again.parameters())) == 2


def tied(*weights: Tensor) -> TorchObject:
    kind = {"_type": "torch.FloatTensor"}
    sides = [TorchObject("nn.Linear", Table(kind, weight=w, bias=w[:, 0] * 1)) for w in weights]
    return TorchObject("nn.Sequential", Table(kind, modules=Table.from_list(sides)))


def test_a_weight_given_anew_is_tied_no_more() -> None:
    weight = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    network = module_of(tied(weight, weight.t()))
    network[1].weight = nn.Parameter(torch.zeros(4, 2))
    assert [name for name, _ in network.named_parameters()] == [
        *("0.weight", "0.bias", "1.bias", "1.weight")
    ]
    with pytest.raises(
        T7Error, match=r"Linear: weight is one memory .*; as_read=False writes each"
    ):
        from_module(network)
    again = module_of(from_module(network, as_read=False))
    assert torch.equal(again[0].weight, weight)
    assert not again[1].weight.any()
    network = module_of(tied(weight, weight.t()))
    with torch.no_grad():
        network[0].bias += torch.nan  # equal to no number, itself included, but it is no tie
    assert from_module(network).fields["modules"][1].fields["bias"].isnan().all()


def test_a_weight_without_elements_opens() -> None:
    table = TorchObject("nn.LookupTable", Table(weight=torch.empty(3, 0)))
    assert module_of(table)(torch.tensor([1, 3])).shape == (2, 0)


def test_kernels_and_rows_of_one_memory() -> None:
    kernels = torch.rand(6, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    sizes = {"nInputPlane": 2, "nOutputPlane": 6, "kW": 5, "kH": 3}
    back = {**sizes, "nInputPlane": 6, "nOutputPlane": 2}
    objs = [
        TorchObject("nn.SpatialConvolution", Table(**sizes, weight=kernels)),
        TorchObject("nn.SpatialFullConvolution", Table(**back, weight=kernels)),
        TorchObject("nn.Linear", Table(weight=kernels.view(6, 30))),
        TorchObject("nn.Linear", Table(weight=kernels.view(6, 30).t())),
        TorchObject("nn.SpatialConvolution", Table(**sizes, weight=kernels.transpose(2, 3))),
    ]
    objs[-1].fields |= {"kW": 3, "kH": 5}
    network = module_of(TorchObject("nn.ConcatTable", Table(modules=Table.from_list(objs))))
    assert len(list(network.parameters())) == 1
    with torch.no_grad():
        network[0].weight *= 2
    for module, obj in zip(network, objs, strict=True):
        assert torch.equal(module.weight, 2 * obj.fields["weight"])


def test_a_view_of_a_larger_memory_is_written_alone() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.randn(10_000)[:4].view(2, 2)
    assert len(save(None, from_module(layer))) < 4000
