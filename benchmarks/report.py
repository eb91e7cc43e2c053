"""Tables of benchmark results and the words that describe the machine they ran on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import torch

# of what a command writes anew into a file of results
BEGINS, ENDS = "<!-- measured -->", "<!-- end of what was measured -->"


class OutputFile(click.Path):
    """A file that is written at the end; its folder has to be there before anything is measured."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        return path


def chosen(names: Iterable[str], only: str) -> list[str]:
    """The names that contain `only`; an error of click's where none does."""
    names = list(names)
    found = [name for name in names if only in name]
    if not found:
        raise click.BadParameter(f"{only!r} is in none of {', '.join(names)}", param_hint="--only")
    return found


def machine(device: torch.device | None = None) -> str:
    """Processor, cores, torch, and the GPU where one is used."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0))
    words = f"{model}, {cores} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if device is not None and device.type == "cuda":
        words += f", {torch.cuda.get_device_name(device)}"
    return words


def today() -> str:
    """YYYY-MM-DD."""
    return datetime.date.today().isoformat()


def write_measured(output: Path, text: str) -> None:
    """Put `text` between the file's two marks. What people wrote around them stays; so does all of
    a file without marks, below the text.
    """
    old = output.read_text(encoding="utf-8") if output.exists() else ""
    above, begins, rest = old.partition(BEGINS)
    _, ends, below = rest.partition(ENDS)
    if not (begins and ends):
        above, below = "", f"\n\n{old}" if old else "\n"
    output.write_text(f"{above}{BEGINS}\n{text}{ENDS}{below}", encoding="utf-8")


class Table:
    """A Markdown table that grows row by row."""

    def __init__(self, *columns: str) -> None:
        self.rows = [columns]

    def add(self, *cells: object) -> None:
        self.rows.append(tuple(str(cell) for cell in cells))

    def last(self) -> str:
        return " | ".join(self.rows[-1])

    def markdown(self) -> str:
        head, *body = (f"| {' | '.join(row)} |" for row in self.rows)
        return "\n".join([head, "|" + "---|" * len(self.rows[0]), *body])

    def publish(self, title: str, words: str, output: Path | None) -> None:
        """Print the table; with `output` also write it with title, machine and date."""
        print(self.markdown())
        if output:
            write_measured(output, f"# {title}\n\n{words}, {today()}\n\n{self.markdown()}\n")
