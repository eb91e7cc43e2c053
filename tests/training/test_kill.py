"""SIGKILL at random moments of a real training: nothing is lost. (500: scripts/kill_loop.py.)"""

import json

from tests.commands import run


def test_a_dozen_kills_lose_nothing():
    done = run("scripts/kill_loop.py", "--kills=12", "--seed=3", check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == []
    assert figures["kills"] == 12
    assert figures["kills_inside_a_save"] >= 2
    assert figures["checkpoints_loaded"] >= 4
    assert figures["epochs"] >= 1


def test_the_harness_notices_a_writer_that_is_not_atomic():
    done = run("scripts/kill_loop.py", "--kills=40", "--seed=3", "--unsafe", check=False)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert json.loads(done.stdout.splitlines()[-1])["faults"]


def test_a_killed_sibling_ends_as_if_it_had_not_been():
    """(200 over all eight trainers: scripts/kill_trainers.py.)"""
    done = run("scripts/kill_trainers.py", "--kills=3", "--seed=2", "--only=srez", check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    _, name, kills, whole_runs, fault, _ = map(str.strip, done.stdout.splitlines()[-1].split("|"))
    assert (name, fault) == ("srez", "")
    assert int(kills) >= 3
    assert int(whole_runs) >= 1
