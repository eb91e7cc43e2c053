"""A build backend (PEP 517) whose wheel is visdom's own, built from its source archive.

The archive and the tools that build it are checked against the hashes beside this file.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VERSION = "0.2.4"
_HERE = Path(__file__).parent
# Variables by which the outer pip talks to its build backend: they would misdirect the inner one.
_HOOK_PREFIXES = ("_PYPROJECT_HOOKS_", "PEP517_")


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Put visdom's wheel into `wheel_directory`, return its file name (PEP 517)."""
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder) / "tools"
        subprocess.run(_tools_command(tools), env=_environment(), check=True)  # noqa: S603
        subprocess.run(_wheel_command(folder), env=_environment(tools), check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("visdom-*.whl")
        (Path(wheel_directory) / wheel.name).write_bytes(wheel.read_bytes())
    return wheel.name


def _pip(command: str, requirements: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", command, "--disable-pip-version-check", "--no-deps"),
        *("--require-hashes", "-r", str(_HERE / requirements)),
    ]


def _tools_command(target: Path) -> list[str]:
    return [*_pip("install", "tools.txt"), "--only-binary", ":all:", "--target", str(target)]


def _wheel_command(folder: str) -> list[str]:
    return [
        *_pip("wheel", "source.txt"),
        *("--no-build-isolation", "--no-binary", "visdom", "--wheel-dir", folder),
    ]


def _environment(tools: Path | None = None) -> dict[str, str]:
    """Our environment without the outer pip's hook variables and requirement files; `tools` first
    on Python's path."""
    hidden = {"PIP_CONSTRAINT", "PIP_REQUIREMENT"}
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_HOOK_PREFIXES) and name not in hidden
    }
    if tools is not None:
        ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tools), ours.get("PYTHONPATH")]))
    return ours
