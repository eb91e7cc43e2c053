import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest

from eyescream_py.system.errors import UserError
from eyescream_py.system.locks import HeldError, Lock, alone_in, writing

HOLD = """
import sys, time
from eyescream_py.system.locks import writing
with writing(sys.argv[1], "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True,
        cwd=__file__.rpartition("/tests/")[0],
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_with_the_first_ones_number(tmp_path):
    path = tmp_path / "a.net"
    process = holder(path)
    try:
        expected = f"process {process.pid} .*is writing .*a.net; wait"
        with pytest.raises(UserError, match=expected), writing(path, "wait"):
            pass
        with writing(tmp_path / "b.net", "wait"):  # another file of the folder
            pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("1 elsewhere", r"process 1 on elsewhere is writing"),
        ("nonsense", r"another process is writing"),
        (f"{os.getppid()}", rf"process {os.getppid()} \(.*\) is writing"),
    ],
    ids=["elsewhere", "nonsense", "parent"],
)
def test_a_holder_on_another_machine_is_no_process_of_this_one(told, said, tmp_path):
    with writing(tmp_path / "a.net", "wait"):
        (tmp_path / ".a.net.lock").write_text(told)
        with pytest.raises(UserError, match=said), writing(tmp_path / "a.net", "wait"):
            pass


def test_a_killed_holder_holds_nothing(tmp_path):
    process = holder(tmp_path / "a.net")
    process.kill()
    process.wait()
    process.stdout.close()
    with writing(tmp_path / "a.net", "wait"):
        assert (tmp_path / ".a.net.lock").read_text() == f"{os.getpid()} {socket.gethostname()}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_locks_does_not_stop_the_work(tmp_path):
    with writing(tmp_path / "none" / "a.net", "wait"):
        pass
    (tmp_path / "there").write_text("mine")
    os.symlink("there", tmp_path / ".a.net.lock")
    with writing(tmp_path / "a.net", "wait"):  # a planted link is not followed
        pass
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_the_file_system_has_no_locks_nobody_waits_or_is_refused(
    number, tmp_path, monkeypatch
):
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    start = time.monotonic()
    with writing(tmp_path / "a.net", "wait"), alone_in(tmp_path, patience_s=60):
        pass
    assert time.monotonic() - start < 30


def test_who_wants_to_be_alone_waits_for_another_and_not_for_ever(tmp_path):
    waited = []
    for held in (True, False):
        with alone_in(tmp_path) if held else contextlib.nullcontext():
            start = time.monotonic()
            with alone_in(tmp_path, patience_s=1.5):
                waited.append(time.monotonic() - start)
    assert waited[0] >= 1.5 > waited[1]


def test_no_descriptor_stays_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with (
            writing(tmp_path / "a.net", "wait"), alone_in(tmp_path), pytest.raises(HeldError),
        ):  # fmt: skip
            Lock(tmp_path / "a.net")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_many_at_once_one_holds(tmp_path):
    script = (
        "import sys, time\nfrom eyescream_py.system.locks import writing\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        with writing(sys.argv[1], ''):\n"
        "            f = open(sys.argv[1], 'x'); f.close()\n"
        "            import os; os.unlink(sys.argv[1])\n"
        "    except FileExistsError: sys.exit(9)\n"
        "    except Exception: pass\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.net")]
    root = __file__.rpartition("/tests/")[0]
    running = [subprocess.Popen(command, cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]


def test_a_full_disk_takes_the_number_but_not_the_lock(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    held = writing(tmp_path / "a.net", "wait")
    with held, pytest.raises(UserError, match="is writing"), writing(tmp_path / "a.net", "wait"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_cannot_be_made_for_a_while_is_not_lost(tmp_path):
    """Its folder was renamed, and in the new one another file has the name."""
    path = tmp_path / "run" / "a.net"
    path.parent.mkdir()
    lock = Lock(path)
    path.parent.rename(tmp_path / "moved")
    (tmp_path / "run" / ".a.net.lock").mkdir(parents=True)
    assert [lock.follow(), lock.follow()] == [1, 2]
    with pytest.raises(HeldError):
        Lock(tmp_path / "moved" / "a.net")
    (tmp_path / "run" / ".a.net.lock").rmdir()
    assert [lock.follow(), lock.follow()] == [3, 3]
    with pytest.raises(HeldError):
        Lock(path)
    lock.release()
    assert list(path.parent.iterdir()) == []
