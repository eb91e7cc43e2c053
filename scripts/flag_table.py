"""Write docs/flags.md from the commands themselves: `python -m scripts.flag_table`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "train_c2f", "train_autoencoder", "train_denoiser", "sample")
HEAD = """# Flags

Every flag of every script with its meaning and default, as `python SCRIPT --help` prints them.
Those above the line *not in Lua* are the Lua program's, with its names and defaults.
"""


def lua_flags(script: str) -> set[str]:
    spec: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "cli.json").read_text())
    return {flag for names in spec[script] for flag in names.split(",")}


def row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    default = "switch" if option.is_flag else str(option.default)
    if not option.is_flag and option.default in ("", None):
        default = "-"
    return f"| {names} | {option.help} | {default} |"


def table(script: str) -> str:
    """One script's table, the Lua program's flags first."""
    command: click.Command = importlib.import_module(f"eyescream_py.cli.{script}").main
    options = [p for p in command.params if isinstance(p, click.Option)]
    lua = lua_flags(f"{script}.py")
    old = [row(o) for o in options if lua & set(o.opts)]
    new = [row(o) for o in options if not lua & set(o.opts)]
    head = [f"\n## {script}.py\n", "| flag | meaning | default |", "|---|---|---|"]
    return "\n".join([*head, *old, "| *not in Lua* | | |", *new]) + "\n"


def page() -> str:
    return HEAD + "".join(table(script) for script in SCRIPTS)


if __name__ == "__main__":
    (ROOT / "docs" / "flags.md").write_text(page())
