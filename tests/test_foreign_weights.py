"""Weights that are no numbers, in each file of tensors that a sibling reads: one line, which names
the flag and the file.
"""

import importlib
import shutil

import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from tests.siblings import CPU, SIBLINGS, train


def spoil(path, part=""):
    """Spoil one value of the file's last tensor whose name begins with `part`; its name."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    fit = (n for n, t in tensors.items() if t.is_floating_point() and n.startswith(part))
    name = list(fit)[-1]
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, path, metadata)
    return name


def assert_refused(done, path, name):
    assert done.exit_code == 2, (done.output, done.exception)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert str(path) in line
    assert f"{name} with values that are no numbers" in line


@pytest.mark.parametrize("name", SIBLINGS)
def test_no_training_goes_on_from_them(name, sibling_runs, sibling_data, tmp_path):
    newest = sibling_runs[name]
    run = newest.parents[len(SIBLINGS[name].checkpoint.split("/")) - 1]
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / newest.relative_to(run)
    spoilt = spoil(path)
    before = path.read_bytes()
    done = train(name, sibling_data, tmp_path / "run", *SIBLINGS[name].goes_on(path))
    assert_refused(done, path, spoilt)
    assert done.stderr.startswith("Error: --")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "part", "args"),
    [("srez", "generator/",
      ("--run=upscale", "{data}/faces/000000.jpg", "--checkpoint_dir={folder}", "--out_dir=x")),
     ("srez", "generator/", ("--run=evaluate", "--dataset={data}/faces", "--cache_dir=",
                             "--checkpoint_dir={folder}", "--summary_dir=x", "--features=none")),
     ("image_model", "", ("test", "--load={path}", "--test_dir={data}/heads/Faces_real")),
     ("image_model", "", ("evaluate", "--load={path}", "--nd_dir={data}/heads/Faces_ND")),
     ("mln", "network.", ("reconstruct", "--checkpoint={path}", "--prefix={data}/scan/Scan_",
                          "--out=x")),
     ("ganless_hd", "weights", ("train", "--dataroota={data}/scenes", "--out=x",
                                "--init={path}"))],
)  # fmt: skip
def test_no_command_uses_them(name, part, args, sibling_runs, sibling_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / sibling_runs[name].name
    shutil.copy(sibling_runs[name], path)
    spoilt = spoil(path, part)
    main = importlib.import_module(f"eyescream_py.{name}.__main__").main
    words = [word.format(path=path, folder=tmp_path, data=sibling_data) for word in args]
    done = CliRunner().invoke(main, [*words, *CPU])
    assert_refused(done, path, spoilt)
    assert "Error: --" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [path.name]
