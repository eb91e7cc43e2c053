"""Running the project's own scripts as a person does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(script: str, *args: object, check: bool = True, **more) -> subprocess.CompletedProcess:
    """`python script args...` from the project's root; output as text, both streams apart."""
    command = [sys.executable, script, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, **more)
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def start(script: str, *args: object, **more) -> subprocess.Popen:
    """The same in the background."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, script, *map(str, args)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more,
    )  # fmt: skip
