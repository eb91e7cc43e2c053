"""The sections of `make gpu-check`: their commands are ones that the programs take."""

import importlib
import sys
import time

import click
import pytest

from benchmarks.report import BEGINS, ENDS, write_measured
from scripts import gpu_check
from scripts.gpu_check import (
    MOST_LINES,
    PARTS,
    Outcome,
    Section,
    embedded_faces,
    run,
    sections,
    summary,
)


@pytest.fixture
def places(tmp_path):
    """Pictures, and where the sections write; the folders that earlier commands make are there."""
    work = tmp_path / "work"
    for name in ("srez/faces", "image/Faces_depth", "image/Faces_real", "mln"):
        (work / name).mkdir(parents=True)
    (work / "mln" / "Params.txt").touch()
    return embedded_faces(tmp_path / "faces"), work


def parse(words):
    """Give a command its words as a shell would; click's own error where it does not take one."""
    python, *words = words
    assert python == sys.executable
    if words[0] != "-m":
        module, words = words[0].removesuffix(".py"), words[1:]
    else:
        module, words = words[1], words[2:]
    if module == "pytest":
        assert all((gpu_check.ROOT / word).is_file() for word in words if word[0] != "-")
        return
    if "." not in module:
        module = f"eyescream_py.cli.{module}"
    found = importlib.import_module(module)
    command = getattr(found, "main", None) or importlib.import_module(f"{module}.__main__").main
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            _, command, words = command.resolve_command(context, words)
    with command.make_context("gpu-check", list(words)) as context:
        assert context.params["gpu"] in (0, -1) if "gpu" in context.params else True


@pytest.mark.parametrize("gpu", [True, False])
def test_every_command_parses_as_its_program_does_it(gpu, places, monkeypatch):
    monkeypatch.chdir(gpu_check.ROOT)
    made = sections(gpu, *places)
    tests = [section for section in made if section.name.startswith("tests of CUDA")]
    assert len(made) == 17 + len(tests)
    assert len(tests) == (PARTS if gpu else 1)
    files = [word for section in tests for word in section.commands[0] if word.endswith(".py")]
    assert len(files) == len(set(files))  # none in two parts
    for section in made:
        for words in section.commands:
            parse(words)


def test_a_processor_tries_the_words_that_a_gpu_gets(places):
    made = [
        [section for section in sections(gpu, *places) if "tests of CUDA" not in section.name]
        for gpu in (True, False)  # the tests of CUDA are not for a processor
    ]
    for on_gpu, tried in zip(*made, strict=True):
        assert on_gpu.name == tried.name
        for long, short in zip(on_gpu.commands, tried.commands, strict=True):
            here = [word.replace("--gpu=0", "--gpu=-1") for word in long]
            assert short[: len(here)] == here


def test_a_wrong_word_would_be_told(places):
    with pytest.raises(click.UsageError, match="scael"):
        parse([sys.executable, "train.py", "--scael=16"])


def test_a_section_that_fails_is_told_and_the_summary_stays_short(capsys):
    program = "print('a'); import sys; sys.exit('no such picture')"
    failed = run(Section("broken", [[sys.executable, "-c", program]], 30))
    good = Section("good", [[sys.executable, "-c", "print('fine')"]], 30)
    late = run(Section("late", [[sys.executable, "-c", "import time; time.sleep(30)"]], 1))
    outcomes = [failed, run(good), late, *[Outcome(good, False, 1.0, "x\n" * 9)] * 20]
    assert [outcome.passed for outcome in outcomes[:3]] == [False, True, False]
    text = summary(outcomes, "title", "words")
    assert "| broken | FAILED |" in text
    assert "| good | ok |" in text
    assert "fine" in text
    assert len(text.splitlines()) <= MOST_LINES


def test_a_section_ends_when_the_whole_has_no_time_left():
    patient = Section("patient", [[sys.executable, "-c", "import time; time.sleep(30)"]], 100)
    outcome = run(patient, end=time.monotonic() + 0.2)
    assert not outcome.passed
    assert outcome.seconds < 20
    assert "stopped after its 0 s" in outcome.output


def test_what_a_section_started_ends_with_it(tmp_path):
    """A process of its own neither keeps the script waiting nor a GPU busy."""
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    program = (
        "import subprocess, sys, time\nprint('said before', flush=True)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(30)"
    )
    begun = time.monotonic()
    outcome = run(Section("stopped", [[sys.executable, "-c", program]], 1))
    assert "said before" in outcome.output
    assert outcome.seconds < 20
    time.sleep(max(0, 4 - (time.monotonic() - begun)))
    assert not alive.exists()


def test_what_went_on_without_a_recording_or_kernels_is_told():
    lines = (
        "an iteration cannot be recorded on this GPU (why): this run goes on without, slower",
        "No joined kernels on cuda:0: judge: no compiler. This run goes on as with --no_fuse",
    )
    program = f"print({lines[0]!r}); print({lines[1]!r}); print({lines[0]!r}); print('done')"
    outcome = run(Section("slower", [[sys.executable, "-c", program]], 30))
    assert outcome.passed
    text = summary([outcome], "title", "words")
    assert "| slower | ok, without | " in text
    assert [line.strip() for line in text.splitlines()].count(lines[0]) == 1
    assert f"    {lines[1]}" in text


def test_rows_of_a_table_that_is_stopped_are_kept():
    head = "print('| case | ms |', '|---|---|', '| 16px | 1.0 |', sep='\\n', flush=True)"
    program = f"{head}; import time; time.sleep(30)"
    outcome = run(Section("table", [[sys.executable, "-c", program]], 1, alone=True))
    text = summary([outcome], "title", "words")
    assert "| case | ms |\n|---|---|\n| 16px | 1.0 |\n" in text


def test_what_people_wrote_around_a_table_stays(tmp_path):
    place = tmp_path / "results.md"
    write_measured(place, "# first\n")
    assert place.read_text().splitlines()[1:-1] == ["# first"]
    mine = "Seen before.\n", "\n## Findings\n\nmine\n"
    place.write_text(mine[0] + place.read_text() + mine[1], encoding="utf-8")
    for title in ("# second\n", "# third\n"):
        write_measured(place, title)
        text = place.read_text()
        assert text.startswith(mine[0])
        assert text.endswith(mine[1])
        assert [line for line in text.splitlines() if line[:2] == "# "] == [title.strip()]
    place.write_text("all mine\n", encoding="utf-8")
    write_measured(place, "# fourth\n")
    assert place.read_text().endswith("\n\nall mine\n")


@pytest.mark.parametrize("name", ["gpu", "train_step", "sampling", "growth", "long_colour"])
def test_files_that_commands_write_anew_are_marked(name):
    text = (gpu_check.ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"{BEGINS}\n# ")
    assert text.count(ENDS) == 1
