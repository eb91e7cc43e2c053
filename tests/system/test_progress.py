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
with Progress(3, "things", enabled={enabled}) as progress:
    for _ in range(3):
        progress.update(1)
"""


def said(enabled: bool, terminal: bool) -> str:
    """What counting to three writes to stderr, which may be a terminal of unknown size."""
    reader, writer = os.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", COUNT.format(enabled=enabled)]
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


def test_what_cannot_be_counted_is_said_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with progress.still("maps"):
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert set(lines) == {"maps: 0 s"}
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
