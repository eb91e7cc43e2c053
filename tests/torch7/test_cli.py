"""python -m eyescream_py.torch7 show / convert."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from eyescream_py import torch7
from eyescream_py.torch7 import LuaFunction, Storage, Table, TorchObject, load, save
from eyescream_py.torch7.__main__ import main

GOLDEN = Path(__file__).parents[1] / "golden"
NET = GOLDEN / "adversarial_mini.net"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_show_a_checkpoint():
    result = run("show", NET)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:8] == [
        "epoch: 30",
        "opt: table of 6",
        '  D_optmethod: "adam"',
        "  batchSize: 4",
        "  gpu: false",
        "  grayscale: true",
        "  noiseDim: 5",
        "  scale: 8",
    ]
    generator = lines[lines.index("G: 1,185 parameters") :]
    assert generator[1:] == [
        "  nn.Sequential {",
        "    (1): nn.Copy",
        "    (2): nn.Sequential {",
        "      (1): nn.Linear(5 -> 16)   # weight 16x5, bias 16",
        "      (2): nn.PReLU   # weight 1",
        "      (3): nn.Linear(16 -> 64)   # weight 64x16, bias 64",
        "      (4): nn.Sigmoid",
        "      (5): nn.View(1, 8, 8)",
        "    }",
        "    (3): nn.Copy",
        "  }",
    ]
    convolution = "(1): nn.SpatialConvolution(1 -> 4, 3x3, 1,1, 1,1)   # weight 4x1x3x3, bias 4"
    assert any(line.strip() == convolution for line in lines)


@pytest.mark.parametrize("name", ["zoo.t7", "zoo_ascii.t7", "zoo_b32.t7"])
def test_show_every_kind_of_value(name):
    result = run("show", GOLDEN / name)
    assert result.exit_code == 0
    for line in [
        r'bytes: "a\x00b\nc\udcff"',
        "closure: Lua function, 51 bytes of code (not run)",
        "emptytensor: torch.FloatTensor, empty",
        "lstorage: torch.LongStorage of 3",
        "transposed: torch.FloatTensor of size 4x3x2",
        "nan: nan",
    ]:
        assert line in result.output.splitlines()


def test_show_writes_no_control_characters(tmp_path):
    path = tmp_path / "hostile.t7"
    save(path, {"\x1b[2J": "\x1b]0;title\x07", "long": "x" * 5000})
    output = run("show", path).output
    assert "\x1b" not in output
    assert r"\x1b[2J" in output
    assert len(output) < 400


def test_show_networks_that_share_or_hold_themselves(tmp_path):
    shared = TorchObject("nn.Linear", Table(weight=torch.zeros(2, 3), bias=torch.zeros(2)))
    loop = TorchObject("nn.Sequential", Table(modules=Table.from_list([shared, shared])))
    loop.fields["modules"][3] = loop
    save(tmp_path / "loop.net", {"G": loop})
    lines = run("show", tmp_path / "loop.net").output.splitlines()
    assert lines[0] == "G: 8 parameters"
    assert lines[3].strip() == "(2): the same nn.Linear(3 -> 2)"
    assert lines[4].strip() == "(3): the same nn.Sequential"


def test_convert_to_other_forms_and_back(tmp_path):
    original = (GOLDEN / "zoo.t7").read_bytes()
    assert run("convert", GOLDEN / "zoo.t7", tmp_path / "a.t7", "--ascii").exit_code == 0
    assert (tmp_path / "a.t7").read_bytes().startswith(b"3\n1\n41\n")
    assert run("convert", tmp_path / "a.t7", tmp_path / "b.t7", "--long-size", "4").exit_code == 0
    assert load(tmp_path / "b.t7", long_size=4)["int"] == 42
    assert run("convert", tmp_path / "b.t7", tmp_path / "c.t7").exit_code == 0
    assert (tmp_path / "c.t7").read_bytes() == original


def test_convert_to_safetensors(tmp_path):
    assert run("convert", NET, tmp_path / "net.safetensors", "--safetensors").exit_code == 0
    net = load(NET)
    linear = net["G"].fields["modules"][2].fields["modules"][1]
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        read = file.get_tensor("G.modules.2.modules.1.weight")
        metadata = file.metadata()
    assert torch.equal(read, linear.fields["weight"])
    assert metadata["epoch"] == "30"
    assert metadata["opt.D_optmethod"] == "adam"
    assert metadata["G.modules.2.modules.1"] == "nn.Linear"


def test_safetensors_of_every_kind_of_value(tmp_path):
    assert run("convert", GOLDEN / "zoo.t7", tmp_path / "z", "--safetensors").exit_code == 0
    with safe_open(tmp_path / "z", "pt") as file:
        assert file.get_tensor("transposed").shape == (4, 3, 2)
        assert file.get_tensor("lstorage").tolist() == [3, 4, 5]
        assert file.metadata()["boolkey.True"] == "T"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (Table(), []),
        (Table(function=None), []),
        ({"__metadata__": torch.ones(2), "a": torch.ones(1)}, ["__metadata__~2", "a"]),
        ({"__metadata__": "text"}, []),
    ],
)
def test_every_safetensors_file_opens(value, names, tmp_path):
    save(tmp_path / "value.t7", value)
    assert run("convert", tmp_path / "value.t7", tmp_path / "v.safetensors").exit_code == 0
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        assert sorted(file.keys()) == names


@pytest.mark.parametrize("command", [["show"], ["convert"]])
def test_errors_are_one_line_and_status_2(command, tmp_path):
    (tmp_path / "page.net").write_text("<html>not found</html>")
    out = [tmp_path / "out.t7"] if command == ["convert"] else []
    for name, reason in [("none.net", "No such file"), ("page.net", "it is an HTML or XML page")]:
        result = run(*command, tmp_path / name, *out)
        assert result.exit_code == 2
        assert result.output.count("\n") == 1
        assert result.output.startswith(f"Error: {tmp_path / name}: ")
        assert reason in result.output
        assert not (tmp_path / "out.t7").exists()


def test_a_failed_conversion_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "out.t7"
    out.write_bytes(b"precious")
    save(tmp_path / "long.t7", [torch.tensor([2**40])])
    result = run("convert", tmp_path / "long.t7", out, "--long-size", "4", "--overwrite")
    assert result.exit_code == 2
    assert "a LongStorage holds values that 4-byte longs cannot" in result.output
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.t7", "out.t7"]


def test_two_forms_at_once_are_refused(tmp_path):
    result = run("convert", NET, tmp_path / "out", "--ascii", "--safetensors")
    assert result.exit_code == 2
    assert "exclude each other" in result.output


def test_a_stated_form_is_obeyed():
    result = run("show", GOLDEN / "zoo_b32.t7", "--in-long-size", "8")
    assert result.exit_code == 2
    assert "wrong long size" in result.output
    assert run("show", GOLDEN / "zoo_b32.t7", "--in-long-size", "4", "--in-binary").exit_code == 0


def test_help_does_not_load_torch():
    code = (
        "import sys; sys.argv = ['t7', '--help']\n"
        "from eyescream_py.torch7.__main__ import main\n"
        "import eyescream_py.torch7\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "False"
    assert "convert" in result.stdout


def test_functions_survive_a_conversion(tmp_path):
    assert run("convert", GOLDEN / "zoo.t7", tmp_path / "z.t7", "--long-size", "4").exit_code == 0
    assert isinstance(load(tmp_path / "z.t7")["closure"], LuaFunction)


def test_a_full_disk_under_standard_output_is_one_line():
    shell = f'exec "$0" -m eyescream_py.torch7 show {NET} > /dev/full'
    done = subprocess.run(["bash", "-c", shell, sys.executable], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["Error: standard output: No space left on device"]


def test_show_takes_anything_for_a_number(tmp_path):
    """A padding that is a tensor, a kernel that is a table, a size of a million numbers."""
    odd = TorchObject("nn.Odd", Table({
        "kW": torch.ones(3, 3), "kH": Table({1: 2}), "dW": "a\n\x1b[2J", "padW": torch.ones(2, 2),
    }))  # fmt: skip
    view = TorchObject("nn.View", Table({
        "size": Storage(torch.ones(10**6, dtype=torch.long)), "numElements": 1,
    }))  # fmt: skip
    for module in (odd, view):
        save(tmp_path / "odd.t7", module)
        done = run("show", tmp_path / "odd.t7")
        assert done.exit_code == 0, done.output
        assert len(done.output) < 500
        assert "\x1b" not in done.output
    assert "1, 1, ..." in done.output


SCARCE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 4 bytes"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError(SCARCE),
     ImportError("libtorch_cpu.so: failed to map segment from shared object")],
)  # fmt: skip
@pytest.mark.parametrize("command", [["show", NET], ["convert", NET, "x.t7"]])
def test_too_little_memory_is_one_line(command, error, tmp_path, monkeypatch):
    def scarce(*given):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eyescream_py.torch7.files.serialization.load_file", scarce)
    result = run(*command)
    assert result.exit_code == 2
    assert result.output == f"Error: {NET}: there is not enough memory for it; free some\n"


@pytest.mark.parametrize("turned", [torch7.to_module, torch7.from_module])
def test_too_little_memory_for_a_layer_says_nothing_about_the_layer(turned, monkeypatch):
    layer = torch.nn.Linear(2, 3)
    given = layer if turned is torch7.from_module else torch7.from_module(layer)

    def scarce(*given, **named):
        raise RuntimeError(SCARCE)

    monkeypatch.setattr(torch.Tensor, "contiguous", scarce)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        turned(given)
