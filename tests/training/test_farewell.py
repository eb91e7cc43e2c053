"""What the processes of a run say that are left when one of them has gone."""

import contextlib
import re
from types import SimpleNamespace

import pytest

from eyescream_py.system.errors import UserError
from eyescream_py.system.signals import StopSignal
from eyescream_py.training import distributed, meeting
from eyescream_py.training.distributed import joined
from tests.training.test_on_cuda import Shared


@pytest.mark.parametrize(
    ("rank", "failed", "gone", "host", "said"),
    [
        (0, None, [2], "here", r"rank 2 \(process 12\) ended, .*--network= continues"),
        (1, None, [0], "here", r"rank 0 \(process 10\) ended"),
        (2, None, [0], "here", None),  # rank 1 says it
        (0, meeting.Failure(1, "no folder"), [], "here", "^rank 1 ended: no folder$"),
        (1, meeting.Failure(0, "no folder"), [], "here", "^rank 0 ended: no folder$"),
        (2, meeting.Failure(0, "no folder"), [], "here", None),
        (0, None, [], "there", "a process on another machine ended"),
        (0, None, [], "here", ""),  # the error is another
    ],
)
def test_of_those_that_are_left_the_first_says_who_went(
    rank, failed, gone, host, said, monkeypatch
):
    company = SimpleNamespace(
        rank=rank, host="here", failure=lambda: failed, dead=lambda: gone,
        processes=lambda: {0: ("here", 10), 1: (host, 11), 2: ("here", 12)},
    )  # fmt: skip
    monkeypatch.setattr(distributed, "GONE_PAUSE_S", 0)
    alarms = []
    monkeypatch.setattr(distributed.signal, "alarm", alarms.append)
    if said == "":
        distributed._tell_of_the_first(company)
        assert alarms == []
        return
    with pytest.raises(SystemExit if said is None else UserError) as ended:
        distributed._tell_of_the_first(company)
    assert said is None or re.search(said, ended.value.message)
    assert said or ended.value.code == 2
    assert alarms == [20]  # whatever hangs then ends


def test_one_that_fails_while_another_still_connects_is_named(monkeypatch):
    """It had joined, failed and gone when the other's connection was not yet made."""

    def closed(backend, company):
        raise RuntimeError("Gloo connectFullMesh failed with Connection closed by peer")

    told = []
    company = SimpleNamespace(
        rank=1, size=2, host="here", failure=lambda: meeting.Failure(0, "no folder"),
        dead=list, processes=lambda: {0: ("here", 10), 1: ("here", 11)},
        gather=lambda where: None, tell=told.append,
    )  # fmt: skip
    monkeypatch.setattr(distributed, "met", lambda: contextlib.nullcontext(company))
    monkeypatch.setattr(distributed, "_join", closed)
    monkeypatch.setattr(distributed.signal, "alarm", lambda seconds: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    options = Shared(-1)
    with (
        pytest.raises(UserError, match=r"^rank 0 ended: no folder$"),
        joined(options, StopSignal()),
    ):
        pass
    assert not told  # there is nothing new to tell
