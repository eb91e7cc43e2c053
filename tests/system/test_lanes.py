"""Work on streams beside a backward pass; the streams write down what is asked of them."""

import contextlib
import weakref

import pytest
import torch
from torch import nn

from eyescream_py.networks.fused_layers import Branches, Tools, fuse
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import FIRST, Lanes
from eyescream_py.torch7.layers.containers import ConcatTable


class Stream:
    device = torch.device("cuda", 0)

    def __init__(self, *given):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


class Streams:
    """Those of a pretended GPU: the `current` one, and all that were `made` since."""

    def __init__(self):
        self.current, self.made = Stream(), []

    def make(self, *given):
        self.made.append(Stream())
        return self.made[-1]

    @contextlib.contextmanager
    def entered(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


@pytest.fixture
def streams(monkeypatch):
    made = Streams()
    monkeypatch.setattr(torch.cuda, "Stream", made.make)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made.current)
    monkeypatch.setattr(torch.cuda, "stream", made.entered)
    return made


GPU = torch.device("cuda", 0)


def test_what_was_begun_waits_and_is_waited_for(streams):
    lanes, main, found = Lanes(GPU, 2), streams.current, []
    for _ in range(3):
        with lanes.beside(torch.zeros(1)) as lane:
            found.append(lane)
            assert streams.current is lane
    first, second, third = found
    assert third is first
    assert (first.waited, second.waited) == ([main, main], [main])
    lanes.join()
    assert main.waited == [first, second]
    lanes.join()
    assert main.waited == [first, second]  # nothing was begun since


@pytest.mark.parametrize("block", ["beside", "behind"])
def test_what_is_read_is_kept_until_it_is_waited_for(block, streams):
    """Its memory would be used anew while it is read."""
    lanes, read = Lanes(GPU, 2), torch.zeros(1)
    kept = weakref.ref(read)
    with getattr(lanes, block)(read):
        del read
    assert kept() is not None
    lanes.join()
    assert kept() is None


def test_in_turn_nothing_runs_beside(streams):
    lanes, main = Lanes(GPU, 2), streams.current
    with lanes.beside() as lane:
        pass
    with lanes.in_turn():
        assert main.waited == [lane]  # what was begun before is over
        with lanes.beside() as none, lanes.behind():
            assert none is None
            assert streams.current is main
        lanes.join()
    assert lane.waited == main.waited[:0] + [main]
    with lanes.beside() as lane:
        assert lane is not None


def test_slopes_that_autograd_adds_up_are_never_on_their_way(streams):
    """Layers in two places: one's slope would be read where it is added to the other's."""
    lanes = Lanes(GPU)
    net = nn.Sequential(nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 3), nn.PReLU())
    net[2].weight = net[0].weight
    fuse(net, Tools(kernels_in_torch, lanes))
    net(torch.rand(2, 3)).sum().backward()
    assert not streams.made


def test_work_behind_lanes_waits_for_them_and_what_was_before(streams):
    lanes, main = Lanes(GPU, 2), streams.current
    with lanes.beside() as first:
        pass
    with lanes.beside() as second:
        pass
    with lanes.behind(torch.zeros(1), lane=first):
        rear = streams.current
    with lanes.behind():
        assert streams.current is rear
    assert rear.waited == [main, first, main, first, second]
    lanes.join()
    assert main.waited == [first, second, rear]
    lanes.join()
    assert main.waited == [first, second, rear]


def test_a_branchs_work_waits_for_no_other_branchs(streams):
    lanes, main, branch = Lanes(GPU, 1), streams.current, Stream()
    with lanes.beside() as one, lanes.behind(lane=one):
        pass
    with streams.entered(branch):
        with lanes.beside() as other:
            pass
        with lanes.behind(lane=other):
            rear = streams.current
    assert (other.waited, rear.waited) == ([branch], [branch, other])
    assert one not in (other, rear)
    with lanes.behind():  # what needs all of it does
        assert set(streams.current.waited) > {main, one, other, rear}
    lanes.join()
    assert set(main.waited) >= {one, other, rear}


def test_the_stream_that_others_wait_for_comes_first(streams, monkeypatch):
    """A kernel that fills the device would hold back the small ones of the recording's own."""
    given = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda *words: given.append(words) or Stream())
    with Lanes(GPU, 2).beside():
        pass
    assert given == [(GPU,)] * 3
    Branches(ConcatTable(nn.Identity(), nn.Identity()), GPU)
    assert given[3:] == [(GPU, FIRST)] * 2
    assert FIRST < 0
