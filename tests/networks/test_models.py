"""The networks against outputs, gradients and optimizer steps of the real Lua Torch 7."""

import copy
from pathlib import Path

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.game.answers import bce_loss
from eyescream_py.networks import models, models_c2f
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.optim import SGD, Adagrad, Adam
from eyescream_py.torch7.random import TorchSource
from tests.golden_data import assert_summary, fill, read

GOLDEN = read("networks.json")
FILES = Path(__file__).parents[1] / "golden"
OPTIMIZERS = {
    "adam": Adam,
    "adagrad": Adagrad,
    "sgd": lambda params: SGD(params, lr=0.02, momentum=0.5),
}


def build(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    kind, size = name.rsplit("_", 1)
    if kind.startswith("c2f"):
        channels = int(size)
        dims = (channels, 32, 32)
        coarse = fill(0.5, 0, 2, channels, 32, 32) + 0.5
        if kind == "c2f_G":
            return models_c2f.create_G(dims), (fill(1, 0, 2, 1, 32, 32), coarse)
        return models_c2f.create_D(dims), (fill(0.2, 0, 2, channels, 32, 32), coarse)
    channels, scale = map(int, size.split("x"))
    if kind == "G":
        return models.create_G((channels, scale, scale), 100), (fill(1, 0, 2, 100),)
    images = fill(0.5, 0, 2, channels, scale, scale) + 0.5
    return models.create_D((channels, scale, scale)), (images,)


@torch.no_grad()
def fill_parameters(network: torch.nn.Module) -> None:
    flat = fill(0.05, 0, sum(p.numel() for p in network.parameters()))
    offset = 0
    for p in network.parameters():
        p.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()


def loss_of(name: str, output: torch.Tensor) -> torch.Tensor:
    if "D" in name:
        return bce_loss(output.reshape(-1), torch.tensor([1.0, 0.0], dtype=output.dtype))
    return output.sum()


def flat_parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


@pytest.fixture(scope="module", params=GOLDEN)
def filled(request):
    """(name, network, inputs) in double: filled once, as the largest takes a second."""
    network, inputs = build(request.param)
    fill_parameters(network)
    return request.param, network.double(), tuple(x.double() for x in inputs)


def learning_without_chance(network: torch.nn.Module) -> torch.nn.Module:
    for layer in network.train().modules():
        if isinstance(layer, Dropout | SpatialDropout):
            layer.p = 0
    return network


def test_network_equals_lua(filled):
    """In double: at a maximum or a kink single rounding decides which way a gradient goes, and
    processors round differently.
    """
    name, network, inputs = filled
    golden = GOLDEN[name]
    assert_summary(network.eval()(*inputs), golden["y"], 1e-5, "y")

    network, watched = learning_without_chance(network), inputs[-1].clone().requires_grad_()
    loss = loss_of(name, network(*inputs[:-1], watched))
    gradients = torch.autograd.grad(loss, [*network.parameters(), watched])
    torch.testing.assert_close(float(loss), golden["loss"], rtol=1e-4, atol=1e-4)
    assert_summary(torch.cat([g.reshape(-1) for g in gradients[:-1]]), golden["grad"], 1e-4)
    assert_summary(gradients[-1], golden["gx"], 1e-4, "gx")


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
def test_three_optimizer_steps_equal_lua(optimizer_name, filled):
    """In double: the first adam and adagrad steps are lr*sign(g), where single rounding flips
    signs.
    """
    name, network, inputs = filled
    network = learning_without_chance(copy.deepcopy(network))
    optimizer = OPTIMIZERS[optimizer_name](network.parameters())
    for _ in range(3):
        network.zero_grad()
        loss_of(name, network(*inputs)).backward()
        optimizer.step()
    assert_summary(flat_parameters(network), GOLDEN[name][optimizer_name], 1e-4)


@pytest.mark.parametrize(
    ("network", "shape", "parameters"),
    [
        (lambda: models.create_G((3, 32, 32), 100, "upsampling"), (2, 100), 2_470_406),
        (lambda: models.create_G((1, 16, 16), 50, "upsampling"), (2, 50), None),
        (lambda: models.create_D((3, 32, 32), "b"), (2, 3, 32, 32), None),
        (
            lambda: models.create_corrector((1, 16, 16)),
            (2, 1, 16, 16),
            256 * 1024 * 2 + 1024 + 256 + 1,
        ),
    ],
)
def test_later_networks_train_one_step(network, shape, parameters):
    torch.manual_seed(0)
    net = network()
    if parameters is not None:
        assert sum(p.numel() for p in net.parameters()) == parameters
    x = torch.rand(shape)
    before = flat_parameters(net)
    optimizer = Adam(net.parameters())
    net(x).square().mean().backward()
    optimizer.step()
    change = (flat_parameters(net) - before).abs()
    assert change.max() > 0
    assert torch.isfinite(change).all()


@pytest.mark.parametrize("letter", ["b", "c", "d"])
def test_c2f_variants_keep_the_shape(letter):
    pair = torch.rand(2, 1, 16, 16), torch.rand(2, 3, 16, 16)
    assert models_c2f.create_G((3, 16, 16), letter)(*pair).shape == (2, 3, 16, 16)
    if letter != "d":
        both = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        network = models_c2f.create_D((3, 16, 16), letter)
        assert network(both).shape == (2, 1)
        assert torch.equal(network.eval()(*both), network(both))


def test_start_weights_reach_top_level_modules_only():
    network = models.create_D((1, 16, 16))
    source = TorchSource(0)
    models.reset_layers(network, source)
    nested = network[0][0][0].weight.detach().clone()
    models.draw_start_weights(network, source)
    assert torch.equal(nested, network[0][0][0].weight)
    assert float(nested.abs().max()) == pytest.approx(1 / 3, rel=0.01)
    assert float(network[2].weight.std()) == pytest.approx(0.005, rel=0.1)
    assert float(network[2].bias.abs()) < 0.01
    generator = models.create_G((1, 16, 16))
    models.draw_start_weights(generator, source)
    assert abs(float(generator[1].weight)) < 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.create_D((1, 30, 30)),
        lambda: models.create_D((1, 24, 24), "b"),
        lambda: models.create_G((1, 18, 18), 10, "upsampling"),
        lambda: models.create_D((1, 16, 32)),
        lambda: models_c2f.create_D((1, 31, 31)),
    ],
)
def test_sizes_that_cannot_work_are_errors_for_people(make):
    with pytest.raises(UserError, match=r"multiple|squares"):
        make()


@pytest.mark.parametrize("key", ["G", "D"])
def test_c2f_networks_are_written_as_lua_writes_its_gpu_ones(key):
    """The golden file is Lua's; its sample.lua looks for the nn.Copy layers."""
    lua = torch7.load(FILES / "adversarial_c2f_4_to_8_mini.net")[key]
    network = getattr(models_c2f, f"create_{key}")((1, 8, 8)).eval()
    obj = torch7.from_module(models_c2f.as_lua_saves(network))
    names = [[m.typename for m in net.fields["modules"].to_list()] for net in (obj, lua)]
    assert names[0] == names[1]
    copies = [set(net.fields["modules"][2].fields) - {"train"} for net in (obj, lua)]
    assert copies[0] == copies[1]
    pair = [torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)]
    assert torch.equal(torch7.to_module(obj)(pair), network(pair))
    assert obj.fields["train"] is False


@pytest.mark.parametrize("size", [1, 4, 6, 10])
def test_the_least_size_of_D_is_said(size):
    with pytest.raises(UserError, match=f"--scale={size}: .* multiple of 4, at least 8"):
        models.create_D((1, size, size))
