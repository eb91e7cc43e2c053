"""load_generator and export: a G that travels makes the same pictures."""

import json
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from eyescream_py import load_generator, load_refiner, torch7
from eyescream_py.networks import models, models_small
from eyescream_py.results.generator import described, export
from eyescream_py.results.generator_layers import _NAMES as KINDS
from eyescream_py.results.generator_layers import describe
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.pooling import SpatialUpSamplingNearest
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout
from eyescream_py.torch7.random import TorchSource
from tests.commands import ROOT
from tests.small_runs import invoke


def network(kind):
    if kind == "refiner":  # what --autoencoder trains: a decoder, then the refiner
        decoder = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), View(1, 8, 8))
        return nn.Sequential(decoder, models.create_corrector((1, 8, 8)))
    if kind == "conv":  # the recipe's
        return models_small.create_G((3, 8, 8), 5)
    return models.create_G((3, 8, 8), 5, kind)


def test_layers_keep_their_names_in_files():
    """Files of earlier versions are opened by them."""
    module = nn.Sequential(nn.Linear(2, 8), nn.PReLU(), View(2, 2, 2), SpatialUpSamplingNearest(2))
    names = [part["type"] for part in describe(module)["layers"]]
    expected = "linear.Linear activation.PReLU layers.View layers.SpatialUpSamplingNearest"
    assert names == expected.split()


def generator(kind="mlp"):
    torch.manual_seed(3)
    G = network(kind)
    for name, buffer in G.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return described(G.eval(), "a test")


@pytest.fixture
def net(tmp_path):
    """A trainer's .net with two different G."""
    torch.manual_seed(1)
    networks = {name: models.create_G((1, 8, 8), 4) for name in ("G", "G_ema")}
    networks["D"] = models.create_D((1, 8, 8))
    path = tmp_path / "adversarial.net"
    torch7.save(path, {name: torch7.from_module(n) for name, n in networks.items()})
    return path, networks


def test_a_net_gives_the_pictures_of_its_averaged_G(net):
    path, networks = net
    G = load_generator(path)
    assert (G.noise_dim, G.dims) == (4, (1, 8, 8))
    noise = TorchSource(7).uniform_(torch.empty(6, 4), -1, 1)
    assert torch.equal(G.sample(6, seed=7), networks["G_ema"](noise).detach())
    plain = load_generator(path, ema=False)
    assert torch.equal(plain.sample(6, seed=7), networks["G"](noise).detach())


def test_an_autocast_around_it_changes_nothing(net):
    G = load_generator(net[0])
    expected = G.sample(6)
    with torch.autocast("cpu", torch.bfloat16):
        found = G.sample(6)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_what_makes_no_numbers_makes_no_pictures():
    G = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), View(1, 8, 8)).eval()
    G[1].running_var[5] = -1
    with pytest.raises(UserError, match="a test: G makes numbers"):
        described(G, "a test")


@pytest.mark.parametrize("shape", [(1, 64), (2, 4, 8)])
def test_what_has_neither_one_channel_nor_three_is_no_picture(shape):
    G = nn.Sequential(nn.Linear(4, 64), View(*shape))
    with pytest.raises(UserError, match=re.escape(f"a test: G makes {shape}, not pictures")):
        described(G.eval(), "a test")


def test_the_first_pictures_do_not_depend_on_the_number():
    G = generator()
    assert torch.allclose(G.sample(3, 2), G.sample(40, 2)[:3], atol=1e-6)
    assert not torch.equal(G.sample(3, 2), G.sample(3, 3))


def test_numbers_of_numpy_are_numbers():
    G = load_generator("pretrained:faces16")
    assert torch.equal(G.sample(np.int64(2), seed=np.int32(7)), G.sample(2, seed=7))
    with pytest.raises(TypeError, match="float"):
        G.sample(2.5)


@pytest.fixture
def other_defaults():
    """What a notebook may have set: another type of numbers, and another device than there is."""
    torch.set_default_dtype(torch.float64)
    with torch.device("meta"):
        yield
    torch.set_default_dtype(torch.float32)


def test_defaults_of_a_notebook_change_no_picture(net, tmp_path, request):
    exported = tmp_path / "g.safetensors"
    export(load_generator(net[0]), exported)
    wanted = load_generator(net[0]).sample(3, seed=2)
    request.getfixturevalue("other_defaults")
    for path in (net[0], exported):
        found = load_generator(path).sample(3, seed=2)
        assert found.dtype == torch.float32
        assert found.device == torch.device("cpu")
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", None])
def test_a_device_that_is_none_is_named(device):
    with pytest.raises(UserError, match=f"device={device}: there is no such device"):
        load_generator(device=device)


@pytest.mark.parametrize("opened", [load_generator, load_refiner])
@pytest.mark.parametrize(
    ("name", "words"),
    [("", "FILE is empty; give the path"), (".", "FILE=.: is a folder; give a file in it")],
)
def test_what_is_no_file_is_one_line(opened, name, words):
    with pytest.raises(UserError, match=f"^{re.escape(words)}"):
        opened(name)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**400])
def test_a_seed_beyond_the_range_is_refused_by_it(seed):
    with pytest.raises(ValueError, match=r"from -2\*\*63 to 2\*\*64 - 1$"):
        generator().sample(1, seed)
    for within in (2**64 - 1, -(2**63)):
        assert generator().sample(1, within).shape[0] == 1


def test_a_pretrained_name_that_is_none_names_no_flag():
    with pytest.raises(UserError, match=r"^FILE=pretrained:faces: there is only faces16, faces32$"):
        load_generator("pretrained:faces")


@pytest.mark.parametrize("kind", ["mlp", "upsampling", "conv", "refiner"])
def test_torchscript_makes_the_same_pictures_elsewhere(kind, tmp_path):
    G = generator(kind)
    export(G, tmp_path / "g.pt")
    traced = torch.jit.load(tmp_path / "g.pt")
    noise = G.noise(7, seed=4)
    assert torch.allclose(traced(noise), G.sample(7, seed=4), atol=1e-6)


class Planter(torch.nn.Module):
    """TorchScript that would write a file as soon as it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "planted")
        return x


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_program_is_never_opened(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Planter()).save(f"g{suffix}")
    with pytest.raises(UserError, match="may be programs"):
        load_generator(f"g{suffix}")
    done = invoke("evaluate", f"g{suffix}", "--gpu=-1")
    assert done.exit_code == 2
    assert "may be programs" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"g{suffix}"]


def bomb(**change) -> bytes:
    """A file of a few hundred bytes whose header asks for more."""
    layers = {"type": "Sequential", "layers": [
        {"type": KINDS[nn.Linear], "arguments": [1, 1, True]},
        {"type": KINDS[View], "arguments": [1, 1, 1]},
        {"type": KINDS[SpatialUpSamplingNearest], "arguments": [100_000]},
    ]}  # fmt: skip
    tensors = {"0.weight": torch.zeros(1, 1), "0.bias": torch.zeros(1)}
    return save(tensors, {"layers": json.dumps(layers | change)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(), "makes 20000000000 values"),
        (bomb(layers=[{"type": KINDS[nn.Linear], "arguments": [10**6, 10**7, True]}]), "not fit"),
        (bomb(layers=[{"type": KINDS[nn.Linear], "arguments": [2**62, 2**62, True]}]), "."),
        (bomb(layers=[{"type": KINDS[nn.BatchNorm2d], "arguments": ["x", 1, 1]}] * 2), "."),
        (bomb(layers=[{"type": KINDS[nn.ReLU], "arguments": []}] * 5000), "1000 layers"),
        (save({}, {"layers": "[" * 900}), "."),
        (save({}, {"layers": "[[[]]]"}), "."),
        (save({}, {"layers": "7"}), "."),
    ],
)
def test_headers_that_ask_for_petabytes(content, reason, tmp_path):
    path = tmp_path / "g.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=reason) as refused:
        load_generator(path)
    assert "\n" not in refused.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("kind", ["mlp", "upsampling", "conv", "refiner"])
def test_exports_load_back(kind, tmp_path):
    G = generator(kind)
    path = tmp_path / "g.safetensors"
    export(G, path)
    again = load_generator(path)
    assert (again.noise_dim, again.dims) == (G.noise_dim, G.dims)
    pictures = again.sample(7, seed=4)
    assert pictures.dtype == torch.float32
    assert torch.allclose(pictures, G.sample(7, seed=4), atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "upsampling", "conv", "refiner"])
def test_onnx_makes_the_same_pictures(kind, tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    G = generator(kind)
    export(G, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model)
    noise = G.noise(5, seed=2)
    (pictures,) = ReferenceEvaluator(model).run(["pictures"], {"noise": noise.numpy()})
    assert np.allclose(pictures, G.sample(5, seed=2).numpy(), atol=1e-5)


def test_without_the_onnx_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx"):
        export(generator(), tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_header_of_safetensors_says_what_it_holds(tmp_path):
    export(generator(), tmp_path / "g.safetensors")
    with safe_open(tmp_path / "g.safetensors", "pt") as file:
        header = file.metadata()
    assert (header["noise_dim"], header["dims"]) == ("5", "[3, 8, 8]")


def test_batch_normalization_of_a_file_is_described_as_torchs():
    batch_norm = torch7.to_module(torch7.from_module(nn.BatchNorm2d(3)))
    assert describe(batch_norm) == describe(nn.BatchNorm2d(3))


def test_a_layer_that_safetensors_cannot_describe(tmp_path):
    G = described(nn.Sequential(*generator().network, nn.Hardtanh()), "a test")
    with pytest.raises(UserError, match="Hardtanh"):
        export(G, tmp_path / "g.safetensors")


@pytest.mark.parametrize("dropout", [Dropout(), Dropout(0.3, scaled=False), SpatialDropout(0.3)])
def test_a_dropout_becomes_what_it_does_in_evaluation(dropout, tmp_path):
    *layers, view = generator().network
    made = nn.Sequential(*layers, view, dropout, nn.Sigmoid())
    G = described(made.eval(), "a test")
    export(G, tmp_path / "g.safetensors")
    again = load_generator(tmp_path / "g.safetensors")
    assert torch.allclose(again.sample(3), G.sample(3), atol=1e-6)


def test_a_dropout_that_drops_in_evaluation_too_cannot_be_described():
    with pytest.raises(UserError, match="a layer Dropout"):
        describe(Dropout(stochastic_inference=True))


@pytest.mark.parametrize("more", [{"dilation": 2}, {"groups": 3}, {"bias": False}])
def test_all_that_shapes_a_convolution_is_described(more, tmp_path):
    torch.manual_seed(3)
    layers = (nn.Linear(5, 192), View(3, 8, 8), nn.Conv2d(3, 3, 3, padding=1, **more))
    G = described(nn.Sequential(*layers, nn.Sigmoid()).eval(), "a test")
    export(G, tmp_path / "g.safetensors")
    again = load_generator(tmp_path / "g.safetensors")
    assert torch.allclose(again.sample(3), G.sample(3), atol=1e-6)


@pytest.mark.parametrize("name", ["g.safetensors", "g.pt", "g.onnx", "g.net", "gone.net"])
def test_files_that_hold_no_generator(name, tmp_path):
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"nonsense" * 20)
    with pytest.raises(UserError, match=name):
        load_generator(tmp_path / name)


def test_sample_exports_G(net, tmp_path):
    path, _ = net
    out = tmp_path / "g.safetensors"
    common = (f"--G_base={path}", "--D_base=gone.net", "--gpu=-1", "--threads=1")
    done = invoke("sample", *common, f"--export={out}", f"--writeto={tmp_path / 'grids'}")
    assert done.exit_code == 0, done.output
    assert torch.allclose(load_generator(out).sample(4), load_generator(path).sample(4), atol=1e-6)
    assert "Not used with --export: --D_base, --writeto.\n" in done.output
    assert not (tmp_path / "grids").exists()
    out.write_bytes(b"mine")
    again = invoke("sample", *common, f"--export={out}")
    assert again.exit_code == 2
    assert f"--export={out}: is there already; give --overwrite" in again.output
    assert out.read_bytes() == b"mine"
    assert invoke("sample", *common, f"--export={out}", "--overwrite").exit_code == 0
    assert len(load_generator(out).sample(4)) == 4
    wrong = invoke("sample", *common, "--export=g.xyz")
    assert wrong.exit_code == 2
    assert "must end in .safetensors" in wrong.output


def test_the_library_example(net, tmp_path):
    """As its first lines say, in a checkout that is not installed."""
    command = [sys.executable, "-m", "examples.generate", net[0], tmp_path / "faces.png"]
    assert "python -m examples.generate" in (ROOT / "examples/generate.py").read_text()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={})
    assert "4 random numbers -> (64, 1, 8, 8)" in done.stdout
    assert (tmp_path / "faces.png").stat().st_size > 100


def test_the_package_loads_without_torch():
    code = (
        "import sys, eyescream_py; eyescream_py.load_generator; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
