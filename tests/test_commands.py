"""The commands of the documents, and the checker itself."""

import pytest

from scripts.check_commands import commands, page_problems, problem
from scripts.check_links import pages


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
