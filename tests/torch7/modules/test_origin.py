"""Networks that came from a file are written as that file again."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py.torch7 import Table, TorchObject, from_module, load, save, to_module

from ..golden_classes import Entry, case_of, entries

# Of every file one float and one double network: what is common to all is the same code.
SOME = {(entry.file, entry.name.endswith("_double")): entry for entry in entries()}


def same(network: TorchObject, module: nn.Module) -> bool:
    return save(None, from_module(module)) == save(None, network)


@pytest.mark.parametrize("entry", SOME.values(), ids=lambda entry: entry.name)
def test_bit_for_bit(entry: Entry) -> None:
    network = case_of(entry)["net"]
    module = to_module(network, dtype=None)
    on_gpu = any(kind in save(None, network) for kind in (b"cudnn.", b"torch.Cuda"))
    assert on_gpu or same(network, module)


def two_layers() -> tuple[TorchObject, nn.Module]:
    network = case_of(next(e for e in entries() if e.name == "float_net"))["net"]
    return network, to_module(network)


def test_new_weights_and_gradients_go_where_the_old_were() -> None:
    network, module = two_layers()
    module(torch.ones(2, 5)).sum().backward()
    with torch.no_grad():
        module[0].weight += 1
    module.eval()
    written = load(save(None, from_module(module)))
    first, old = written.fields["modules"][1], network.fields["modules"][1]
    assert list(first.fields) == list(old.fields)
    assert torch.equal(first.fields["weight"], old.fields["weight"] + 1)
    assert torch.equal(first.fields["bias"], old.fields["bias"])
    assert torch.equal(first.fields["gradWeight"], module[0].weight.grad)
    assert first.fields["train"] is False
    assert same(network, two_layers()[1])  # what was read is left alone


def test_a_changed_network_is_written_anew() -> None:
    _, module = two_layers()
    module.append(nn.Sigmoid())
    names = [child.typename for child in from_module(module).fields["modules"].to_list()]
    assert names[-1] == "nn.Sigmoid"
    _, module = two_layers()
    assert from_module(module.double()).fields["_type"] == "torch.DoubleTensor"


def test_a_copy_of_the_module_is_still_from_the_file() -> None:
    network, module = two_layers()
    assert same(network, copy.deepcopy(module))


def test_parameterless_double_networks_stay_double() -> None:
    fields = Table(_type="torch.DoubleTensor", output=torch.empty(0).double(), train=True)
    network = TorchObject("nn.Tanh", fields)
    assert from_module(to_module(network, dtype=None), as_read=False).fields["_type"] == (
        "torch.DoubleTensor"
    )
