"""A user whose threads are counted (`ulimit -u`) gets a line in place of a traceback."""

import multiprocessing
import subprocess
import sys
import threading
from multiprocessing.context import SpawnProcess

import click
import pytest
from click.testing import CliRunner

from eyescream_py.plots.server import ServerProcess
from eyescream_py.plots.windows import Plots
from eyescream_py.system.commands import Command
from eyescream_py.system.errors import UserError
from eyescream_py.system.processes import worker_processes
from eyescream_py.system.progress import still
from eyescream_py.system.threads import NO_THREAD, demand_threads, start_thread


@pytest.fixture
def three_threads(monkeypatch):
    """A system that starts three threads and no more."""
    started, start = [], threading.Thread.start

    def refuse(thread):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return started


def test_threads_are_asked_for_before_openmp_does(three_threads):
    before = threading.active_count()
    demand_threads(3, "--threads=4")
    assert threading.active_count() == before
    three_threads.clear()
    with pytest.raises(UserError, match="--threads=5: the system starts only 3 threads more"):
        demand_threads(4, "--threads=5")
    assert threading.active_count() == before


def test_other_errors_of_a_start_are_what_they_are():
    thread = threading.Thread(target=int)
    start_thread(thread)
    with pytest.raises(RuntimeError, match="once"):
        start_thread(thread)


@click.command(cls=Command)
@click.option("--pool", is_flag=True)
def needs_a_thread(pool):
    if pool:
        threading.Thread(target=int).start()
    with still("work"):
        pass


@pytest.mark.parametrize("flags", [[], ["--pool"]])
def test_a_command_without_threads_ends_in_a_line(three_threads, flags):
    demand_threads(3, "")
    done = CliRunner().invoke(needs_a_thread, flags)
    assert (done.exit_code, done.output) == (2, f"Error: {NO_THREAD}\n")


def test_plots_are_off_and_a_page_that_is_needed_an_error(three_threads, capsys):
    demand_threads(3, "")
    plots = Plots.open(True, "127.0.0.1", 1, "run")
    assert not plots.is_on
    assert capsys.readouterr().out == f"Plots are off: {NO_THREAD}.\n"
    with pytest.raises(OSError, match="no further thread"):
        Plots.open(True, "127.0.0.1", 1, "run", needed_by="--explore")


def test_a_server_that_cannot_be_started_is_given_up(monkeypatch, capsys):
    def refuse(*args, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("eyescream_py.plots.server._RESTART_PAUSE_S", 0.0)
    server = ServerProcess(1, "key")
    for _ in range(4):
        server.ensure_running()
    assert server.given_up
    assert not server.was_started
    said = capsys.readouterr().out
    assert said.count("Visdom cannot be started: Resource temporarily unavailable\n") == 3
    server.stop()


def test_a_bar_needs_no_thread():
    program = (
        "import threading\n"
        'def refuse(thread): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n"
        "from eyescream_py.system.progress import Progress\n"
        "Progress(3, 'things').update(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_processes_are_asked_for_before_the_pool_hangs(three_threads):
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=r"^2 processes: the system starts only 3 threads more"):
        worker_processes(2).__enter__()
    assert multiprocessing.active_children() == before


def test_a_process_that_cannot_start_is_told_by_the_first_task(monkeypatch, capfd):
    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refuse)
    with pytest.raises(BlockingIOError), worker_processes(2) as pool:
        pool.submit(int).result(60)
    assert capfd.readouterr() == ("", "")
