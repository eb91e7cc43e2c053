"""The commands of the documents, and the checker itself."""

import pytest

from scripts import run_commands
from scripts.check_commands import commands, page_problems, problem
from scripts.check_links import ROOT, pages
from scripts.command_rules import BEFORE, shortened, why_not
from scripts.run_commands import run_pages, steps


def test_every_command_of_the_documents_parses():
    found = pages()
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in found) > 50
    assert [line for page in found for line in page_problems(page)] == []


def test_commands_of_blocks_and_of_inline_code_are_found():
    text = (
        "Run `python train.py --scale=16`.\n```sh\nmake demo # first\nls\npython sample.py \\\n"
        "  --runs 1\n```\n\n    eyescream movie logs\n    cd x\n`train.py` and `make`\n"
    )
    assert [" ".join(line.split()) for line in commands(text)] == [
        "make demo # first", "python sample.py --runs 1", "eyescream movie logs",
        "python train.py --scale=16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("python train.py --scael=16", "--scael"),
        ("python train.py --scale=many", "many"),
        ("python train.py --epochs", "requires an argument"),
        ("python lost.py", "there is no lost.py"),
        ("python -m eyescream_py.lost", "there is no"),
        ("eyescream dance", "dance"),
        ("python -m eyescream_py.torch7 shwo a.net", "shwo"),
        ("eyescream srez --run upscale --lost a.jpg", "--lost"),
        ("python -m eyescream_py.srez --run fly", "fly"),
        ("make coffee", "coffee"),
        ("python -m fuzz.torch7_load --lost", "--lost"),
    ],
)
def test_wrong_commands_are_told(line, says):
    assert says in problem(line)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --scale=16 --grayscale   # until Ctrl-C",
        "python train.py --precision=fp32|bf16 --dataset FOLDER ...",
        "torchrun --nproc_per_node=2 train.py --scale=16",
        "eyescream srez --run upscale a.jpg b/",
        "python -m eyescream_py.torch7 convert a.t7 b.safetensors --source model.py",
        "make PYTHON=python3.11 test",
    ],
)
def test_good_commands_pass(line):
    assert problem(line) == ""


def test_the_steps_of_a_page_are_found_in_order():
    text = (
        "# A\n```\npython a.py \\\n  --b=1\nls\nscripts/   tools\n```\n\n"
        "    from os import sep\n    print(sep)\n\n```python\nx = 1\n```\nand\n\n    make demo\n"
    )
    found = [(" ".join(step.text.split()), step.is_python) for step in steps(text)]
    assert found == [
        ("python a.py --b=1", False), ("from os import sep print(sep)", True), ("x = 1", True),
        ("make demo", False),
    ]  # fmt: skip


def test_commands_are_shortened_and_the_reasons_of_the_others_named():
    assert shortened("python -m eyescream_py.torch7 show a ...  # b") == (
        "python -m eyescream_py.torch7 show a"
    )
    assert " --N_epoch=64 --epochs=1" in shortened("python train.py --scale=16   # until Ctrl-C")
    assert "network" in why_not("pip install -r requirements.txt")
    assert not why_not("python sample.py")


def test_every_prepared_page_exists():
    assert all((ROOT / name).is_file() for name in BEFORE)


def test_blocks_run_in_a_copy_and_failures_are_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "page.md").write_text(
        "```python\nfrom pathlib import Path\nPath('left').touch()\n```\n"
        "```\npython -c 'open(\"left\")'\npython -c 'open(\"lost\")'\npip install x\n```\n"
    )
    monkeypatch.setattr(run_commands, "ROOT", tmp_path)
    monkeypatch.setattr(run_commands, "_checkout", _empty_folder)
    assert run_pages([tmp_path / "page.md"]) == 1
    said = capsys.readouterr().out
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'lost'" in said
    assert "3 commands run, 1 failed, 1 not run." in said
    assert not (tmp_path / "left").exists()


def _empty_folder(place):
    (place / ".tools").mkdir(parents=True)
    return place
