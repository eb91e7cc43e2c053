"""Run the code blocks of the documents: `python -m scripts.check_commands --run [PAGE]...`.

Each page gets a copy of the project with small files under the names that the documents use (LFW,
FOLDER, old.net, me.jpg ...), and its blocks run there from the first to the last, as a reader would
paste them. `scripts.command_rules` keeps them short and names those that are not run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.check_links import ROOT
from scripts.command_rules import BEFORE, STAND_INS, shortened, why_not
from scripts.reader_files import write_reader_files

TIMEOUT = 900  # seconds for one command; most take five on a free core
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|((?:^ {4}\S[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"(from|import) ")
_COMMAND = re.compile(r"(python|make|eyescream|torchrun|pip|mkdir|bart) |scripts/\S|\.ci/")


@dataclass(frozen=True)
class Step:
    """One command of a page, or a whole block of Python."""

    text: str
    is_python: bool

    @property
    def title(self) -> str:
        return self.text.strip().splitlines()[-1 if self.is_python else 0]


def steps(text: str) -> list[Step]:
    """What a page's code blocks ask a reader to run, in their order."""
    found = []
    for language, fenced, indented in _BLOCK.findall(text):
        block = fenced or re.sub(r"^ {4}", "", indented, flags=re.MULTILINE)
        if language == "python" or _PYTHON.match(block):
            found.append(Step(block, True))
            continue
        lines = block.replace("\\\n", " ").splitlines()
        found += [Step(line, False) for line in lines if _COMMAND.match(line)]
    return found


def run_page(page: Path) -> tuple[int, int, list[str]]:
    """(commands run, not run, complaints) of one page; a line is printed for each."""
    name = page.relative_to(ROOT).as_posix()
    listed = steps(page.read_text(encoding="utf-8"))
    if not listed:
        return 0, 0, []
    ran, failed = 0, []
    with tempfile.TemporaryDirectory(prefix="reader_") as folder:
        place = _checkout(Path(folder) / "project")
        for command in BEFORE.get(name, ()):
            wrong = _run(command, False, place)
            if wrong:
                raise SystemExit(f"{name}: before its blocks: {wrong}")
        for step in listed:
            reason = why_not(step.text)
            if reason:
                print(f"{name}: not run ({reason}): {step.title}", flush=True)
                continue
            began = time.monotonic()
            text = step.text if step.is_python else _with_names(shortened(step.text), place)
            wrong = _run(text, step.is_python, place)
            ran += 1
            verdict = "FAILED" if wrong else f"{time.monotonic() - began:.0f} s"
            print(f"{name}: {verdict}: {step.title}", *filter(None, [wrong]), sep="\n", flush=True)
            failed += [f"{name}: {step.title}"] if wrong else []
    return ran, len(listed) - ran, failed


def _checkout(place: Path) -> Path:
    """A copy of the files that git knows, with the reader's files beside them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    (place / ".venv").symlink_to(sys.prefix)
    tools = place / ".tools"  # an installed `eyescream`, of this copy
    tools.mkdir()
    (tools / "eyescream").write_text('#!/bin/sh\nexec python -m eyescream_py "$@"\n')
    (tools / "eyescream").chmod(0o755)
    write_reader_files(place)
    return place


def _run(text: str, is_python: bool, place: Path) -> str:
    """Run a command or a block of Python; what went wrong, else empty. What it started ends."""
    paths = (place / ".tools", Path(sys.prefix) / "bin", os.environ["PATH"])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(map(str, paths)),
        "PYTHONPATH": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = ["python", "-c", text] if is_python else ["bash", "-ec", text]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            program, cwd=place, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code: int | str = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            code = f"no end after {TIMEOUT} s"
        finally:
            _end_group(process)
        said.seek(0)
        tail = said.read()[-2000:]
    return f"{program[-1]}\n{tail}\nended with: {code}" if code else ""


def _end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _with_names(command: str, place: Path) -> str:
    """The command with the files that this run made in place of the page's example names."""
    for shown, pattern in STAND_INS:
        made = sorted(place.glob(pattern), key=lambda path: path.stat().st_mtime)
        if made and re.search(shown, command):
            name = made[-1].relative_to(place).as_posix().removesuffix(".safetensors")
            command = re.sub(shown, name, command)
    return command


def run_pages(pages: list[Path]) -> int:
    """Run the blocks of all pages; 1 where a command failed, else 0."""
    results = [run_page(page) for page in pages]
    failed = [line for _, _, lines in results for line in lines]
    ran, left = sum(ran for ran, _, _ in results), sum(left for _, left, _ in results)
    print("\n".join(["Failed:", *failed]) if failed else "No command failed.")
    print(f"{ran} commands run, {len(failed)} failed, {left} not run.")
    return 1 if failed else 0
