"""A build backend (PEP 517) whose wheel is visdom's own, built from its source archive.

The build runs in the environment that pip made for this folder, where setuptools is old enough
for visdom's setup.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VERSION = "0.2.4"
# Variables by which the outer pip talks to its build backend: they would misdirect the inner one.
_HOOK_PREFIXES = ("_PYPROJECT_HOOKS_", "PEP517_")


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Put visdom's wheel into `wheel_directory`, return its file name (PEP 517)."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(_pip_wheel_command(folder), env=_environment(), check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("visdom-*.whl")
        (Path(wheel_directory) / wheel.name).write_bytes(wheel.read_bytes())
    return wheel.name


def _pip_wheel_command(folder: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--no-binary", "visdom", "--wheel-dir", folder),
        f"visdom=={VERSION}",
    ]


def _environment() -> dict[str, str]:
    """Our environment without the outer pip's hook variables and requirement files."""
    hidden = {"PIP_REQUIRE_HASHES", "PIP_CONSTRAINT", "PIP_REQUIREMENT"}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_HOOK_PREFIXES) and name not in hidden
    }
