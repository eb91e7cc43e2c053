"""Where processes meet; both sides of it in this process, as a meeting needs no collective."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from eyescream_py.system.errors import UserError
from eyescream_py.training import meeting
from eyescream_py.training.meeting import Company, met, several
from tests.small_runs import invoke
from tests.training.test_distributed import free_ports


@pytest.fixture
def place(monkeypatch):
    """An environment as torchrun makes it."""
    (port,) = free_ports(1)
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    values = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "MEETING_S", 20.0)
    monkeypatch.setattr(meeting, "LOOK_S", 0.01)
    return monkeypatch


def test_a_store_that_went_away_is_told(place):
    company = Company()
    with pytest.raises(UserError, match="rank 0 ended before"), company._store_may_go():
        raise dist.DistError("Broken pipe")


@pytest.fixture
def two(place):
    """Rank 0 and rank 1."""
    first = Company()
    place.setenv("RANK", "1")
    return first, Company()


def test_they_go_on_when_all_have_come(two):
    first, second = two
    waiting = threading.Thread(target=first.gather, args=("here",))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    second.gather("here")
    waiting.join(20)
    assert not waiting.is_alive()
    assert first.failure() is None


def test_who_comes_first_waits_for_rank_0_to_open_the_store(place):
    tries, connect = [], socket.create_connection

    def tried(*where, **more):
        tries.append(where)
        return connect(*where, **more)

    place.setattr(socket, "create_connection", tried)
    place.setenv("RANK", "1")
    with ThreadPoolExecutor() as pool:
        early = pool.submit(Company)
        wait_until(lambda: tries)
        place.setenv("RANK", "0")
        first = Company()
        assert early.result(20).rank == 1
    assert first.rank == 0


@pytest.mark.parametrize("which", [0, 1])
def test_who_waits_hears_why_another_ended(two, which):
    failed, waiting = two[which], two[1 - which]
    failed.tell(UserError("--dataset=x: no folder"))
    waiting.tell(UserError("a later word"))
    with pytest.raises(UserError, match=f"^rank {which} ended: --dataset=x: no folder$"):
        waiting.gather("here")


@pytest.mark.parametrize(
    ("first", "own", "local", "elsewhere", "is_said"),
    [
        (1, "x", "0", False, True),  # both fail alike: once
        (0, "x", "1", False, True),
        (0, "", "1", False, True),  # rank 0 has said it on this terminal
        (1, "", "0", False, False),  # of the others' failures the first process speaks
        (0, "x", "0", True, False),  # as that of each machine does
        (0, "", "0", True, False),
        (0, "y", "1", False, False),  # another failure is another line
    ],
)
def test_a_failure_is_said_once(two, place, capsys, first, own, local, elsewhere, is_said):
    failed, other = two[first], two[1 - first]
    failed.tell(UserError("x"))
    place.setenv("LOCAL_RANK", local)
    if elsewhere:
        other.host = "another machine"
    error = UserError(own) if own else other.failure().as_error()
    meeting._end(other, error)
    assert not failed.is_said()
    error.show()
    assert (capsys.readouterr().err == "") == is_said


def test_an_error_shows_itself_where_the_store_is_gone(two, place, capsys):
    def gone(*words):
        raise meeting.dist.DistError("closed")

    company = two[1]
    company.store = SimpleNamespace(check=gone, compare_set=gone)
    error = UserError("x")
    meeting._end(company, error)
    error.show()
    assert capsys.readouterr().err == "Error: x\n"


def test_another_machine_is_asked_by_its_own_name(place):
    def asked(host, *settings, **more):
        raise RuntimeError(f"asked {host}")

    place.setattr(meeting.dist, "TCPStore", asked)
    place.setenv("MASTER_ADDR", "127.0.0.2")
    with pytest.raises(UserError, match=r"\(asked 127\.0\.0\.2\)"):
        Company()


def test_rank_0_stays_until_the_others_have_read_why_it_ends(two, monkeypatch):
    monkeypatch.setattr(meeting, "FAREWELL_S", 20.0)
    first, second = two
    first.tell(KeyboardInterrupt())
    leaving = threading.Thread(target=first.linger)
    leaving.start()
    time.sleep(0.1)
    assert leaving.is_alive()
    assert second.failure().words == "it was stopped"
    leaving.join(10)
    assert not leaving.is_alive()


def test_rank_0_does_not_wait_for_the_dead(two):
    first, _ = two
    with subprocess.Popen(["true"]) as ended:
        pass
    first.store.set("process/1", json.dumps([first.host, ended.pid]))
    leave_at_once(first)
    assert first.dead() == [1]


def test_rank_0_does_not_stay_where_the_store_is_torchrun_s(two):
    _, second = two  # a client of a store that another process holds, as torchrun does
    second.rank = 0
    leave_at_once(second)


def leave_at_once(company):
    company.tell(ValueError("enough"))
    start = time.monotonic()
    company.linger()
    assert time.monotonic() - start < meeting.FAREWELL_S / 2
    assert company.failure().words == "enough"


@pytest.mark.parametrize("refused", ["0", "1"])
def test_who_waits_hears_of_a_flag_that_another_was_given(place, refused):
    """Which click refuses before the processes meet."""
    other = "1" if refused == "0" else "0"
    said = []

    def wait():
        with pytest.raises(UserError) as error, met():
            pass
        said.append(error.value.message)

    place.setenv("RANK", other)
    with ThreadPoolExecutor() as pool:
        if other == "0":
            waiting = pool.submit(wait)
            wait_until(lambda: socket_answers(os.environ["MASTER_PORT"]))
        place.setenv("RANK", refused)
        running = pool.submit(invoke, "train", "--scale=x")
        if other == "1":
            wait_until(lambda: socket_answers(os.environ["MASTER_PORT"]))
            place.setenv("RANK", other)
            waiting = pool.submit(wait)
        waiting.result(20)
        assert running.result(20).exit_code == 2
    assert len(said) == 1
    assert said[0].startswith(f"rank {refused} ended: Invalid value for '--scale': 'x' is not")


def wait_until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def socket_answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port))):
        return True
    return False


def test_one_that_never_comes_is_not_waited_for_without_end(place, capsys):
    place.setattr(meeting, "MEETING_S", 0.3)
    place.setattr(meeting, "SAY_AFTER_S", 0.1)
    with pytest.raises(UserError, match="only 1 of the 2 processes"):
        Company().gather("here")
    assert capsys.readouterr().out == "Waiting for 1 of 2 processes.\n"
    place.setenv("RANK", "1")
    place.setenv("MASTER_PORT", str(free_ports(1)[0]))
    with pytest.raises(UserError, match=r"there \(Connection refused\); unset WORLD_SIZE"):
        Company()


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("RANK", "", "RANK is not set"),
        ("RANK", "2", "its own"),
        ("RANK", "x", "RANK=x"),
        ("RANK", "²", "RANK=²"),
        ("WORLD_SIZE", "many", "WORLD_SIZE=many"),
        ("MASTER_ADDR", "", "MASTER_ADDR is not set"),
        ("MASTER_ADDR", "no.such.host.invalid", "cannot meet there"),
        ("MASTER_PORT", "-1", "MASTER_PORT=-1"),
        ("MASTER_PORT", "70000", "cannot meet there"),
    ],
)
def test_an_environment_that_makes_no_sense(place, name, value, word):
    place.setenv(name, value)
    with pytest.raises(UserError, match=word), met():
        pass


@pytest.mark.parametrize("size", ["", "0", "1", " 1 "])
def test_one_process_is_alone(place, size):
    place.setenv("WORLD_SIZE", size)
    assert not several()
    with met() as company:
        assert company is None


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_the_help_is_that_of_the_first_process(place, rank, times):
    place.setenv("RANK", rank)
    for script in ("train", "train_c2f", "train_autoencoder", "train_denoiser"):
        done = invoke(script, "--help")
        assert done.exit_code == 0
        assert done.stdout.count("--dataset PATH") == times
