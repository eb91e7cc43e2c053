"""Files as programs of 2014 to 2017 wrote them: older versions of classes, and other layouts."""

import struct

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.random import LuaSource


def item(*parts: int | float | str | bytes) -> bytes:
    """Items of a binary file: an int, a double, a string of its length, or bytes as they are."""
    made = b""
    for part in parts:
        if isinstance(part, str):
            made += struct.pack("<i", len(part)) + part.encode()
        elif isinstance(part, bytes):
            made += part
        else:
            made += struct.pack("<d" if isinstance(part, float) else "<i", part)
    return made


def table(index: int, *pairs: bytes) -> bytes:
    """A table of tag 3 from its keys and values."""
    return item(3, index, len(pairs) // 2, *pairs)


def text(value: str) -> bytes:
    return item(2, value)


def number(value: float) -> bytes:
    return item(1, float(value))


@pytest.mark.parametrize("long_size", [8, 4])
def test_files_of_big_endian_machines(long_size: int) -> None:
    """Each kind of item, as a PowerPC or `bigEndianEncoding` writes it; written little-endian."""

    def big(code: str, *values: float) -> bytes:
        return struct.pack(">" + code.replace("l", "q" if long_size == 8 else "i"), *values)

    def named(name: str) -> bytes:
        return big("i3si", 3, b"V 1", len(name)) + name.encode()

    floats = named("torch.FloatStorage") + big("l3f", 3, 0.5, -2.0, 1e-20)
    tensor = big("2i", 4, 2) + named("torch.FloatTensor") + big("i3l", 1, 2, 1, 2)
    tensor += big("2i", 4, 3) + floats
    sizes = big("2i", 4, 4) + named("torch.LongStorage") + big("3l", 2, 7, -300)
    halves = big("2i", 4, 5) + named("torch.HalfStorage") + big("l2e", 2, 1.5, -8.0)
    small = big("2i", 4, 6) + named("torch.ByteStorage") + big("l3B", 3, 1, 2, 255)
    values = [tensor, sizes, halves, small, big("id", 1, -0.1), big("ii", 5, 1)]
    keys = [big("iis", 2, 1, b"a"), *(big("id", 1, i) for i in range(2, 7))]
    data = big("3i", 3, 1, 6) + b"".join(k + v for k, v in zip(keys, values, strict=True))
    for form in (data, save(None, load(data))):
        read = load(form)
        assert torch.equal(read["a"], torch.tensor([-2.0, 1e-20]))
        assert read[2].tolist() == [7, -300]
        assert read[3].tolist() == [1.5, -8.0]
        assert read[4].tolist() == [1, 2, 255]
        assert (read[5], read[6]) == (-0.1, True)
    assert save(None, load(data))[:4] == item(3)
    with pytest.raises(T7Error, match="truncated"):
        load(data[:-1])


SQUARE = item(4, 7, "V 1", "nn.Square", table(8))


@pytest.mark.parametrize("version", [2, 3])
def test_data_parallel_table_writes_its_devices_before_its_fields(version: int) -> None:
    """As cunn's __write of 2016: gpuAssignments, then the fields, of which one is in a cycle."""
    itself = table(10, text("dpt"), item(4, 3))
    fields = table(
        5, text("dimension"), number(1), text("modules"), table(6, number(1), SQUARE),
        text("impl"), item(4, 9, "V 1", "nn.DataParallelTable.Basic", itself),
    )  # fmt: skip
    devices = table(4, number(1), number(1), number(2), number(2))
    network = item(4, 3, f"V {version}", "nn.DataParallelTable", devices, fields)
    data = table(1, text("model"), network, text("epoch"), number(12))
    checkpoint = load(data)
    assert checkpoint["epoch"] == 12
    assert checkpoint["model"].header == Table.from_list([1, 2])
    assert to_module(checkpoint["model"])(torch.tensor([3.0])).item() == 9
    assert save(None, checkpoint).endswith(text("epoch") + number(12))


UNITS = {
    "CUDNN_LSTM": (nn.LSTM, {}),
    "CUDNN_GRU": (nn.GRU, {}),
    "CUDNN_RNN_TANH": (nn.RNN, {}),
    "CUDNN_RNN_RELU": (nn.RNN, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("mode", UNITS)
def test_cudnn_recurrent_layers_whose_inputs_are_skipped(mode: str) -> None:
    """No matrix for the first layer's inputs: they are added to each gate (a unit matrix)."""
    kind, options = UNITS[mode]
    torch.manual_seed(3)
    unit = kind(4, 4, 2, bidirectional=True, **options)
    parts = dict(unit.named_parameters())
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            parts[name].copy_(torch.eye(4).repeat(len(parts[name]) // 4, 1))
    kept = [n for n in parts if n.startswith("weight") and "ih_l0" not in n]
    kept += [n for n in parts if n.startswith("bias")]
    obj = TorchObject("cudnn.RNN", Table(
        mode=mode, inputSize=4, hiddenSize=4, numLayers=2, numDirections=2,
        inputMode="CUDNN_SKIP_INPUT", dropout=0, batchFirst=False, rememberStates=False,
        weight=torch.cat([parts[name].detach().reshape(-1) for name in kept]),
    ))  # fmt: skip
    x = torch.randn(7, 2, 4)
    for module in (to_module(obj), to_module(from_module(to_module(obj), as_read=False))):
        torch.testing.assert_close(module(x), unit(x)[0])


def cudnn_rnn(
    mode: str, layers: int, directions: int, name: str = "RNN", **fields: object
) -> tuple[nn.Module, TorchObject]:
    """A recurrent layer of torch, and the object of cudnn.torch with the same weights."""
    kind, options = UNITS[mode]
    torch.manual_seed(3)
    unit = kind(5, 4, layers, bidirectional=directions == 2, **options)
    named = dict(unit.named_parameters())
    ordered = [part for key, part in named.items() if key.startswith("weight")]
    ordered += [part for key, part in named.items() if key.startswith("bias")]
    weight = torch.cat([part.detach().reshape(-1) for part in ordered])
    return unit, TorchObject(f"cudnn.{name}", Table(
        mode=mode, inputSize=5, hiddenSize=4, numLayers=layers, numDirections=directions,
        inputMode="CUDNN_LINEAR_INPUT", dropout=0, batchFirst=False, rememberStates=False,
        weight=weight, train=False, _type="torch.CudaTensor", **fields,
    ))  # fmt: skip


@pytest.mark.parametrize("mode", UNITS)
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (3, 2)])
def test_cudnn_recurrent_layers(mode: str, layers: int, directions: int) -> None:
    unit, obj = cudnn_rnn(mode, layers, directions)
    x = torch.randn(7, 2, 5)
    for module in (to_module(obj), to_module(from_module(to_module(obj)))):
        torch.testing.assert_close(module(x), unit(x)[0])
        torch.testing.assert_close(module(x), unit(x)[0])  # nothing is remembered


def test_cudnn_recurrent_layers_remember_where_they_say_so() -> None:
    unit, obj = cudnn_rnn("CUDNN_GRU", 2, 1, "GRU")
    obj.fields.update(rememberStates=True, batchFirst=True)
    module, x = to_module(obj), torch.randn(2, 6, 5)
    whole = unit(x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(torch.cat([module(x[:, :4]), module(x[:, 4:])], 1), whole)
    module.forget()
    torch.testing.assert_close(module(x), whole)


@pytest.mark.parametrize("remembers", [True, False])
def test_cudnn_recurrent_layers_begin_with_the_state_in_their_file(remembers: bool) -> None:
    """RNN.lua starts at the inputs that a program set; where it remembers, it replaces them by the
    outputs of the last call, or by nothing if the batch had another size."""
    unit, obj = cudnn_rnn("CUDNN_LSTM", 2, 1, "LSTM")
    x, state = torch.randn(3, 6, 5), torch.randn(4, 2, 6, 4)
    obj.fields.update(hiddenInput=state[0], cellInput=state[1], rememberStates=remembers)
    obj.fields.update(hiddenOutput=state[2], cellOutput=state[3])
    start = (state[2], state[3]) if remembers else (state[0], state[1])
    first, after = unit(x, start)
    second = unit(x, after if remembers else start)[0]
    for module in (to_module(obj), to_module(from_module(to_module(obj)))):
        torch.testing.assert_close(module(x), first)
        torch.testing.assert_close(module(x), second)
    double = to_module(obj).double()  # which takes along what is remembered
    torch.testing.assert_close(double(x.double()), first.double(), atol=1e-5, rtol=1e-5)
    obj.fields.update(hiddenInput=state[0, 0], hiddenOutput=state[0, 0])
    if remembers:
        for again in (module, to_module(obj)):
            torch.testing.assert_close(again(x[:, :2]), unit(x[:, :2])[0])
        return
    with pytest.raises(ValueError, match="a batch of 6, the input has 2: set hidden and cell"):
        module(x[:, :2])
    with pytest.raises(T7Error, match=r"hiddenInput has shape \(6, 4\), expected \(2, batch, 4\)"):
        to_module(obj)


@pytest.mark.parametrize("cell", [None, (2, 5, 4)])
def test_a_remembered_cell_of_another_size_is_taken_for_zeros(cell: tuple[int, ...] | None) -> None:
    unit, obj = cudnn_rnn("CUDNN_LSTM", 2, 1, "LSTM")
    x, hidden = torch.randn(3, 6, 5), torch.randn(2, 6, 4)
    obj.fields.update(hiddenOutput=hidden, rememberStates=True)
    if cell:
        obj.fields.update(cellOutput=torch.randn(cell))
    first = unit(x, (hidden, torch.zeros(2, 6, 4)))[0]
    torch.testing.assert_close(to_module(obj)(x), first)


def test_cudnn_recurrent_layers_of_other_kinds_are_refused() -> None:
    _, obj = cudnn_rnn("CUDNN_LSTM", 1, 2, "BLSTM")
    for field, value, why in [
        ("inputMode", "CUDNN_INPUT", "none of CUDNN_LINEAR_INPUT, CUDNN_SKIP_INPUT"),
        ("inputMode", "CUDNN_SKIP_INPUT", "as many inputs as outputs, not 5 for 4"),
        ("mode", "LSTM", "none of CUDNN_LSTM"),
        ("numDirections", 3, "two directions"),
        ("hiddenSize", 3, "weight has shape"),
        ("numLayers", 2**30, "more than 1000"),
    ]:
        changed = TorchObject(obj.typename, Table(obj.fields, **{field: value}))
        with pytest.raises(T7Error, match=f"cudnn.BLSTM: .*{why}"):
            to_module(changed)


@pytest.mark.parametrize("padding", [0, 2])
def test_cudnn_convolution_over_time_has_its_window_as_height(padding: int) -> None:
    torch.manual_seed(4)
    kernel, bias = torch.randn(6, 5, 3), torch.randn(6)  # (out, in, time)
    obj = TorchObject("cudnn.TemporalConvolution", Table(
        inputFrameSize=5, outputFrameSize=6, nInputPlane=1, nOutputPlane=6, kW=5, kH=3, dW=1,
        dH=2, padW=0, padH=padding, weight=kernel.transpose(1, 2).reshape(6, 15), bias=bias,
    ))  # fmt: skip
    x = torch.randn(2, 11, 5)
    expected = F.conv1d(x.transpose(1, 2), kernel, bias, 2, padding).transpose(1, 2)
    for module in (to_module(obj), to_module(from_module(to_module(obj)))):
        torch.testing.assert_close(module(x), expected)


def test_full_convolution_of_volumes_before_adj_had_its_weight_the_other_way() -> None:
    """nn of 2015: (out, in, T, H, W), and the padding by shorter names."""
    torch.manual_seed(5)
    kernel, bias = torch.randn(2, 3, 2, 4, 3), torch.randn(3)  # (in, out, T, H, W), as torch has it
    obj = TorchObject("nn.VolumetricFullConvolution", Table(
        nInputPlane=2, nOutputPlane=3, kT=2, kH=4, kW=3, dT=1, dH=2, dW=1, pT=1, pH=1, pW=0,
        weight=kernel.transpose(0, 1).contiguous(), bias=bias, _type="torch.FloatTensor",
    ))  # fmt: skip
    x = torch.randn(1, 2, 3, 4, 5)
    expected = F.conv_transpose3d(x, kernel, bias, (1, 2, 1), (1, 1, 0))
    for module in (to_module(obj), to_module(from_module(to_module(obj)))):
        torch.testing.assert_close(module(x), expected)


def test_noise_can_be_drawn_from_lua_s_generator() -> None:
    """As `old-files.md` says; dropouts are compared with Lua's own draws in test_layers."""
    x = torch.linspace(0.1, 0.9, 12).reshape(3, 4)
    stdev = torch.full((4,), 2.0)
    drawn = {
        "WhiteNoise": lambda source: x + source.normal_(torch.empty(3, 4), 1, 0.5),
        "ReinforceNormal": lambda source: x + 2 * source.normal_(torch.empty(3, 4), 0, 1),
        "ReinforceBernoulli": lambda source: (source.uniform_(torch.empty(3, 4), 0, 1) < x).float(),
    }
    for name, expected in drawn.items():
        module = to_module(TorchObject(f"nn.{name}", Table(mean=1, std=0.5, stdev=stdev)))
        set_random_source(module, LuaSource(9))
        torch.testing.assert_close(module(x), expected(LuaSource(9)))
    slopes = to_module(TorchObject("nn.RReLU", Table()))
    set_random_source(slopes, LuaSource(9))
    torch.manual_seed(1)
    first = slopes(-x)
    assert not torch.equal(slopes(-x), first)
    torch.manual_seed(1)
    assert torch.equal(slopes(-x), first)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 4, 4), (2, 3, 4, 4)])
def test_soft_max_of_cudnn_is_over_all_of_an_image(shape: tuple[int, ...]) -> None:
    """Its mode is that of whole instances, whereas nn's is over the channels of each pixel."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    flat = x.flatten(1) if len(shape) in (2, 4) else x.reshape(1, -1)
    expected = (flat.exp() / flat.exp().sum(1, keepdim=True)).reshape(shape)
    soft, logs = (to_module(TorchObject(f"cudnn.{n}SoftMax", Table())) for n in ("", "Log"))
    torch.testing.assert_close(soft(x), expected)
    torch.testing.assert_close(logs(x), expected.log())
    assert from_module(soft).typename == "nn.SoftMax"
    assert from_module(logs).typename == "nn.LogSoftMax"


def test_bytes_become_real_numbers_where_lua_copies_them() -> None:
    """As crnn's network begins; of bytes 0 - 128 would be 128."""
    parts = [("Copy", {"output": torch.empty(0)}), ("AddConstant", {"constant_scalar": -128}),
             ("MulConstant", {"constant_scalar": 1 / 128})]  # fmt: skip
    layers = [TorchObject(f"nn.{name}", Table(fields)) for name, fields in parts]
    network = TorchObject("nn.Sequential", Table(modules=Table.from_list(layers)))
    x = torch.tensor([0, 64, 255], dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64, None):
        y = to_module(network, dtype)(x)
        assert y.dtype == (dtype or torch.float32)
        torch.testing.assert_close(y, ((x.double() - 128) / 128).to(y.dtype))
    alone = TorchObject("nn.Sequential", Table(modules=Table.from_list(layers[1:])))
    torch.testing.assert_close(to_module(alone)(x), (x.float() - 128) / 128)
    twice = to_module(TorchObject("nn.MulConstant", Table(constant_scalar=2)))
    assert twice(x).tolist() == [0, 128, 510]
    index = to_module(TorchObject("nn.Copy", Table(output=torch.empty(0, dtype=torch.int64))))
    assert index(x) is x


def test_soft_max_of_volumes_is_over_channels() -> None:
    x = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(7))
    expected = x.exp() / x.exp().sum(1, keepdim=True)
    soft, logs = (
        to_module(TorchObject(f"cudnn.Volumetric{n}SoftMax", Table())) for n in ("", "Log")
    )
    torch.testing.assert_close(soft(x), expected)
    torch.testing.assert_close(soft(x[0]), expected[0])
    torch.testing.assert_close(logs(x), expected.log())


def test_the_first_cudnn_had_a_class_that_overwrites() -> None:
    """Its name says what later is a field; a branch beside it sees what it wrote."""
    relu = TorchObject("cudnn.ReLUInPlace", Table(mode="CUDNN_ACTIVATION_RELU"))
    beside = TorchObject("nn.Square", Table())
    both = TorchObject("nn.ConcatTable", Table(modules=Table.from_list([relu, beside])))
    for module in (to_module(both), to_module(load(save(None, from_module(to_module(both)))))):
        x = torch.tensor([[-2.0, 3.0]])
        y = module(x)
        assert [part.tolist() for part in (*y, x)] == [[[0, 3]], [[0, 9]], [[0, 3]]]
