"""The comparisons of `scripts.gpu_repeat`, by runs that only write down what they are asked for."""

import sys

import torch
from click.testing import CliRunner

from scripts import gpu_repeat
from scripts.gpu_repeat import CASES, TINY, GanlessHd, differences
from tests.test_gpu_check import parse


class Runs:
    """Of those that stand in `wrong` the end is another one's."""

    def __init__(self, *wrong):
        self.asked, self.wrong = [], wrong

    def train(self, save, gpu, dataset, parts, goes_on):
        self.asked.append((save.name, parts, goes_on))

    def saved(self, save):
        return {"weight": torch.full((2,), float(save.name in self.wrong))}


def test_a_run_is_repeated_and_continued(tmp_path):
    runs = Runs()
    assert differences(runs, 0, tmp_path, tmp_path) == []
    assert runs.asked == [("first", 2, False), ("again", 2, False), ("continued", 1, False),
                          ("continued", 2, True)]  # fmt: skip


def test_each_that_ends_elsewhere_is_named(tmp_path):
    for wrong in (("again",), ("continued",), ("again", "continued")):
        found = differences(Runs(*wrong), 0, tmp_path, tmp_path)
        assert [line.split(":")[0] for line in found] == list(wrong)


def test_the_words_of_a_run_that_goes_on(monkeypatch, tmp_path):
    asked = []

    def invoke(module, *words):
        parse([sys.executable, "-m", module.removesuffix(".__main__"), *words])
        asked.append(set(words))

    monkeypatch.setattr(gpu_repeat, "invoke", invoke)
    for case in (*CASES.values(), *TINY.values()):
        asked.clear()
        case.train(tmp_path / "run", -1, tmp_path, 1, False)
        case.train(tmp_path / "run", -1, tmp_path, 2, True)
        first, second = asked
        resumes = "--resume" if isinstance(case, GanlessHd) else f"--network={case.file}"
        assert resumes in second - first
        assert len(first - second) == 1  # how long
        assert f"{tmp_path / 'run'}" in {word.partition("=")[2] for word in first & second}


def test_every_case_is_in_one_of_the_parts(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(gpu_repeat, "differences", lambda case, *given: seen.append(case) or [])
    for part in ("--part=1", "--part=2"):
        done = CliRunner().invoke(gpu_repeat.main, ["--gpu=-1", f"--dataset={tmp_path}", part])
        assert done.exit_code == 0, done.output
        assert "4 runs repeated and continued, all equal to the bit" in done.output
    assert sorted(map(str, seen)) == sorted(map(str, CASES.values()))


def test_a_case_that_differs_or_fails_ends_it_with_an_error(monkeypatch, tmp_path):
    def fails(case, *given):
        if case is CASES["c2f"]:
            raise RuntimeError("no such picture")
        return ["again: .G"] if case is CASES["denoiser"] else []

    monkeypatch.setattr(gpu_repeat, "differences", fails)
    done = CliRunner().invoke(gpu_repeat.main, ["--gpu=-1", f"--dataset={tmp_path}"])
    assert done.exit_code == 1
    assert "c2f: no such picture\ndenoiser: again: .G\n" in done.output
    assert done.output.endswith("not to the bit: c2f, denoiser\n")
