"""Layers against numbers from the real Lua Torch 7 (tests/golden/modules.json) and by hand."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import to_module
from eyescream_py.torch7.layers import convolution, temporal
from eyescream_py.torch7.layers import pooling as layers_pooling
from eyescream_py.torch7.layers import tables as layers_tables
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.arithmetic import AddConstant, MulConstant
from eyescream_py.torch7.layers.containers import ConcatTable, ParallelTable
from eyescream_py.torch7.layers.convolution import SpatialConvolutionUpsample
from eyescream_py.torch7.layers.inplace import InPlace, without_overwriting
from eyescream_py.torch7.layers.linear import LookupTable
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.layers.shapes import (
    Identity,
    Narrow,
    Padding,
    Reshape,
    Select,
    Squeeze,
    Unsqueeze,
    View,
)
from eyescream_py.torch7.layers.stochastic import (
    Dropout,
    SpatialDropout,
    StochasticLayer,
    WhiteNoise,
    set_random_source,
)
from eyescream_py.torch7.layers.tables import CAddTable, JoinTable
from eyescream_py.torch7.random import LuaSource, TorchSource

from ..golden_classes import case_of, entries, python_value, tensors

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "modules.json").read_text())

MODULES: dict[str, Callable[[], nn.Module]] = {
    "BatchNormalization_eval": lambda: nn.BatchNorm1d(4).eval(),
    "BatchNormalization_train": lambda: nn.BatchNorm1d(4),
    "Dropout_eval": lambda: Dropout(0.5).eval(),
    "LeakyReLU": LeakyReLU,
    "Linear": lambda: nn.Linear(6, 4),
    "MulConstant": lambda: MulConstant(0.25),
    "PReLU": lambda: nn.PReLU(1),
    "ReLU": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "SpatialAveragePooling": lambda: nn.AvgPool2d(2),
    "SpatialBatchNormalization_train": lambda: nn.BatchNorm2d(3),
    "SpatialConvolution": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "SpatialConvolution_5x5": lambda: nn.Conv2d(1, 2, 5, padding=2),
    "SpatialConvolution_stride2": lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "SpatialDropout02_eval": lambda: SpatialDropout(0.2).eval(),
    "SpatialDropout_eval": lambda: SpatialDropout(0.5).eval(),
    "SpatialMaxPooling": lambda: nn.MaxPool2d(2),
    "SpatialUpSamplingNearest": lambda: SpatialUpSamplingNearest(2),
    "Tanh": nn.Tanh,
    "View": lambda: View(2, 3),
}


def tensor(entry: dict[str, Any]) -> Tensor:
    return torch.tensor(entry["data"], dtype=torch.float32).reshape(entry["shape"])


def with_golden_parameters(name: str, module: nn.Module) -> nn.Module:
    entry = GOLDEN["BatchNormalization_train" if name == "BatchNormalization_eval" else name]
    if "p" in entry:
        nn.utils.vector_to_parameters(tensor(entry["p"]), module.parameters())
    return module


@pytest.mark.parametrize("name", sorted(MODULES))
def test_outputs_and_gradients_are_those_of_lua_torch(name: str) -> None:
    golden = GOLDEN[name]
    module = with_golden_parameters(name, MODULES[name]())
    x = tensor(golden["x"]).requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, tensor(golden["y"]), rtol=1e-5, atol=1e-6)
    y.backward(tensor(golden["gy"]))
    if "gx" in golden:
        torch.testing.assert_close(x.grad, tensor(golden["gx"]), rtol=1e-5, atol=1e-6)
    if "gp" in golden:
        gradients = torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]
        torch.testing.assert_close(gradients, tensor(golden["gp"]), rtol=1e-5, atol=2e-6)


def test_every_golden_module_is_tested() -> None:
    criteria = {"AbsCriterion", "BCECriterion", "BCECriterion_saturated"}
    elsewhere = {"Dropout_train_seed1", "SpatialDropout_train_seed1", "init"}
    assert set(GOLDEN) == set(MODULES) | criteria | elsewhere


@pytest.mark.parametrize("layer", [Dropout(0.5), SpatialDropout(0.5)])
def test_masks_are_lua_torchs_with_seed_1(layer: StochasticLayer) -> None:
    golden = GOLDEN[f"{type(layer).__name__}_train_seed1"]
    set_random_source(nn.Sequential(nn.Sequential(layer)), LuaSource(1))
    assert torch.equal(layer(tensor(golden["x"])), tensor(golden["y"]))


@pytest.mark.parametrize("source", [None, TorchSource(0)])
def test_dropout_scales_while_training(source: TorchSource | None) -> None:
    torch.manual_seed(0)
    layer = Dropout(0.25)
    layer.source = source
    x = torch.ones(100, 100, requires_grad=True)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert layer.eval()(x) is x


def test_unscaled_dropout_is_lua_of_before_v2() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.25, scaled=False)
    y = layer(torch.ones(100, 100))
    assert y.unique().tolist() == [0, 1]
    assert y.mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(3)), torch.full((3,), 0.75))


def test_dropout_with_p_0_draws_nothing() -> None:
    source = LuaSource(1)
    layer = Dropout(0.0)
    layer.source = source
    x = torch.ones(4)
    assert layer(x) is x
    assert source.tensors.uniform(1) == LuaSource(1).tensors.uniform(1)


@pytest.mark.parametrize("shape", [(64, 32, 2, 2), (2048, 2, 2)])
def test_spatial_dropout_takes_whole_channels_and_does_not_scale(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    y = SpatialDropout(0.3)(torch.ones(shape))
    channels = y.flatten(-2)
    assert torch.equal(channels, channels[..., :1].expand_as(channels))
    assert y.unique().tolist() == [0, 1]
    assert y.mean().item() == pytest.approx(0.7, abs=0.03)


def test_stochastic_inference_drops_in_evaluation() -> None:
    torch.manual_seed(0)
    x = torch.ones(1, 100, 2, 2)
    for layer in (
        Dropout(0.5, stochastic_inference=True),
        SpatialDropout(0.5, stochastic_inference=True),
    ):
        assert 0 < (layer.eval()(x) == 0).float().mean().item() < 1


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_impossible_probabilities_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        Dropout(p)
    with pytest.raises(ValueError, match="probability"):
        SpatialDropout(p)


def test_white_noise_only_while_training() -> None:
    layer = WhiteNoise(1.0, 0.1)
    layer.source = TorchSource(3)
    x = torch.zeros(100, 100)
    y = layer(x)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert y.std().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(layer.eval()(x), x + 1)
    centred = WhiteNoise().eval()
    assert centred(x) is x


@pytest.mark.parametrize("layer", [Dropout(0.5), SpatialDropout(0.5), WhiteNoise()])
def test_stochastic_layers_keep_bfloat16(layer: StochasticLayer) -> None:
    conv = nn.Conv2d(2, 4, 3)
    for source in (None, TorchSource(0)):
        layer.source = source
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(conv(torch.ones(2, 2, 5, 5)))
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()


def test_view_finds_the_batch() -> None:
    view = View(2, 3)
    assert view(torch.zeros(4, 6)).shape == (4, 2, 3)
    assert view(torch.zeros(6)).shape == (2, 3)
    assert view(torch.zeros(1, 6)).shape == (1, 2, 3)
    assert view(torch.zeros(4, 5, 6)).shape == (20, 2, 3)
    assert View(-1)(torch.zeros(4, 6)).shape == (24,)
    assert View(-1, num_input_dims=1)(torch.zeros(4, 6)).shape == (4, 6)
    assert View(-1, num_input_dims=2)(torch.zeros(1, 4, 6)).shape == (1, 24)
    assert View(-1, num_input_dims=2)(torch.zeros(4, 6)).shape == (24,)
    assert view(torch.zeros(0, 6)).shape == (0, 2, 3)
    with pytest.raises(ValueError, match="cannot take"):
        view(torch.zeros(5))
    with pytest.raises(ValueError, match="at most one"):
        View(-1, -1)


def test_reshape_follows_its_batch_mode() -> None:
    x = torch.zeros(4, 6)
    assert Reshape(2, 3)(x).shape == (4, 2, 3)
    assert Reshape(24)(x).shape == (24,)
    assert Reshape(24)(x[None]).shape == (1, 24)
    assert Reshape(24, batch_mode=False)(x[None]).shape == (24,)
    assert Reshape(6, batch_mode=True)(x).shape == (4, 6)


def test_tables_split_and_join() -> None:
    net = nn.Sequential(ConcatTable(nn.Linear(3, 2), Identity()), JoinTable(2))
    x = torch.randn(4, 3)
    y = net(x)
    assert y.shape == (4, 5)
    assert torch.equal(y[:, 2:], x)
    parallel = ParallelTable(MulConstant(2), AddConstant(1))
    first, second = parallel([x, x])
    assert torch.equal(first, 2 * x)
    assert torch.equal(second, x + 1)
    with pytest.raises(ValueError, match="2 children got 1"):
        parallel([x])


def test_join_table_counts_without_the_batch_when_told() -> None:
    pictures = [torch.zeros(5, 2, 4, 4), torch.zeros(5, 1, 4, 4)]
    assert JoinTable(1, 3)(pictures).shape == (5, 3, 4, 4)
    assert JoinTable(2, 2)(pictures).shape == (5, 3, 4, 4)  # the face generator's c2f G
    assert JoinTable(-3)(pictures).shape == (5, 3, 4, 4)


def test_parameters_run_in_the_order_of_get_parameters() -> None:
    first, second, third = nn.Linear(2, 3), nn.PReLU(1), nn.Conv2d(1, 1, 1)
    inner = ConcatTable(nn.Sequential(first, second), third)
    net = nn.Sequential(inner, CAddTable())
    expected = [first.weight, first.bias, second.weight, third.weight, third.bias]
    assert [id(p) for p in net.parameters()] == [id(p) for p in expected]


def test_convolution_upsample_reads_planes_as_larger_images() -> None:
    layer = SpatialConvolutionUpsample(2, 3, 3, 5, factor=2)
    x = torch.randn(4, 2, 6, 7)
    y = layer(x)
    planes = nn.functional.conv2d(x, layer.weight, layer.bias, padding=(2, 1))
    assert torch.equal(y, planes.reshape(4, 3, 12, 14))
    with pytest.raises(ValueError, match="odd"):
        SpatialConvolutionUpsample(2, 3, 2, 3)


def test_cut_outs_count_from_1_and_from_the_end() -> None:
    x = torch.arange(24.0).reshape(4, 6)
    assert torch.equal(Narrow(2, 3, 2)(x), x[:, 2:4])
    assert torch.equal(Narrow(2, 2, -1)(x), x[:, 1:])
    assert torch.equal(Narrow(2, 2, -2)(x), x[:, 1:-1])
    assert torch.equal(Select(1, -1)(x), x[3])
    assert torch.equal(Padding(1, -2, 1, 7.0)(x[0]), torch.tensor([7, 7, *range(6)]))
    padded = Padding(1, 2, 1, 7.0)(x)
    assert torch.equal(padded, nn.functional.pad(x, (0, 2), value=7.0))


def test_squeeze_keeps_a_batch_of_one_when_told() -> None:
    x = torch.zeros(1, 1, 3)
    assert Squeeze()(x).shape == (3,)
    assert Squeeze(None, 2)(x).shape == (1, 3)
    assert Squeeze(1, 2)(x).shape == (1, 3)
    assert Unsqueeze(1, 2)(x).shape == (1, 1, 1, 3)


def test_fractional_pooling_places_its_windows_anew_unless_they_are_fixed() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 9, 9)
    for fixed in (False, True):
        layer = layers_pooling.FractionalMaxPooling((2, 2), (5, 5), fixed=fixed)
        assert torch.equal(layer(x), layer(x)) == fixed
        assert layer(x[0]).shape == (3, 5, 5)  # of another batch: drawn for that


def test_depth_concat_centres_smaller_maps() -> None:
    concat = layers_tables.DepthConcat(2, nn.Identity(), nn.AvgPool2d(3, stride=1))
    x = torch.ones(1, 2, 6, 5)
    y = concat(x)
    assert y.shape == (1, 4, 6, 5)
    assert torch.equal(y[:, 2:, 1:5, 1:4], torch.ones(1, 2, 4, 3))
    assert y[:, 2:].sum() == 24


def test_lookup_table_gives_no_gradient_to_its_padding_row() -> None:
    table = LookupTable(5, 2, padding_value=3)
    rows = table(torch.tensor([[1, 3], [3, 5]]))
    assert torch.equal(rows[1, 1], table.weight[4])
    rows.sum().backward()
    assert table.weight.grad.sum(1).tolist() == [2, 0, 0, 0, 2]


REMEMBERING = {"WeightNorm", "LinearWeightNorm", "SpatialMaxUnpooling", "VolumetricMaxUnpooling",
               "LookupTable"}  # fmt: skip


def test_layers_that_remember_a_pass_train_and_can_be_copied_afterwards() -> None:
    assert {entry.kind for entry in entries()} >= REMEMBERING
    for entry in entries():
        if entry.kind in REMEMBERING:
            module = to_module(case_of(entry)["net"], dtype=None).train()
            outputs = list(tensors(module(python_value(case_of(entry)["input"]))))
            torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
            assert all(p.grad is not None for p in module.parameters())
            copy.deepcopy(module)


def test_frequent_indices_share_one_gradient_when_told() -> None:
    table = LookupTable(3, 1, scale_by_freq=True)
    table(torch.tensor([1, 1, 2])).sum().backward()
    assert table.weight.grad.flatten().tolist() == [1, 1, 0]


def test_overwriting_layers_change_what_other_branches_read() -> None:
    overwriting = InPlace(nn.ReLU())
    x = torch.tensor([-1.0, 2.0])
    branches = ConcatTable(Identity(), overwriting)
    assert [y.tolist() for y in branches(x)] == [[0, 2], [0, 2]]
    assert x.tolist() == [0, 2]
    linear = nn.Linear(2, 2)
    kept = without_overwriting([linear, overwriting, linear, View(2), overwriting])
    assert [type(layer) for layer in kept] == [nn.Linear, nn.ReLU, nn.Linear, View, InPlace]


@pytest.mark.parametrize(
    ("layer", "defaults"),
    [
        (
            convolution.SpatialConvolutionMap(torch.ones(1, 2).long(), (1, 1), (3, 3)),
            {"stride": (1, 1), "full": False},
        ),
        (
            convolution.SpatialDepthWiseConvolution(2, 3, (3, 3)),
            {"stride": (1, 1), "padding": (0, 0)},
        ),
        (
            convolution.SpatialBinaryConvolution((2, 3), (3, 3)),
            {"stride": (1, 1), "padding": (0, 0)},
        ),
        (layers_pooling.SpatialSubSampling(2, (2, 2)), {"stride": (1, 1)}),
        (temporal.TemporalConvolution(2, 3, 2), {"d_w": 1, "padding": 0}),
        (temporal.TemporalRowConvolution(2, 3), {"d_w": 1, "feat_first": False}),
        (temporal.TemporalMaxPooling(3), {"d_w": 3}),
        (temporal.TemporalSubSampling(2, 3), {"d_w": 1}),
        (temporal.TemporalDynamicKMaxPooling(2), {"factor": 0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_said_is_as_in_lua(layer, defaults):
    assert {name: getattr(layer, name) for name in defaults} == defaults
    assert getattr(layer, "bias", True) is not None
