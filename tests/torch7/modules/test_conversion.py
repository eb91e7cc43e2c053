"""Whole networks from files of the real Lua Torch 7, and what is shared, old or wrong in them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save
from eyescream_py.torch7 import to_module as module_of
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.shapes import Identity
from eyescream_py.torch7.layers.stochastic import Dropout
from eyescream_py.torch7.modules.conversion import MAX_DEPTH

from ..class_cases import linear, sequential

GOLDEN = Path(__file__).parents[2] / "golden"
OUTPUTS = json.loads((GOLDEN / "nets.json").read_text())
NETWORKS = {
    "adversarial_mini.net": ("D", "G"),
    "adversarial_mini_cuda.net": ("D", "G"),
    "adversarial_c2f_4_to_8_mini.net": ("D", "G"),
    "autoencoder_mini.net": ("AE",),
    "denoiser_1x8x8_mini.net": ("AE1_ENCODER", "AE1_DECODER", "AE2_DECODER"),
    "upsampling_generator_mini.net": ("D", "G"),
}
EVERY_NETWORK = [(file, key) for file, keys in NETWORKS.items() for key in keys]


def golden(network: str, name: str) -> Tensor:
    entry = OUTPUTS[network][name]
    return torch.tensor(entry["data"], dtype=torch.float32).reshape(entry["shape"])


def networks(file: str, through_bytes: bool) -> list[nn.Module]:
    """The file's networks in evaluation, ``through_bytes``: written and read again."""
    modules = [module_of(load(GOLDEN / file)[key], place=key) for key in NETWORKS[file]]
    if through_bytes:
        modules = [module_of(load(save(None, from_module(m)))) for m in modules]
    return [m.eval() for m in modules]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("through_bytes", [False, True])
class TestOutputsOfLuaTorch:
    @pytest.mark.parametrize("file", ["adversarial_mini.net", "adversarial_mini_cuda.net"])
    def test_adversarial(self, file: str, through_bytes: bool) -> None:
        D, G = networks(file, through_bytes)
        images = G(golden("adversarial", "z"))
        assert_near(images, golden("adversarial", "images"))
        assert_near(D(images), golden("adversarial", "predictions"))

    def test_c2f(self, through_bytes: bool) -> None:
        D, G = networks("adversarial_c2f_4_to_8_mini.net", through_bytes)
        coarse = golden("c2f", "coarse")
        diff = G([golden("c2f", "noise"), coarse])
        assert_near(diff, golden("c2f", "diff"))
        assert_near(D([diff, coarse]), golden("c2f", "predictions"))

    def test_autoencoder(self, through_bytes: bool) -> None:
        (AE,) = networks("autoencoder_mini.net", through_bytes)
        assert_near(AE(golden("autoencoder", "x")), golden("autoencoder", "y"))

    def test_denoiser(self, through_bytes: bool) -> None:
        encoder, decoder, _ = networks("denoiser_1x8x8_mini.net", through_bytes)
        assert_near(decoder(encoder(golden("denoiser", "x"))), golden("denoiser", "y"))

    def test_upsampling_generator(self, through_bytes: bool) -> None:
        _, G = networks("upsampling_generator_mini.net", through_bytes)
        assert_near(G(golden("upsampling", "z")), golden("upsampling", "images"))


def objects_of(obj: TorchObject) -> list[TorchObject]:
    children = obj.fields.get("modules", Table()).to_list()
    return [obj, *(inner for child in children for inner in objects_of(child))]


# What Lua makes during a forward or backward pass where it is missing, and what not every version
# of nn has: finput and fgradInput came with the move of convolutions into THNN.
BUFFERS = {"save_mean", "save_std", "addBuffer", "gradWeightBuf", "gradWeightBuf2", "train"}
BUFFERS |= {"finput", "fgradInput"}


@pytest.mark.parametrize(("file", "key"), EVERY_NETWORK)
def test_written_fields_are_those_that_lua_wrote(file: str, key: str) -> None:
    original = load(GOLDEN / file)[key]
    module = module_of(original)
    for parameter in module.parameters():
        parameter.grad = 2 * parameter.detach() + 1
    written = objects_of(from_module(module))
    pairs = list(zip(objects_of(original), written, strict=True))
    assert pairs
    for old, new in pairs:
        assert new.version == old.version
        assert new.typename in (old.typename, old.typename.replace("cudnn.", "nn."))
        names = set(new.fields) - BUFFERS
        expected = set(old.fields) - BUFFERS
        if old.typename == "cudnn.SpatialConvolution":
            expected -= {"groups"}  # written as nn.SpatialConvolution
        assert names == expected, old.typename
        for name in expected - {"output", "gradInput", "modules", "noise", "indices", "_type"}:
            field = f"{old.typename}.{name}"
            assert_same_field(new.fields[name], old.fields[name], field)
            if name.startswith("grad"):
                of = new.fields[name.removeprefix("grad").lower()]
                assert torch.equal(new.fields[name], 2 * of + 1), field


def assert_same_field(new: Any, old: Any, name: str) -> None:
    if isinstance(old, Tensor):
        assert new.shape == old.shape, name
        assert "grad" in name or torch.equal(new, old.float()), name
    elif isinstance(old, bool | int | float | str):
        assert new == old, name
    else:
        assert type(new) is type(old), name
        if name == "nn.View.size":
            assert new.tolist() == old.tolist()


@pytest.mark.parametrize(("file", "key"), EVERY_NETWORK)
def test_round_trip_keeps_parameters_buffers_and_training(file: str, key: str) -> None:
    module = module_of(load(GOLDEN / file)[key])
    again = module_of(load(save(None, from_module(module))))
    assert str(again) == str(module)
    assert [m.training for m in again.modules()] == [m.training for m in module.modules()]
    state = module.state_dict()
    assert list(again.state_dict()) == list(state)
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]), name
        assert value.dtype == state[name].dtype


def test_networks_of_a_file_train() -> None:
    torch.manual_seed(0)
    D = module_of(load(GOLDEN / "adversarial_mini.net")["D"])
    D(torch.rand(4, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in D.parameters())


def test_reading_draws_no_random_numbers_and_leaves_the_file_alone() -> None:
    obj = load(GOLDEN / "adversarial_mini.net")["G"]
    before = torch.get_rng_state()
    module = module_of(obj)
    assert torch.equal(torch.get_rng_state(), before)
    weight = obj.fields["modules"][2].fields["modules"][1].fields["weight"]
    values = weight.clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert torch.equal(weight, values)


def test_training_flags_come_over() -> None:
    dropout = TorchObject("nn.Dropout", Table(p=0.5, v2=True, train=False))
    net = module_of(sequential(dropout, TorchObject("nn.Dropout", Table(p=0.5, v2=True))))
    assert [m.training for m in net.modules()] == [True, False, True]
    assert [o.fields["train"] for o in objects_of(from_module(net))] == [True, False, True]


def test_types_become_float_unless_told_otherwise() -> None:
    obj = linear(weight=torch.randn(2, 3).double(), bias=torch.randn(2).double())
    assert module_of(obj).weight.dtype == torch.float32
    double = module_of(obj, dtype=None)
    assert double.weight.dtype == torch.float64
    assert from_module(double).fields["_type"] == "torch.DoubleTensor"
    assert from_module(double).fields["weight"].dtype == torch.float64
    half = from_module(double.bfloat16())
    assert half.fields["_type"] == "torch.FloatTensor"
    assert half.fields["weight"].dtype == torch.float32


def test_arguments_of_another_kind_are_told() -> None:
    for dtype in ("float", torch.int64):
        with pytest.raises(TypeError, match=f"not {dtype}"):
            module_of(from_module(nn.Tanh()), dtype)
    for module in (None, nn.Linear):
        with pytest.raises(TypeError, match="from_module takes a torch module, not "):
            from_module(module)


def test_gradients_are_written() -> None:
    layer = nn.Linear(2, 1)
    assert torch.equal(from_module(layer).fields["gradWeight"], torch.zeros(1, 2))
    layer(torch.ones(1, 2)).sum().backward()
    assert torch.equal(from_module(layer).fields["gradWeight"], torch.ones(1, 2))


def test_channels_last_weights_are_written_in_lua_order() -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    written = load(save(None, from_module(conv))).fields["weight"]
    assert written.is_contiguous()
    assert torch.equal(written, conv.weight)


# Files of older versions of nn.


def convolution(**fields: Any) -> TorchObject:
    planes = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 3, "kH": 5, "dW": 1, "dH": 2}
    return TorchObject("nn.SpatialConvolutionMM", Table(**{**planes, **fields}))


def test_two_dimensional_convolution_weights_and_one_padding() -> None:
    weight, bias = torch.randn(3, 30), torch.randn(3)
    module = module_of(convolution(weight=weight, bias=bias, padding=1))
    x = torch.randn(2, 2, 9, 8)
    expected = nn.functional.conv2d(x, weight.view(3, 2, 5, 3), bias, (2, 1), 1)
    assert_near(module(x), expected)
    without = module_of(convolution(weight=weight))
    assert without.bias is None
    assert without.padding == (0, 0)
    assert "bias" not in from_module(without).fields


def test_batch_normalisation_version_1() -> None:
    std = torch.tensor([0.5, 2.0])  # 1/sqrt(variance + eps)
    fields = Table(running_mean=torch.tensor([1.0, -1.0]), running_std=std, eps=1e-3, train=False)
    obj = TorchObject("nn.BatchNormalization", fields, version=1)
    x = torch.randn(4, 2)
    assert_near(module_of(obj)(x), (x - torch.tensor([1.0, -1.0])) * std)
    written = from_module(module_of(obj))
    assert written.version == 2
    assert_near(written.fields["running_var"], std**-2 - 1e-3)
    assert "running_std" not in written.fields


def test_missing_fields_have_luas_defaults() -> None:
    pool = module_of(TorchObject("nn.SpatialMaxPooling", Table(kW=2, kH=3)))
    assert (pool.kernel_size, pool.stride, pool.padding) == ((3, 2), (3, 2), (0, 0))
    assert not module_of(TorchObject("nn.Dropout", Table(p=0.5))).scaled
    assert module_of(TorchObject("LeakyReLU", Table())).negative_slope == 0.333


def test_average_pooling_without_divide_sums_except_in_cudnn() -> None:
    window, x = Table(kW=2, kH=2, dW=2, dH=2, padW=1, padH=1), torch.ones(1, 1, 2, 2)
    assert module_of(TorchObject("nn.SpatialAveragePooling", window))(x).unique() == 1
    assert module_of(TorchObject("cudnn.SpatialAveragePooling", window))(x).unique() == 0.25
    excluding = Table(window, mode="CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING")
    assert module_of(TorchObject("cudnn.SpatialAveragePooling", excluding))(x).unique() == 1


# What no file of Lua Torch holds, or no torch module can be.


def test_an_unknown_class_is_named_with_its_place() -> None:
    foo = TorchObject("nn.Foo", Table())
    with pytest.raises(T7Error) as error:
        module_of(sequential(linear(), sequential(linear(), foo)), place="D")
    assert str(error.value) == (
        "D: nn.Sequential > (2) nn.Sequential > (2) nn.Foo: "
        "no torch module is known for the class nn.Foo; "
        'add yours with eyescream_py.torch7.register("nn.Foo", build)'
    )
    with pytest.raises(T7Error, match=r"inn\.ReLU"):
        module_of(TorchObject("inn.ReLU", Table()))


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (Table(D=1, G=2), "expected an nn object, found a table with the keys D, G"),
        (None, "found nothing"),
        (sequential(3), r"\(1\) expected an nn object, found a int"),
        (TorchObject("nn.Linear", None), "no table of fields"),
        (TorchObject("nn.Sequential", Table()), "the field modules is missing"),
        (TorchObject("nn.Sequential", Table(modules=1)), "modules is no table"),
        (linear(weight="x"), "weight is no tensor of real numbers"),
        (linear(weight=torch.zeros(2, 3, dtype=torch.int64)), "no tensor of real numbers"),
        (linear(weight=torch.zeros(6)), r"expected \(outputs, inputs\)"),
        (linear(bias=torch.zeros(3)), r"bias has shape \(3,\), expected \(2,\)"),
        (linear(weight=torch.zeros(1).expand(2**13, 2**13)), "repeats its memory"),
        (convolution(weight=torch.zeros(3, 29)), r"weight has shape \(3, 29\)"),
        (convolution(nInputPlane=0), "nInputPlane has to be at least 1"),
        (convolution(nInputPlane=1.5), "no usable whole number"),
        (convolution(nInputPlane=2**40), "no usable whole number"),
        (convolution(nInputPlane=True), "no number but bool"),
        (convolution(nInputPlane=float("nan")), "no usable whole number"),
        (convolution(weight=torch.zeros(90), groups=7), "torch refuses the layer"),
        (convolution(nOutputPlane=2**31 - 1, nInputPlane=2**31 - 1, kH=2**31 - 1), "torch refuses"),
        (TorchObject("nn.Dropout", Table(p=2)), "probability 2 is outside"),
        (TorchObject("nn.HardTanh", Table(min_val=2, max_val=1)), "torch refuses the layer"),
        (TorchObject("nn.View", Table(size="x")), "size is no list of sizes"),
        (TorchObject("nn.View", Table(size=Table.from_list([-1, -1]))), "at most one may be -1"),
        (TorchObject("nn.View", Table(size=Table.from_list([4, -2]))), "none less"),
        (TorchObject("nn.Transpose", Table(permutations=1)), "no list of pairs"),
        (TorchObject("nn.Transpose", Table(permutations=Table({1: 2}))), "no list of pairs"),
        (TorchObject("nn.Power", Table(pow="x")), "pow is no number but str"),
        (TorchObject("nn.UpSampling", Table(scale_factor=2, mode="cubic")), "cubic"),
        (TorchObject("nn.LookupTable", Table(maxNorm=1)), "weight is missing"),
        (sequential(typename="nn.GPU"), "wraps no module"),
    ],
)
def test_impossible_objects_are_refused(obj: Any, message: str) -> None:
    with pytest.raises(T7Error, match=message):
        module_of(obj)


def test_containers_without_end_are_refused() -> None:
    cycle = sequential(linear())
    cycle.fields["modules"][2] = sequential(cycle)
    with pytest.raises(T7Error, match="holds itself"):
        module_of(cycle)
    deep = linear(3, 3)
    for _ in range(MAX_DEPTH - 1):
        deep = sequential(deep)
    assert module_of(deep)(torch.ones(1, 3)).shape == (1, 3)
    with pytest.raises(T7Error, match="containers within each other"):
        module_of(sequential(deep))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.GELU())), r"\(2\) \(1\) GELU"),
        (nn.Conv2d(1, 1, 3, padding_mode="reflect"), "padding_mode='reflect'"),
        (nn.Conv2d(1, 1, 3, padding="same"), "padding='same'"),
        (nn.Conv2d(2, 2, 3, groups=2, dilation=2), "both groups and dilation"),
        (nn.ConvTranspose2d(2, 2, 3, groups=2), "groups and dilation"),
        (nn.BatchNorm2d(2, momentum=None), "momentum"),
        (nn.BatchNorm2d(2, track_running_stats=False), "running statistics"),
        (nn.InstanceNorm2d(2, track_running_stats=True), "running statistics"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override=3"),
        (nn.AdaptiveAvgPool2d((None, 2)), "both output sizes"),
    ],
)
def test_modules_that_lua_lacks_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(T7Error, match=message):
        from_module(module)


def test_torchs_own_modules_are_written_as_their_lua_counterparts() -> None:
    net = nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Identity())
    again = module_of(from_module(net))
    kinds = [LeakyReLU, Dropout, Identity]
    assert [type(m) for m in again] == kinds
    assert (again[0].negative_slope, again[1].p, again[1].scaled) == (0.2, 0.3, True)
