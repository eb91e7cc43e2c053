"""The old commands one after the other, in a fresh copy of the project without any data."""

import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from PIL import Image

from tests.commands import ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".*", "out_*", "__pycache__", "*.net", "*.old", "*.jpg", "tests", "docs"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy as a clone has it: no pictures, no runs."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    for name in ("logs", "samples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def run(project, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=project, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def interrupt_in_second_epoch(project, *command):
    """Start a command, press Ctrl-C once its second epoch has begun, give what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-u", *command], cwd=project, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Epoch #2" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, "".join(lines)
    return "".join(lines)


@pytest.mark.timeout(900)
def test_train_upscale_sample_as_typed(project):
    port = free_port()
    printed = interrupt_in_second_epoch(
        project, "train.py", "--scale=16", "--grayscale", "--N_epoch=64", f"--visdom_port={port}"
    )
    assert "100 embedded LFW faces" in printed
    assert f"127.0.0.1:{port}" in printed
    # a quick machine may be in a later epoch by the time that the signal arrives
    assert re.search(
        r"Stopped by Ctrl-C: saved logs/adversarial\.net at epoch ([2-9]|\d\d)", printed
    )

    short = ("--epochs=1", "--N_epoch=32", "--parzenImages=2", "--noplot")
    printed = run(project, "train_c2f.py", "--coarseSize=16", "--fineSize=32", *short)
    assert "average || x_F - G(x_C) || = " in printed

    printed = run(project, "sample.py", "--runs=1")
    assert "train_c2f.py --coarseSize=16 --fineSize=32 --grayscale" in printed
    samples = project / "samples"
    expected = {"best": 128, "worst": 128, "random": 128, "random256": 256, "random1024": 512}
    for name, width in expected.items():
        with Image.open(samples / f"{name}_0001_base.jpg") as picture:
            assert picture.size == (width, width)
            assert len(picture.getcolors()) > 20, "a picture of one colour"

    run(project, "train_c2f.py", "--coarseSize=16", "--fineSize=32", "--grayscale", *short)
    run(project, "sample.py", "--runs=1", "--neighbours")
    for name in ("best_0001_c2f_32", "worst_0001_c2f_32", "random_0001_c2f_32"):
        with Image.open(samples / f"{name}.jpg") as picture:
            assert picture.size == (256, 256)
    assert (samples / "best_0001_neighbours_base.jpg").is_file()
