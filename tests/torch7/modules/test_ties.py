"""Tensors over one memory, in whichever views: one parameter, however the network is treated.

The reference keeps Lua's storage as one leaf and takes the views from it by torch's own functions.
"""

import copy
import importlib.util
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import Table, TorchObject, from_module, load, optim, save, to_module
from eyescream_py.torch7.export.convert import exported, weights_and_source
from eyescream_py.torch7.flat import Flat

from ..class_cases import sequential

Views = Callable[[Tensor], tuple[Tensor, Tensor]]
STORAGE = torch.randn(60, generator=torch.Generator().manual_seed(3))
# the weights of two linear layers, the second on what the first makes
VIEWS: dict[str, Views] = {
    "transposed": lambda s: (s[:12].view(3, 4), s[:12].view(3, 4).t()),
    "transposed first": lambda s: (s[:12].view(3, 4).t(), s[:12].view(3, 4)),
    "whole in other shape": lambda s: (s[4:16].view(3, 4), s[4:16].view(4, 3)),
    "rows narrowed": lambda s: (s[:12].view(3, 4), s[:12].view(3, 4).narrow(0, 1, 2)[:, :3]),
    "columns narrowed": lambda s: (s[:15].view(3, 5)[:, 1:4], s[:15].view(3, 5)[:, 2:5]),
    "beyond each other": lambda s: (s[2:14].view(3, 4), s[8:20].view(4, 3)),
    "both transposed": lambda s: (s[:12].view(3, 4).t(), s[:16].view(4, 4).t()),
    "a row selected": lambda s: (s[:12].view(3, 4), s[:12].view(3, 4)[1, None, :3]),
    "a row expanded": lambda s: (s[:12].view(3, 4), s[:12].view(3, 4)[1, :3].expand(5, 3)),
    "expanded alone": lambda s: (s[:4].expand(3, 4), s[20:26].view(2, 3)),
    "steps that overlap": lambda s: (s.as_strided((3, 4), (2, 1), 5), s[40:46].view(2, 3)),
}
KINDS = pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)


def two_layers(*weights: Tensor, kind: str = "Float") -> TorchObject:
    fields = [Table(_type=f"torch.{kind}Tensor", weight=w) for w in weights]
    return sequential(*(TorchObject("nn.Linear", f) for f in fields))


def opened(views: Views, storage: Tensor = STORAGE) -> nn.Module:
    return to_module(load(save(None, two_layers(*views(storage)))))


def loss_of(*weights: Tensor) -> Tensor:
    x = torch.linspace(-1, 1, 2 * weights[0].shape[1], dtype=weights[0].dtype).view(2, -1)
    return (x @ weights[0].t() @ weights[1].t()).square().sum()


def loss(network: nn.Module) -> Tensor:
    first = network[0].weight  # type: ignore[index]
    x = torch.linspace(-1, 1, 2 * first.shape[1], dtype=first.dtype).view(2, -1)
    return network(x).square().sum()


def trained(
    views: Views, make: Callable[..., Any], storage: Tensor = STORAGE, steps: int = 3
) -> list[Tensor]:
    """Both weights after steps of an optimizer that has Lua's storage as its one parameter."""
    leaf = nn.Parameter(storage.clone())
    optimizer = make([leaf])
    for _ in range(steps):
        leaf.grad = None
        loss_of(*views(leaf)).backward()
        optimizer.step()
    return [weight.detach() for weight in views(leaf)]


def train(network: nn.Module, make: Callable[..., Any], steps: int = 3) -> None:
    optimizer = make(list(network.parameters()))
    for _ in range(steps):
        network.zero_grad()
        loss(network).backward()
        optimizer.step()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.5)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05, fused=True)


def lua_adam(parameters: Any) -> optim.Adam:
    return optim.Adam(parameters, lr=0.05)


def weights(network: Any) -> list[Tensor]:
    return [network[0].weight.detach(), network[1].weight.detach()]


def agree(network: nn.Module, expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for got, wanted in zip(weights(network), expected, strict=True):
        wanted = wanted.to(got.dtype)
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@KINDS
@pytest.mark.parametrize("make", [sgd, adam, lua_adam])
def test_steps_change_the_memory_once(views: Views, make: Callable[..., Any]) -> None:
    network = opened(views)
    train(network, make)
    agree(network, trained(views, make))


def pickled(network: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(network))  # noqa: S301


def torch_saved(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def of_its_state(network: nn.Module) -> nn.Module:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = copy.deepcopy(network)
    for parameter in made.parameters():
        nn.init.constant_(parameter, 7)
    made.load_state_dict(state)
    return made


def written_and_read(network: nn.Module) -> nn.Module:
    return to_module(load(save(None, from_module(network))), dtype=None)


def written_anew(network: nn.Module) -> nn.Module:
    return to_module(load(save(None, from_module(network, as_read=False))), dtype=None)


def flattened(network: nn.Module) -> nn.Module:
    network.flat = Flat(network)  # type: ignore[assignment]
    return network


WAYS: list[Callable[[Any], nn.Module]] = [
    *(copy.deepcopy, pickled, torch_saved, of_its_state, written_and_read, written_anew, flattened),
    lambda network: network.double(),
    lambda network: network.double().float().to("cpu"),
    lambda network: copy.deepcopy(pickled(network).double()),
]


@KINDS
@pytest.mark.parametrize("way", WAYS)
def test_ties_hold_however_a_network_is_treated(
    views: Views, way: Callable[[Any], nn.Module]
) -> None:
    network = opened(views)
    count = len(list(network.parameters()))
    treated = way(network)
    assert len(list(treated.parameters())) == count
    agree(treated, list(views(STORAGE)), 0)
    train(treated, adam)
    agree(treated, trained(views, adam, STORAGE.to(weights(treated)[0].dtype)))


@KINDS
def test_what_was_trained_is_written_as_one_memory(views: Views) -> None:
    network = opened(views)
    train(network, sgd)
    for as_read in (True, False):
        layers = from_module(network, as_read).fields["modules"].to_list()
        first, second = (layer.fields["weight"] for layer in layers)
        assert torch.equal(first, network[0].weight)  # type: ignore[index]
        assert torch.equal(second, network[1].weight)  # type: ignore[index]
        one_memory = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        assert one_memory == (as_read or len(list(network.parameters())) == 1)


@KINDS
def test_what_only_lies_beside_is_a_parameter_of_its_own(views: Views) -> None:
    beside = two_layers(*views(STORAGE), STORAGE[50:60].view(5, 2))
    network = to_module(beside)
    assert [*dict(network.named_parameters())][-1] == "2.weight"
    assert network[2].weight.shape == (5, 2)  # type: ignore[index]


def test_columns_of_one_matrix_are_parameters_of_their_own() -> None:
    matrix = STORAGE.view(10, 6)
    network = to_module(two_layers(matrix[:, :3], matrix[:, 3:]))
    assert {type(layer) for layer in network} == {nn.Linear}  # type: ignore[union-attr]
    agree(network, [matrix[:, :3], matrix[:, 3:]], 0)


def loaded(data: bytes, source: str, folder: Path) -> nn.Module:
    """What a Python file of our own makes of the weights beside it."""
    (folder / "w.safetensors").write_bytes(data)
    (folder / "tied.py").write_text(source)
    spec: Any = importlib.util.spec_from_file_location("tied", folder / "tied.py")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


@pytest.mark.parametrize("views", [VIEWS["transposed first"], VIEWS["beyond each other"]])
def test_exports_keep_ties(views: Views, tmp_path: Path) -> None:
    network = opened(views).eval()
    again = loaded(*weights_and_source(network, "w.safetensors", "tied"), tmp_path)
    assert len(list(again.parameters())) == 1
    agree(again, weights(network), 0)
    train(again, adam)
    agree(again, trained(views, adam))
    x = torch.rand(2, network[0].weight.shape[1])  # type: ignore[index]
    assert exported(network, [x], ".pt2")


def test_the_order_of_parameters_is_that_of_the_file_in_exports_too(tmp_path: Path) -> None:
    obj = two_layers(*VIEWS["transposed first"](STORAGE))
    for number, layer in enumerate(obj.fields["modules"].to_list()):
        layer.fields["bias"] = STORAGE[30 : 34 - number].clone()
    network = to_module(obj)
    names = [name for name, _ in network.named_parameters()]
    assert names == ["0.weight_memory", "0.bias", "1.bias"]
    again = loaded(*weights_and_source(network, "w.safetensors", "tied"), tmp_path)
    assert [name for name, _ in again.named_parameters()] == names


@pytest.mark.filterwarnings("error")
def test_a_memory_in_another_order_of_axes() -> None:
    kernels, sizes = STORAGE[:48].view(3, 4, 2, 2), {"nInputPlane": 4, "nOutputPlane": 3}
    convolution = TorchObject("nn.SpatialConvolution", Table(sizes, kW=2, kH=2, weight=kernels))
    layers = convolution, TorchObject("nn.Linear", Table(weight=kernels.view(3, 16).t()))
    branches = Table(modules=Table.from_list(layers), _type="torch.FloatTensor")
    network: Any = to_module(TorchObject("nn.ConcatTable", branches))
    network.to(memory_format=torch.channels_last)
    for as_read in (True, False):
        written = from_module(network, as_read).fields["modules"].to_list()
        assert torch.equal(written[0].fields["weight"], kernels)
        assert torch.equal(written[1].fields["weight"], kernels.view(3, 16).t())
    with torch.no_grad():
        network[0].weight += 1
    assert torch.equal(network[1].weight, (kernels + 1).view(3, 16).t())


def norm(memory: Tensor, variance: Tensor) -> TorchObject:
    fields = Table(_type="torch.FloatTensor", running_mean=memory, running_var=variance)
    return TorchObject("nn.BatchNormalization", fields, 2)


@pytest.mark.parametrize("treat", [copy.deepcopy, pickled, lambda network: network.double()])
def test_layers_that_share_their_statistics_go_on_doing_so(treat: Callable[[Any], Any]) -> None:
    memory = torch.tensor([0.5, 1.0, 2.0, 4.0])
    mean, variance = memory[:3], memory[1:]
    layers = norm(mean, variance), norm(mean, torch.ones(3)), norm(mean, variance)
    network: Any = treat(to_module(sequential(*layers)))
    with torch.no_grad():
        network[0].running_mean.copy_(torch.tensor([8.0, 9.0, 10.0]))
    for layer in (network[0], network[2]):
        assert layer.running_mean.tolist() == [8, 9, 10]
        assert layer.running_var.tolist() == [9, 10, 4]
    assert network[1].running_mean.tolist() == [8, 9, 10]
    assert network[1].running_var.tolist() == [1, 1, 1]
    written = from_module(network).fields["modules"][3].fields
    assert written["running_var"].tolist() == [9, 10, 4]


def test_statistics_with_gaps_are_read_as_they_are() -> None:
    """torch reads the memory of such weights and statistics as if there were none."""
    memory = STORAGE.abs() + 0.1
    # weight and bias have three numbers in common: both are views
    parts = [memory[i : i + 12].view(4, 3)[:, 0] for i in (0, 3, 24, 36)]
    names = ("weight", "bias", "running_mean", "running_var")
    fields = [Table(zip(names, values, strict=True)) for values in (parts, [p * 1 for p in parts])]
    shared, plain = (to_module(TorchObject("nn.BatchNormalization", f, 2)) for f in fields)
    assert not shared.weight.is_contiguous()
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(2))
    for training in (True, False):
        slopes = []
        for layer in (shared, plain):
            given = x.clone().requires_grad_()
            layer.train(training)(given).square().sum().backward()
            slopes.append(given.grad)
        torch.testing.assert_close(*slopes)
    assert torch.equal(shared.running_mean, plain.running_mean)
