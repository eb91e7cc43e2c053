"""Bars on a terminal, lines elsewhere, nothing where it is not wanted."""

import os
import subprocess
import sys
import time
from pathlib import Path

from eyescream_py.system import progress

ROOT = Path(__file__).parents[2]
COUNT = """
from eyescream_py.system.progress import Progress
with Progress(3, "things", enabled={enabled}, before={before}) as progress:
    for _ in range({counted}):
        progress.update(1)
"""


def said(enabled: bool, terminal: bool, before: int = 0, counted: int = 3) -> str:
    """What counting to three writes to stderr, which may be a terminal of unknown size."""
    reader, writer = os.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", COUNT.format(enabled=enabled, before=before, counted=counted)]
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    subprocess.run(command, stderr=writer, cwd=ROOT, env=environment, check=True, timeout=300)
    if terminal:
        os.set_blocking(reader, False)
    else:
        os.close(writer)
    try:
        text = os.read(reader, 10_000).decode()
    except BlockingIOError:
        text = ""
    os.close(reader)
    return text


def test_a_bar_on_a_terminal_even_of_unknown_size():
    assert "3/3" in said(enabled=True, terminal=True)
    assert "things/s" in said(enabled=True, terminal=True)


def test_nothing_where_it_is_not_wanted_and_no_bar_in_a_file():
    assert said(enabled=False, terminal=True) == ""
    assert said(enabled=True, terminal=False) == ""


def test_each_thing_comes_once_and_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.each(["a", "b"], "things")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["1 of 2 things", "2 of 2 things"]


def test_what_was_done_before_counts_but_sets_no_pace(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress(100, "iterations", before=80) as bar:
        bar.update(1)
        bar.update(3)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "81 of 100 iterations, 0.1 per second", "84 of 100 iterations, 0.2 per second"
    ]  # fmt: skip


def test_a_bar_goes_on_where_it_was():
    text = said(enabled=True, terminal=True, before=1, counted=2)
    assert text.lstrip().startswith("33%")
    assert "3/3" in text


def test_what_cannot_be_counted_is_said_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with progress.still("maps"):
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert set(lines) == {"maps: 0 s"}
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
