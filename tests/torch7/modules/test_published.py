"""Layers and models of public programs, against their Lua sources' formulas, in numpy."""

from typing import Any

import numpy as np
import pytest
import torch

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.graph import GraphModule, GraphNode
from eyescream_py.torch7.layers.activations import LogSoftMax
from eyescream_py.torch7.layers.captions import DensecapModel, NeuraltalkModel
from eyescream_py.torch7.layers.shapes import Reshape
from eyescream_py.torch7.layers.stochastic import set_random_source
from eyescream_py.torch7.layers.tables import CAddTable, CMulTable, SplitTable
from eyescream_py.torch7.random import LuaSource

from ..class_cases import modules, node, random, storage

IMAGES = random(4, 6, 5, 7).double()


def opened_as(name: str, **fields: Any) -> list[torch.nn.Module]:
    """The module in double, and what comes back of what is written of it, both ways."""
    obj = TorchObject(name, Table(fields))
    module = to_module(obj, None)
    again = [to_module(load(save(None, from_module(module, how))), None) for how in (True, False)]
    return [module, *again]


def test_noise_fills_the_last_planes() -> None:
    """texture_nets: uniform() of those planes alone, times mult, which the first version lacks."""
    for fields, scale in (({"mult": 3.0}, 3.0), ({}, 1.0)):
        for module in opened_as("nn.NoiseFill", num_noise_channels=2, **fields):
            set_random_source(module, LuaSource(5))
            noise = LuaSource(5).uniform_(torch.empty(4, 2, 5, 7, dtype=torch.float64), 0, 1)
            expected = torch.cat([IMAGES[:, :4], scale * noise], 1)
            torch.testing.assert_close(module(IMAGES), expected, rtol=0, atol=0)
    for module in opened_as("nn.NoiseFill", num_noise_channels=2, mult=0.5, buffer=random(0)):
        y = module(IMAGES)
        assert torch.equal(y[:, :6], IMAGES)
        assert y.shape == (4, 8, 5, 7)
        assert -0.5 <= y[:, 6:].min() < -0.3 < 0.3 < y[:, 6:].max() <= 0.5
    x = IMAGES.clone().requires_grad_()
    layer = to_module(node("nn.NoiseFill", num_noise_channels=2), None)
    layer(x).backward(IMAGES)  # gradInput is gradOutput
    assert torch.equal(x.grad, IMAGES)
    with pytest.raises(ValueError, match="noise for 2 planes, the input has 1"):
        layer(IMAGES[:, :1])


def test_noise_within_masks() -> None:
    """texture_nets' doodles: the masks, noise times the masks, and noise alone, drawn in turn."""
    fields = {"n_colors": 6, "num_mask_noise_times": 2, "num_noise_channels": 3}
    scales = {"mult_noise_mask": 3.0, "mult_noise": 0.5}
    obj = node("nn.NoiseFill", **fields, **scales)
    module = to_module(obj, None)
    for opened in (module, to_module(load(save(None, from_module(module))), None)):
        set_random_source(opened, LuaSource(5))
        draws = LuaSource(5)
        noise = [draws.uniform_(torch.empty(4, n, 5, 7).double(), 0, 1) for n in (6, 6, 3)]
        within = [3 * part * IMAGES for part in noise[:2]]
        expected = torch.cat([IMAGES, *within, noise[2] / 2], 1)
        torch.testing.assert_close(opened(IMAGES), expected)
    with pytest.raises(ValueError, match="6 masks are needed, the input has 2"):
        module(IMAGES[:, :2])
    for name in fields:
        with pytest.raises(T7Error, match="planes cannot be"):
            to_module(node("nn.NoiseFill", **{**fields, name: -1}))
    with pytest.raises(T7Error, match="planes cannot be"):  # each would be an empty draw
        to_module(node("nn.NoiseFill", **{**fields, "n_colors": 0, "num_mask_noise_times": 2**30}))


def test_noise_of_the_input_s_size() -> None:
    for module in opened_as("nn.GenNoise", num_planes=3, mult=2):
        set_random_source(module, LuaSource(5))
        noise = LuaSource(5).normal_(torch.empty(4, 3, 5, 7, dtype=torch.float64), 0, 1)
        torch.testing.assert_close(module(IMAGES), 2 * noise, rtol=0, atol=0)
    x = IMAGES.clone().requires_grad_()
    to_module(node("nn.DummyGradOutput"))(x).sum().backward()
    assert not x.grad.any()


def test_symmetric_padding_repeats_the_border() -> None:
    sides = {"pad_l": 2, "pad_r": 1, "pad_t": 3, "pad_b": -1}
    wide = np.pad(IMAGES.numpy()[:, :, :-1], ((0, 0), (0, 0), (3, 0), (2, 1)), "symmetric")
    for module in opened_as("nn.SpatialSymmetricPadding", **sides):
        x = IMAGES.clone().requires_grad_()
        y = module(x)
        assert (y.detach().numpy() == wide).all()
        grad = random(*y.shape, seed=3).double()
        y.backward(grad)  # as SpatialZeroPadding's: what is mirrored gives nothing back
        expected = torch.zeros_like(x)
        expected[:, :, :-1] = grad[:, :, 3:, 2:-1]
        assert torch.equal(x.grad, expected)
    whole = {"pad_l": 0, "pad_r": 0, "pad_t": 5, "pad_b": 0}
    twice = to_module(node("nn.SpatialSymmetricPadding", **whole))(IMAGES)
    assert torch.equal(twice[:, :, :5], IMAGES.flip(2))
    with pytest.raises(ValueError, match="5 pixels cannot be mirrored 6 wide"):
        to_module(node("nn.SpatialSymmetricPadding", pad_l=0, pad_r=0, pad_t=6, pad_b=0))(IMAGES)


def test_binary_activations() -> None:
    for module in opened_as("nn.BinActiveZ"):
        x = torch.tensor([-2.0, -1, -0.5, 0, 0.3, 1, 1.5], requires_grad=True)
        y = module(x)
        assert y.tolist() == [-1, -1, -1, 0, 1, 1, 1]
        y.backward(torch.arange(1.0, 8))
        assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_the_atari_player_s_rectifier() -> None:
    x = torch.tensor([-2.0, 0, 3], requires_grad=True)
    y = to_module(node("nn.Rectifier"))(x)
    y.sum().backward()
    assert (y.tolist(), x.grad.tolist()) == ([0, 0, 3], [0, 0, 1])


def test_stereo_matching() -> None:
    """The layers of mc-cnn's fast and slow networks, by its CUDA code."""
    x = IMAGES.numpy()
    norm = np.sqrt((x**2).sum(1, keepdims=True) + 1e-5)
    for module in opened_as("nn.Normalize2"):
        np.testing.assert_allclose(module(IMAGES), x / norm, rtol=1e-12)
    for module in opened_as("nn.L2Normalize"):
        rows = IMAGES[:, 0, 0]
        np.testing.assert_allclose(module(rows), rows / rows.norm(dim=1, keepdim=True), rtol=1e-12)
    for module in opened_as("nn.StereoJoin1"):
        expected = np.stack([(x[0] * x[1]).sum(0), (x[2] * x[3]).sum(0)])[:, None]
        np.testing.assert_allclose(module(IMAGES), expected, rtol=1e-12)
    expected = np.full((1, 9, 5, 7), np.nan)
    for d in range(7):
        for column in range(d, 7):
            expected[0, d, :, column] = -(x[0, :, :, column] * x[1, :, :, column - d]).sum(0)
    for module in opened_as("nn.StereoJoin", disp_max=9):
        np.testing.assert_allclose(module(IMAGES[:2]), expected, rtol=1e-12)
        with pytest.raises(ValueError, match=r"takes \(2,C,H,W\), not \(3, 6, 5, 7\)"):
            module(IMAGES[:3])
    with pytest.raises(ValueError, match="pairs of images, not 3"):
        to_module(node("nn.StereoJoin1"))(IMAGES[:3])  # one image would be spread over two
    weight, bias = random(3, 6).double(), random(1, 3, 1, 1).double()
    for module in opened_as("nn.SpatialConvolution1_fw", weight=weight, bias=bias):
        expected = np.einsum("of,nfhw->nohw", weight, x) + bias.numpy()
        np.testing.assert_allclose(module(IMAGES).detach(), expected, rtol=1e-12)


def test_shake_shake() -> None:
    """waifu2x: draws of both passes, alpha for the outputs and beta for the gradients."""
    for module in opened_as("w2nn.ShakeShakeTable"):
        set_random_source(module, LuaSource(8))
        draws = LuaSource(8)
        alpha, beta = (draws.uniform_(torch.empty(4, 1, 1, 1).double(), 0, 1) for _ in range(2))
        pair = [IMAGES.clone().requires_grad_(), (IMAGES + 1).requires_grad_()]
        y = module(pair)
        torch.testing.assert_close(y, 2 * ((1 - alpha) * pair[0] + alpha * pair[1]))
        y.sum().backward()
        torch.testing.assert_close(pair[0].grad, beta.expand_as(IMAGES))
        torch.testing.assert_close(pair[1].grad, (1 - beta).expand_as(IMAGES))
        assert torch.equal(module.eval()(pair), pair[0] + pair[1])


def test_an_unknown_class_tells_what_may_open_alone() -> None:
    """Some programs keep their networks in fields, some in a table."""
    mask = node("nn.Detector", trunk=node("nn.Tanh"), branch=node("nn.Tanh"), fSz=10)
    with pytest.raises(T7Error, match=r"may open alone: trunk, branch$"):
        to_module(mask)
    caption = node("nn.Captioner", nets=Table(recog_base=node("nn.Tanh")), net=node("nn.Tanh"))
    with pytest.raises(T7Error, match=r"may open alone: net, nets\.recog_base$"):
        to_module(caption)


def linear(outputs: int, inputs: int, seed: int, bias: bool = True) -> TorchObject:
    more = {"bias": random(outputs, seed=seed + 1).double()} if bias else {}
    return node("nn.Linear", weight=random(outputs, inputs, seed=seed).double(), **more)


def test_openmt_s_wrappers_are_what_they_wrap() -> None:
    table = random(5, 3).double()
    inner = node("nn.LookupTable", weight=table, paddingValue=1)
    embed = node("onmt.WordEmbedding", net=inner, modules=modules(inner), vocabSize=5)
    scores = linear(4, 3, seed=2)
    generator = node("onmt.Generator", modules=modules(scores))
    words = torch.tensor([1, 5, 2])
    both = node("nn.Sequential", modules=modules(embed, generator))
    for module in opened_as("nn.Sequential", **both.fields):
        expected = table[words - 1] @ scores.fields["weight"].T + scores.fields["bias"]
        torch.testing.assert_close(module(words), expected)
    alone = to_module(generator, None)
    torch.testing.assert_close(alone([table]), alone(table))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


SIZE, WORDS, LENGTH = 4, 6, 3
GRAPH = [
    *(GraphNode((0,), select=entry) for entry in (1, 2, 3)),
    *(GraphNode((1,), "i2h"), GraphNode((3,), "h2h"), GraphNode((4, 5), "add")),
    *(GraphNode((6,), "reshape"), GraphNode((7,), "split", split=4)),
    *(GraphNode((8,), select=entry) for entry in (1, 2, 3, 4)),
    *(GraphNode((gate,), "sigmoid") for gate in (9, 10, 11)),
    *(GraphNode((12,), "tanh"), GraphNode((14, 2), "mul"), GraphNode((13, 16), "mul")),
    *(GraphNode((17, 18), "add"), GraphNode((19,), "tanh"), GraphNode((15, 20), "mul")),
    *(GraphNode((21,), "decoder"), GraphNode((22,), "scores")),
]


def lstm_core() -> TorchObject:
    """One step as misc/LSTM.lua of neuraltalk2 draws it, with one layer and no dropout."""
    parts = {
        "i2h": to_module(linear(4 * SIZE, SIZE, 10), None),
        "h2h": to_module(linear(4 * SIZE, SIZE, 12), None),
        "decoder": to_module(linear(WORDS + 1, SIZE, 14), None),
        "reshape": Reshape(4, SIZE),
        "split": SplitTable(2),
        "add": CAddTable(),
        "mul": CMulTable(),
        "sigmoid": torch.nn.Sigmoid(),
        "tanh": torch.nn.Tanh(),
        "scores": LogSoftMax(),
    }
    return from_module(GraphModule([GraphNode(()), *GRAPH], parts, (19, 21, 23), 3))


def lstm(inputs: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Outputs (T,N,H) for inputs (T,N,F), from zeros; gates in the order i, f, o, new."""
    h = c = np.zeros((inputs.shape[1], SIZE))
    outputs = []
    for x in inputs:
        i, f, o, new = np.split(np.concatenate([x, h], 1) @ weight + bias, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def weights_of(*layers: TorchObject) -> list[np.ndarray]:
    return [layer.fields[name].numpy() for layer in layers for name in ("weight", "bias")]


def test_neuraltalk_s_captions() -> None:
    """Words of three captions, the second of which ends first; the last step has none at all."""
    table = random(WORDS + 1, SIZE, seed=20).double()
    lookup = node("nn.LookupTable", weight=table, _type="torch.DoubleTensor")
    fields = {"vocab_size": WORDS, "rnn_size": SIZE, "num_layers": 1, "seq_length": LENGTH}
    images = random(3, SIZE, seed=21).double()
    words = torch.tensor([[1, 6, 3], [2, 0, 5], [0, 0, 0]])
    known = words.numpy() + (words.numpy() == 0)
    steps = [images.numpy(), *table.numpy()[np.vstack([[WORDS] * 3, known - 1])]]
    into, into_bias, past, past_bias, out, out_bias = weights_of(
        linear(4 * SIZE, SIZE, 10), linear(4 * SIZE, SIZE, 12), linear(WORDS + 1, SIZE, 14)
    )
    hidden = lstm(np.stack(steps), np.concatenate([into.T, past.T]), into_bias + past_bias)
    expected = log_softmax(hidden @ out.T + out_bias)
    expected[4] = 0
    for module in opened_as("nn.LanguageModel", core=lstm_core(), lookup_table=lookup, **fields):
        assert isinstance(module, NeuraltalkModel)
        np.testing.assert_allclose(module([images, words]).detach(), expected, rtol=1e-10)
        best = module.sample(images)
        assert best.shape == (LENGTH, 3)
        assert torch.equal(module([images, best[:-1]])[1:].argmax(2) + 1, best)


def test_densecap_s_captions() -> None:
    table = 30 * random(WORDS + 2, SIZE, seed=30).double()  # that words follow from the last one
    encode, decode = linear(SIZE, 5, 31), linear(WORDS + 1, SIZE, 44)
    weight, bias = random(2 * SIZE, 4 * SIZE, seed=35), random(4 * SIZE, seed=36)
    unit = node("nn.LSTM", weight=weight.double(), bias=bias.double(), input_dim=SIZE,
                hidden_dim=SIZE, remember_states=False)  # fmt: skip
    one = node("nn.View", size=storage(1, -1), numElements=1, numInputDims=1)
    view_in = node("nn.View", size=storage(1, -1), numElements=1, numInputDims=3)
    view_out = node("nn.View", size=storage(1, 1, -1), numElements=1, numInputDims=2)
    fields = {
        "image_encoder": node("nn.Sequential", modules=modules(encode, node("nn.ReLU"), one)),
        "lookup_table": node("nn.LookupTable", weight=table),
        "rnn": node("nn.Sequential", modules=modules(unit, view_in, decode, view_out)),
        "view_in": view_in, "view_out": view_out, "vocab_size": WORDS, "seq_length": LENGTH,
    }  # fmt: skip
    codes, words = random(2, 5, seed=37).double(), torch.tensor([[3, 6, 0], [1, 0, 0]])
    encoder, encoder_bias, out, out_bias = weights_of(encode, decode)
    first = np.maximum(codes.numpy() @ encoder.T + encoder_bias, 0)
    rows = np.where(words.numpy() == 0, WORDS + 2, words.numpy()) - 1
    steps = np.concatenate([first[:, None], table.numpy()[np.hstack([[[WORDS]] * 2, rows])]], 1)
    hidden = lstm(steps.transpose(1, 0, 2), weight.double().numpy(), bias.double().numpy())
    expected = (hidden @ out.T + out_bias).transpose(1, 0, 2)
    module = to_module(node("nn.LanguageModel", **fields), None)
    again = to_module(load(save(None, from_module(module))), None)
    for model in (module, again):
        assert isinstance(model, DensecapModel)
        np.testing.assert_allclose(model([codes, words]).detach(), expected, rtol=1e-10)
    best = module.sample(codes)
    assert len(best.unique()) == best.shape[1] == LENGTH
    assert torch.equal(module([codes, best[:, :-1]])[:, 1:].argmax(2) + 1, best)
