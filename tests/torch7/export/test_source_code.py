"""Networks as source: they compute the same, alone, and nothing of a file breaks out of it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from eyescream_py.torch7 import T7Error, to_module
from eyescream_py.torch7.export.convert import weights_and_source
from eyescream_py.torch7.export.source_code import literal, network_source, network_weights
from eyescream_py.torch7.layers.activations import LeakyReLU
from eyescream_py.torch7.layers.containers import ConcatTable
from eyescream_py.torch7.layers.tables import JoinTable

from ..golden_classes import case_of, entries, python_value

PROJECTS = [entry for entry in entries() if entry.project]

# A file that only knows torch and safetensors: each MODEL.py is loaded and run on its input.
CHILD = """
import importlib.util, json, sys
import torch
torch.set_num_threads(1)
report = {}
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("model", f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    case = torch.load(f"{name}.case", weights_only=True)
    with torch.no_grad():
        output = module.load()(case["input"])
    flat = lambda v: [v] if isinstance(v, torch.Tensor) else [t for part in v for t in flat(part)]
    pairs = list(zip(flat(output), flat(case["output"]), strict=True))
    report[name] = max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)
report["foreign"] = [name for name in sys.modules if name.startswith("eyescream")]
print(json.dumps(report))
"""


def write(folder: Path, name: str, module: nn.Module, x) -> None:
    """A network's two files, and its input and output."""
    weights, source = weights_and_source(module.eval(), f"{name}.safetensors", name)
    (folder / f"{name}.safetensors").write_bytes(weights)
    (folder / f"{name}.py").write_text(source)
    with torch.no_grad():
        torch.save({"input": x, "output": module(x)}, folder / f"{name}.case")


def run_child(folder: Path, names: list[str]) -> dict:
    command = [sys.executable, "-I", "-c", CHILD, *names]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def without_gradient(x):
    return [without_gradient(part) for part in x] if isinstance(x, list) else x.detach()


def test_the_projects_networks_run_from_their_source_alone(tmp_path):
    names = []
    for entry in PROJECTS:
        case = case_of(entry)
        module = to_module(case["net"], None)
        x = without_gradient(python_value(case["input"]))
        write(tmp_path, entry.name, module, x)
        names.append(entry.name)
    report = run_child(tmp_path, names)
    assert report.pop("foreign") == []
    assert sorted(report) == sorted(names)
    assert max(report.values()) < 1e-6, report


def test_every_network_that_opens_has_a_source(tmp_path):
    """A golden network of each class, in this process: the source runs and its weights fit."""
    refused = []
    for entry in {entry.kind: entry for entry in entries()}.values():
        case = case_of(entry)
        module = to_module(case["net"], None).eval()
        try:
            source = network_source(module, "w.safetensors", entry.name)
        except T7Error as error:
            refused.append(f"{entry.name}: {error}")
            continue
        space = {"__name__": "model"}
        exec(compile(source, entry.name, "exec"), space)  # noqa: S102
        net = space["network"]()
        tied = space["TIED"]
        state = network_weights(module)
        net.load_state_dict({**state, **{k: state[v] for k, v in tied.items()}}, assign=True)
    assert refused == []


class Odd(nn.Module):
    """A layer whose constructor does not say what it holds."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.register_buffer("shift", torch.randn(size))
        self.table = {"a": (1, 2.5), "b": [None, float("inf")]}
        self.inner = nn.Linear(size, size)

    def forward(self, x):
        return self.inner(x) * self.weight + self.shift


def test_shared_parts_and_layers_with_other_constructors(tmp_path):
    linear, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = linear.weight
    pair = nn.Sequential(linear, nn.Tanh())
    net = nn.Sequential(pair, tied, ConcatTable(pair, Odd(3)), JoinTable(2), nn.PReLU(6))
    write(tmp_path, "net", net, torch.randn(2, 3))
    assert run_child(tmp_path, ["net"])["net"] < 1e-6
    weights = load_safetensors((tmp_path / "net.safetensors").read_bytes())
    assert "1.weight" not in weights
    assert not any(name.startswith("2.0") for name in weights)
    assert '"2.0": "0"' in (tmp_path / "net.py").read_text()


def evaluate(text: str):
    return eval(text, {"torch": torch})  # noqa: S307


def test_literals():
    for value in (1, -0.5, "a\"'\n\udcff", None, (1,), [True, (2.5, None)], {"a": 1}, torch.int64):
        assert evaluate(literal(value)) == value
    assert math.isnan(evaluate(literal(float("nan"))))
    assert evaluate(literal(torch.eye(2))).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(T7Error, match="holds a set"):
        literal({1})


def test_names_from_files_cannot_break_out_of_the_source(tmp_path):
    label = '"""\nimport os\\'
    text = network_source(nn.Sequential(nn.Tanh()), f'{label}".safetensors', label)
    space: dict = {"__name__": "model"}
    exec(compile(text, "model", "exec"), space)  # noqa: S102
    assert "os" not in space


def test_layers_are_written_as_one_would_write_them():
    net = nn.Sequential(LeakyReLU(0.2), nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8, 1e-3))
    text = network_source(net, "w.safetensors", "net")
    for line in (
        "        LeakyReLU(negval=0.2),",
        "        nn.Conv2d(3, 8, (4, 4), stride=(2, 2), padding=(1, 1)),",
        "        nn.BatchNorm2d(8, eps=0.001),",
    ):
        assert line in text.splitlines()
    assert "restore" not in text


def test_a_network_of_too_many_layers_is_not_written_out():
    net: nn.Module = nn.Tanh()
    for _ in range(20):
        net = nn.Sequential(net, net)
    with pytest.raises(T7Error, match="more than 20000 layers"):
        network_source(net, "w.safetensors", "net")
