"""torch7 convert: files made and files left alone; .pt2 and .onnx, which need nothing of ours."""

import io
import os
import re
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load as load_safetensors
from torch import nn

from eyescream_py.torch7 import T7Error, Table, TorchObject, from_module, load, save, to_module
from eyescream_py.torch7.__main__ import main
from eyescream_py.torch7.export.convert import example_input, exported, network_of
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.tables import JoinTable

from ..golden_classes import case_of, entries, python_value, raw


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_convert_with_source_on_the_command_line(tmp_path):
    entry = next(e for e in entries() if e.name == "hourglass_1")
    (tmp_path / "old.t7").write_bytes(raw(entry.file))
    out, source = tmp_path / "new.safetensors", tmp_path / "model.py"
    result = run("convert", tmp_path / "old.t7", out, "--source", source)
    assert (result.exit_code, result.output) == (0, "")
    assert source.read_text().startswith('"""nn.gModule of old.t7\n')
    assert re.search(r"self.spatial_convolution_\d = nn.Conv2d\(3, ", source.read_text())
    names = load_safetensors(out.read_bytes())
    assert any(re.fullmatch(r"spatial_convolution_\d.weight", name) for name in names)
    assert not [line for line in source.read_text().splitlines() if len(line) > 120]


def test_files_that_are_there_stay_unless_told_otherwise(tmp_path):
    save(tmp_path / "old.t7", from_module(nn.Linear(2, 1)))
    words = ["convert", tmp_path / "old.t7"]
    for made, flags in (("a.t7", ()), ("a.pt2", ("--input", "1x2"))):
        (tmp_path / made).write_bytes(b"mine")
        result = run(*words, tmp_path / made, *flags)
        assert result.exit_code == 2
        assert f"{made} is there already: give --overwrite" in result.output
        assert (tmp_path / made).read_bytes() == b"mine"
        assert run(*words, tmp_path / made, *flags, "--overwrite").exit_code == 0
        assert (tmp_path / made).read_bytes() != b"mine"
    (tmp_path / "model.py").write_text("mine")
    result = run(*words, tmp_path / "w.safetensors", "--source", tmp_path / "model.py")
    assert "--source" in result.output
    assert "model.py is there already" in result.output
    assert not (tmp_path / "w.safetensors").exists()
    assert (tmp_path / "model.py").read_text() == "mine"


def test_names_that_are_no_text(tmp_path):
    old = tmp_path / os.fsdecode(b'Jos\xe9\'\n""".t7')
    save(old, from_module(nn.Linear(2, 1)))
    model = tmp_path / "model.py"
    result = run("convert", old, tmp_path / "w.safetensors", "--source", model)
    assert (result.exit_code, result.output) == (0, "")
    done = subprocess.run([sys.executable, model], cwd="/", capture_output=True, text=True)
    assert "Linear" in done.stdout, done.stderr


def test_source_and_weights_may_be_moved_and_stand_apart(tmp_path):
    save(tmp_path / "old.t7", from_module(nn.Linear(2, 1)))
    (tmp_path / "a/b").mkdir(parents=True)
    out = run("convert", tmp_path / "old.t7", tmp_path / "a/w.safetensors", "--source",
              tmp_path / "a/b/model.py")  # fmt: skip
    assert out.exit_code == 0, out.output
    (tmp_path / "a").rename(tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, tmp_path / "moved/b/model.py"], cwd="/", capture_output=True, text=True
    )
    assert "Linear" in done.stdout, done.stderr


def test_export_to_pt2(tmp_path):
    case = case_of(next(e for e in entries() if e.name == "gm_branch_join"))
    save(tmp_path / "old.t7", Table(model=case["net"], epoch=1))
    shape = "x".join(map(str, case["input"].shape))
    result = run("convert", tmp_path / "old.t7", tmp_path / "new.pt2", "--input", shape)
    assert (result.exit_code, result.output) == (0, "")
    program = torch.export.load(tmp_path / "new.pt2").module()
    torch.testing.assert_close(program(case["input"]), case["output"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_an_input_has_the_type_of_the_network(kind, tmp_path):
    """Lua's networks are double unless their program chose another type."""
    weight = torch.tensor([[1.0, 2.0]], dtype=kind)
    save(tmp_path / "old.t7", TorchObject("nn.Linear", Table(weight=weight)))
    assert run("convert", tmp_path / "old.t7", tmp_path / "a.pt2", "--input", "3x2").exit_code == 0
    made = torch.export.load(tmp_path / "a.pt2").module()
    assert made(torch.ones(3, 2, dtype=kind)).tolist() == [[3]] * 3
    files = tmp_path / "a.safetensors", "--source", tmp_path / "a.py"
    assert run("convert", tmp_path / "old.t7", *files).exit_code == 0
    assert f"Its inputs are {kind}, but for indices." in (tmp_path / "a.py").read_text()
    pytest.importorskip("onnx")
    assert run("convert", tmp_path / "old.t7", tmp_path / "a.onnx", "--input", "3x2").exit_code == 0


def test_export_to_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    net = nn.Sequential(ConcatTable(nn.Linear(3, 2), nn.Tanh()), JoinTable(2)).eval()
    x = torch.rand(1, 3)
    model = onnx.load_model(io.BytesIO(exported(net, [x], ".onnx")))
    onnx.checker.check_model(model)
    name = model.graph.input[0].name
    (got,) = ReferenceEvaluator(model).run(None, {name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), net(x))


def by_onnx(name):
    """The golden network's output by ONNX's own arithmetic."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    case = case_of(next(e for e in entries() if e.name == name))
    x = python_value(case["input"]).detach()
    model = onnx.load_model(io.BytesIO(exported(to_module(case["net"]).eval(), [x], ".onnx")))
    (got,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), case["output"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["inplace_branch", "inplace_after_view", "resnet_block", "demos_face_detector"]
)
def test_onnx_of_layers_that_overwrite_and_of_thresholds(name):
    by_onnx(name)


def test_what_is_exported_leaves_its_input_as_it_is():
    case = case_of(next(e for e in entries() if e.name == "MulConstant_inplace"))
    x = case["input"].clone()
    program = torch.export.load(io.BytesIO(exported(to_module(case["net"]), [x], ".pt2"))).module()
    torch.testing.assert_close(program(x), case["output"])
    assert torch.equal(x, case["input"])


@pytest.mark.parametrize("kind", [".pt2", ".onnx"])
def test_choices_by_value_are_not_frozen_but_refused(kind):
    case = case_of(next(e for e in entries() if e.name == "dp_SpatialGlimpse"))
    x = [part.detach() for part in python_value(case["input"])]
    with pytest.raises(T7Error, match="cannot export this network"):
        exported(to_module(case["net"]).eval(), x, kind)


def test_a_failed_export_prints_nothing(capfd):
    with pytest.raises(T7Error):
        exported(nn.Sequential(nn.Threshold(0.5, 1)).eval(), [torch.ones(2)], ".onnx")
    assert capfd.readouterr() == ("", "")


def test_indices_that_are_no_indices_have_a_hint():
    case = case_of(next(e for e in entries() if e.name == "charrnn_rnn_2"))
    x = [torch.rand(part.shape) for part in python_value(case["input"])]
    with pytest.raises(T7Error, match=r"\(indices are :long, as in --input 2x10:long\)"):
        exported(to_module(case["net"]).eval(), x, ".pt2")


def test_several_inputs_are_arguments_of_what_is_exported():
    net = JoinTable(2).eval()
    x = [torch.rand(1, 2), torch.rand(1, 3)]
    program = torch.export.load(io.BytesIO(exported(net, x, ".pt2"))).module()
    assert torch.equal(program(*x), net(x))


@pytest.mark.parametrize("name", ["rnn_GRU", "torchrnn_lstm_2"])
def test_layers_with_a_memory_begin_anew_in_what_is_exported(name):
    case = case_of(next(e for e in entries() if e.name == name))
    module, x = to_module(case["net"]), python_value(case["input"]).detach()
    program = torch.export.load(io.BytesIO(exported(module, [x], ".pt2"))).module()
    for _ in range(2):
        torch.testing.assert_close(program(x), case["output"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(x), case["output"], atol=1e-5, rtol=1e-5)


def test_what_cannot_be_exported_is_one_line(tmp_path):
    save(tmp_path / "old.t7", from_module(nn.Linear(3, 2)))
    for out, shape, reason in [
        ("a.pt2", "1x4", "torch cannot export this network for that input"),
        ("a.onnx", "1x4", "torch cannot export this network for that input"),
        ("a.pt2", "1,3", "write a shape such as 1x3x64x64"),
        ("a.pt2", "999999999x999999999", "more than 268435456 elements"),
    ]:
        result = run("convert", tmp_path / "old.t7", tmp_path / out, "--input", shape)
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert reason in result.output
    assert "say with --input" in run("convert", tmp_path / "old.t7", tmp_path / "a.pt2").output
    assert [path.name for path in tmp_path.iterdir()] == ["old.t7"]


def test_which_network_of_a_file():
    g, d = TorchObject("nn.Identity"), TorchObject("nn.Tanh")
    loss = TorchObject("nn.MSECriterion")
    file = Table(G=g, opt=Table(a=1), protos=Table(rnn=d, criterion=loss))
    assert network_of(file, "G") is g
    assert network_of(file, "protos.rnn") is d
    assert network_of(Table(a=Table.from_list([loss, g])), "") is g
    assert network_of(Table.from_list([g, d]), "2") is d
    with pytest.raises(T7Error, match=r"--network: G, protos\.rnn$"):
        network_of(file, "")
    with pytest.raises(T7Error, match="there is no network in it"):
        network_of(Table(loss=loss), "")
    for keys in ("protos.criterion", "x", "G.weight", "opt.a.b"):
        with pytest.raises(T7Error, match="no network under"):
            network_of(file, keys)


def test_flags_that_do_not_go_together(tmp_path):
    save(tmp_path / "old.t7", from_module(nn.Tanh()))
    for out, *flags in [
        ("a.t7", "--source", "m.py"),
        ("a.safetensors", "--source", ""),
        ("a.pt2", "--ascii"),
        ("a.onnx", "--safetensors"),
        ("a.npy",),
        ("a.PTH",),
        ("old.t7",),
        ("../" + tmp_path.name + "/old.t7", "--ascii"),
        ("m.safetensors", "--source", tmp_path / "m.safetensors"),
    ]:
        result = run("convert", tmp_path / "old.t7", tmp_path / out, *flags)
        assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["old.t7"]


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    save(tmp_path / "old.t7", from_module(nn.Tanh()))
    os.mkfifo(tmp_path / "pipe")
    result = run("convert", tmp_path / "old.t7", tmp_path / "pipe")
    assert result.exit_code == 2
    assert "a device or pipe, no file" in result.output
    assert (tmp_path / "pipe").is_fifo()


def test_example_inputs():
    assert example_input("2x3").dtype == torch.float32
    assert example_input("4:long").tolist() == [1, 1, 1, 1]
    assert example_input("2x1:double").dtype == torch.float64
    assert example_input("2x1", torch.float64).dtype == torch.float64
    assert example_input("2x1:half").dtype == torch.float16
    for text in ("0x5", "1x0", "0", "\uff11x2"):
        with pytest.raises(T7Error, match="write a shape"):
            example_input(text)


def test_network_chooses_what_every_kind_of_file_holds(tmp_path):
    old = tmp_path / "old.net"
    save(old, {"G": from_module(nn.Linear(2, 3)), "D": from_module(nn.Linear(3, 1))})
    for name in ("G.safetensors", "G.t7"):
        assert run("convert", old, tmp_path / name, "--network", "G").exit_code == 0
    assert set(load_safetensors((tmp_path / "G.safetensors").read_bytes())) >= {"weight", "bias"}
    assert load(tmp_path / "G.t7").typename == "nn.Linear"
    for words in (("--network", "Z"), ("--input", "1x2")):
        result = run("convert", old, tmp_path / "Z.t7", *words)
        assert result.exit_code == 2
        assert words[0] in result.output or "no network under 'Z'" in result.output
    assert not (tmp_path / "Z.t7").exists()
