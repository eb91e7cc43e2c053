"""Atomic writing: the old file or the new one, whatever fails."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import time

import pytest

from eyescream_py.system import files
from eyescream_py.system.files import (
    atomic_write,
    demand_room,
    open_to_read,
    remove_stale_temporaries,
)


def write(path, data, **options):
    with atomic_write(path, **options) as file:
        file.write(data)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_and_its_replacement(tmp_path):
    path = tmp_path / "a.net"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.net"]


def test_the_previous_one_is_kept(tmp_path):
    path = tmp_path / "a.net"
    for data in (b"one", b"two", b"three"):
        write(path, data, keep_old=True)
    assert path.read_bytes() == b"three"
    assert (tmp_path / "a.net.old").read_bytes() == b"two"
    assert names(tmp_path) == ["a.net", "a.net.old"]


def test_the_previous_one_is_kept_where_files_have_one_name_only(tmp_path, monkeypatch):
    """A file system without hard links; `path` must not be missing for a moment."""
    path = tmp_path / "a.net"
    write(path, b"one")

    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append(path.read_bytes())
        replace(source, target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", watched)
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.fstat(fd).st_size))
    write(path, b"newer", keep_old=True)
    synced = [len(b"newer"), len(b"one")]  # the new file and the copy
    assert seen[:4] == [*synced, b"one", b"one"]
    assert (path.read_bytes(), (tmp_path / "a.net.old").read_bytes()) == (b"newer", b"one")
    assert names(tmp_path) == ["a.net", "a.net.old"]


def write_half(path, error):
    with atomic_write(path, keep_old=True) as file:
        file.write(b"half")
        raise error


def test_an_error_inside_the_block_changes_nothing(tmp_path):
    path = tmp_path / "a.net"
    write(path, b"one")
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            write_half(path, error)
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["a.net"]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_no_step_that_fails_costs_the_old_file(function, tmp_path, monkeypatch):
    path = tmp_path / "a.net"
    write(path, b"zero", keep_old=True)
    write(path, b"one", keep_old=True)
    original = getattr(os, function)
    for failing in range(1, 3):
        calls = []

        def fails(*args, calls=calls, failing=failing):
            calls.append(args)
            if len(calls) == failing:
                raise OSError(5, "Input/output error")
            return original(*args)

        monkeypatch.setattr(os, function, fails)
        with pytest.raises(OSError, match="Input/output"):
            write(path, b"two", keep_old=True)
        monkeypatch.setattr(os, function, original)
        assert path.read_bytes() in (b"one", b"two")
        assert (tmp_path / "a.net.old").read_bytes() in (b"zero", b"one")
        assert names(tmp_path) == ["a.net", "a.net.old"]


def test_the_bytes_are_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    order = []
    replace = os.replace

    def fsync(descriptor):
        status = os.fstat(descriptor)
        order.append("folder" if stat.S_ISDIR(status.st_mode) else status.st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    write(tmp_path / "a.net", b"one")
    assert order == [3, "rename", "folder"]
    with atomic_write(tmp_path / "b.png", synced=False) as file:
        file.write(b"two")
    assert order[3:] == ["rename"]
    assert (tmp_path / "b.png").read_bytes() == b"two"


def test_stale_temporaries_go_and_those_of_running_writers_stay(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    stale = tmp_path / f".a.net.{int(ended.stdout)}.tmp"
    alive = tmp_path / f".a.net.{os.getppid()}.tmp"
    for file in (stale, alive, tmp_path / "kept.tmp"):
        file.write_bytes(b"half")
    assert remove_stale_temporaries(tmp_path) == [stale]
    assert names(tmp_path) == sorted([alive.name, "kept.tmp"])


def test_temporaries_of_another_machine_stay_for_a_day(tmp_path):
    """Two machines or containers may share a folder, and each counts its processes from 1."""
    ours = files.temporary_name(tmp_path / "a.net")
    host = ours.name.split(".")[-2][:8]
    others = tmp_path / ours.name.replace(f".{host}", ".0123abcd")
    for file in (ours, others):
        file.write_bytes(b"half")
    os.utime(others, (time.time() - 23 * 3600,) * 2)
    assert remove_stale_temporaries(tmp_path) == [ours]
    os.utime(others, (time.time() - 25 * 3600,) * 2)
    assert remove_stale_temporaries(tmp_path) == [others]


def test_other_machines_and_containers_have_other_names(monkeypatch):
    found = [files._host()]
    for module, name in ((files.socket, "gethostname"), (os, "readlink")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *where: "another")
            found.append(files._host())
    assert len(set(found)) == 3


def test_a_temporary_that_is_gone_meanwhile_is_nothing_to_remove(tmp_path, monkeypatch):
    """Its writer, on another machine, has just renamed it."""
    written = tmp_path / f".a.net.7.{'0' * 20}.tmp"
    written.write_bytes(b"whole")
    monkeypatch.setattr(files, "_host", lambda: written.rename(tmp_path / "a.net").name)
    assert remove_stale_temporaries(tmp_path) == []
    assert (tmp_path / "a.net").read_bytes() == b"whole"


def test_a_pipe_is_read_however_many_files_are_open(tmp_path):
    """select refuses descriptors from 1024 on."""
    os.mkfifo(tmp_path / "pipe")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1100:
        pytest.skip("this system allows fewer files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"words",))
        writer.start()
        with files.open_to_read(tmp_path / "pipe") as file:
            assert file.read() == b"words"
            assert file.fileno() >= 1024
        writer.join()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_permission_to_signal_is_no_question_of_being_alive(monkeypatch):
    def forbidden(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert files.is_running(1)


def test_what_an_ended_but_unreaped_process_left_is_stale(tmp_path):
    """A worker whose parent was killed may wait long for somebody to reap it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie until wait()
    stale = tmp_path / f".x.{ended.pid}.tmp"
    stale.touch()
    assert remove_stale_temporaries(tmp_path) == [stale]
    ended.wait()


def test_a_running_process_is_no_zombie_whatever_its_name(tmp_path):
    script = tmp_path / "a Z b"  # the kernel's word for a zombie, where others have theirs
    script.write_text("#!/bin/sh\nread word\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdin=subprocess.PIPE) as process:
        assert files.is_running(process.pid)
        process.stdin.close()
    assert not files.is_running(process.pid)
    assert not files.is_running(10**30)


def test_a_link_planted_at_the_temporary_name_is_never_followed(tmp_path, monkeypatch):
    """The old name could be foreseen; now it is random, and taken by nobody else."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, tmp_path / f".a.net.{os.getpid()}.tmp")
    write(tmp_path / "a.net", b"one")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    os.symlink(victim, files.temporary_name(tmp_path / "a.net"))
    with pytest.raises(FileExistsError):
        write(tmp_path / "a.net", b"two")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "a.net").read_bytes() == b"one"


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device or pipe"), atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_room_is_demanded_and_nothing_left(tmp_path):
    write(tmp_path / "there", b"one")
    for name in ("there", "new", "ü" * 125 + ".net"):
        demand_room(tmp_path / name, 1000)
    assert names(tmp_path) == ["there"]
    assert (tmp_path / "there").read_bytes() == b"one"
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "Is a directory"), (tmp_path / "pipe", "a device or pipe"),
        (tmp_path / "no" / "file", "No such file"), (tmp_path / "there" / "file", "Not a dir"),
    ):  # fmt: skip
        with pytest.raises(OSError, match=words) as caught:
            demand_room(path)
        assert caught.value.filename == str(path)
    with pytest.raises(OSError, match=r"No space|too large"):
        demand_room(tmp_path / "new", 2**60)
    assert names(tmp_path) == ["pipe", "there"]


def test_where_nothing_can_be_reserved_files_are_made_longer_and_never_shorter(
    tmp_path, monkeypatch
):
    asked, errors = [], [errno.ENOSPC, errno.ENOSPC, errno.EINVAL, errno.EINVAL, errno.EOPNOTSUPP]

    def refuse(descriptor, start, size):
        asked.append((start, size))
        raise OSError(code := errors.pop(), os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with open(tmp_path / "a", "w+b") as file:
        file.write(b"abcde")
        file.flush()
        for start, size, length in ((4, 4, 8), (6, 4, 10), (1, 2, 10)):
            files.reserve(file, size, start)
            assert os.fstat(file.fileno()).st_size == length
        with pytest.raises(OSError, match="No space"):
            files.reserve(file, 1)
        file.seek(0)
        assert file.read() == b"abcde" + bytes(5)
    with pytest.raises(OSError, match="No space"):
        demand_room(tmp_path / "b")
    assert asked[-1] == (0, 1)  # of 0 bytes the system would say nothing


def test_names_of_255_bytes(tmp_path):
    path = tmp_path / ("ü" * 125 + ".net")
    write(path, b"one")
    assert names(tmp_path) == [path.name]


def test_stale_temporaries_below(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, check=True)  # fmt: skip
    name = f".0.png.{int(ended.stdout)}.0123456789ab.tmp"
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    stale, folder, foreign = run / "grids" / "step_4" / name, run / name, elsewhere / name
    for parent in (stale.parent, folder, elsewhere):
        parent.mkdir(parents=True)
    (run / "link").symlink_to(elsewhere)
    stale.touch()
    foreign.touch()
    assert remove_stale_temporaries(run) == []
    assert remove_stale_temporaries(run, deep=True) == [stale]
    assert folder.is_dir()
    assert foreign.exists()


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a.net"
    with pytest.raises(OSError, match=r"No space") as error, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it
    assert error.value.filename == str(path)
    with pytest.raises(OSError, match=r"No such") as error, atomic_write(tmp_path / "none/a.net"):
        pass
    assert error.value.filename == str(tmp_path / "none" / "a.net")
    with pytest.raises(OSError, match=r"^cannot write mode F$"), atomic_write(path):
        raise OSError("cannot write mode F")  # Pillow's, whose words a file's name would replace


def test_a_pipe_is_read_where_somebody_writes_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe that nobody writes to") as error:
        open_to_read(tmp_path / "pipe")
    assert error.value.filename == str(tmp_path / "pipe")
    with (
        subprocess.Popen(
            ["sh", "-c", "printf one; sleep 0.1; printf two"], stdout=subprocess.PIPE
        ) as slow,
        open_to_read(f"/dev/fd/{slow.stdout.fileno()}") as file,
    ):  # as of `<(command)`
        assert file.read() == b"onetwo"
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        open_to_read(tmp_path)
    assert set(os.listdir("/proc/self/fd")) <= before
