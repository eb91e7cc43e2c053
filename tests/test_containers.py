"""Where containers run programs: a user without a name, a home or a folder for caches; and places
without a folder for temporary files."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.picture_files import write_faces
from tests.plots.test_plots import free_port
from tests.small_runs import SCRIPTS

UID = "54321"
# What becomes another user: it needs an interpreter that others may run, or a kernel that lets
# anyone be a stranger in a world of his own. Where neither is, Python alone is told the lie.
WAYS = (
    ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"],
    ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}"],
    [],
)
NAMELESS = """
import pwd
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""
NO_TEMPORARY = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
PROBE = (
    "import os, pwd, sys, eyescream_py; assert os.access(sys.executable, os.X_OK)\n"
    "pwd.getpwuid(os.getuid())"
)
PROGRAM = """
import os, sys, time
from pathlib import Path
from eyescream_py.cli import sample, train
from eyescream_py.plots.client import Address
from eyescream_py.plots.keys import read_key
from eyescream_py.plots.windows import Plots
from eyescream_py.torch7.__main__ import main as torch7
from tests.small_runs import small_D
from eyescream_py.networks import models

assert os.path.expanduser("~") in ("~", os.environ.get("HOME"))
models.create_D = small_D
out, port, flags = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

plots = Plots.open(True, "127.0.0.1", port, "run")
end = time.monotonic() + 120
while not read_key(port) and time.monotonic() < end:
    time.sleep(0.05)
print("page:", Address("127.0.0.1", port).with_key(read_key(port)).probe().name)
train.main([*flags, f"--save={out / 'run'}", "--epochs=2"], standalone_mode=False)
plots.close()
sample.main(
    [f"--save_base={out / 'run'}", f"--writeto={out / 'samples'}", "--runs=1", "--gpu=-1",
     "--threads=1"], standalone_mode=False)
torch7(["convert", str(out / "run" / "adversarial.net"), str(out / "G.pt2"), "--network", "G",
        "--input", "1x4"], standalone_mode=False)
"""


def child(
    way: list[str], site: Path, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    hidden = {"HOME", "USER", "LOGNAME", "USERNAME", "TMPDIR"}
    # TORCHINDUCTOR_CACHE_DIR, which torch sets once another test has made it look for its cache
    named = ("XDG_", "TORCH")
    kept = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith(named)}
    path = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": ""}
    return subprocess.run(
        [*way, sys.executable, *words], cwd=ROOT, env={**kept, **path, **environment},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """A folder that every user may read and write."""
    folder = Path(tempfile.mkdtemp(prefix="container-"))
    folder.chmod(0o777)
    yield folder
    for closed in folder.glob("*/closed"):  # whose files only root may remove as it is
        closed.chmod(0o777)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stranger(public: Path) -> tuple[list[str], Path]:
    """What starts a program for a user without a name, and its PYTHONPATH."""
    (public / "site").mkdir()
    (public / "site" / "sitecustomize.py").write_text(NAMELESS)
    (public / "plain").mkdir()
    for way in WAYS:
        site = public / ("plain" if way else "site")
        if way and not shutil.which(way[0]):
            continue
        if "uid not found" in child(way, site, "-c", PROBE).stderr:
            return way, site
    raise AssertionError("a fault in this test: nothing makes a nameless user")


@pytest.mark.parametrize("home", ["", "closed"])
def test_a_user_without_name_home_and_caches_trains_plots_and_samples(home, public, stranger):
    way, site = stranger
    out = public / f"out{home}"
    faces = out / "closed" / "faces"
    write_faces(faces, 20)
    out.chmod(0o777)
    (out / "closed").chmod(0o555)
    environment = {"HOME": str(out / "closed")} if home else {}
    flags = [flag for flag in SCRIPTS["train"] if flag != "--noplot"]
    port = str(free_port())
    done = child(
        way, site, "-c", PROGRAM, str(out), port, *flags, f"--visdom_port={port}",
        f"--dataset={faces}", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "page: VISDOM" in done.stdout
    assert "(Visdom was already there)" in done.stdout
    for name in ("run/adversarial.net", "run/pictures/curves_adversarial.png",
                 "samples/sheet_0001.png", "G.pt2"):  # fmt: skip
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize("script", ["train.py", "sample.py"])
def test_no_folder_for_temporary_files_is_one_line(script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY)
    flags = {
        "train.py": [*SCRIPTS["train"], "--D_arch=small", f"--save={tmp_path / 'run'}"],
        "sample.py": ["--save_base=eyescream_py/pretrained", "--G_base=faces16.net",
                      "--D_base=faces16.net", f"--writeto={tmp_path / 's'}", "--gpu=-1"],
    }  # fmt: skip
    done = child([], tmp_path, script, *flags[script], "--threads=1", HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "Error: no folder for temporary files can be written; set TMPDIR to one that can\n"
    )
    assert not list(tmp_path.rglob("*.net"))
