"""Work on streams beside a backward pass; the streams write down what is asked of them."""

import contextlib

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


@pytest.fixture
def main(monkeypatch):
    """The current stream of a pretended GPU."""
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda chosen: contextlib.nullcontext())
    return stream


def test_what_was_begun_waits_and_is_waited_for(main):
    lanes = Lanes(torch.device("cuda", 0), 2)
    for _ in range(3):
        with lanes.beside(torch.zeros(1)):
            pass
    first, second = lanes.streams
    assert (first.waited, second.waited) == ([main, main], [main])
    lanes.join()
    assert main.waited == [first, second]
    lanes.join()
    assert main.waited == [first, second]  # nothing was begun since


def test_in_turn_nothing_runs_beside(main):
    lanes = Lanes(torch.device("cuda", 0), 2)
    streams = lanes.streams
    with lanes.beside():
        pass
    with lanes.in_turn():
        assert main.waited == streams[:1]  # what was begun before is over
        with lanes.beside():
            pass
        lanes.join()
    assert (streams[0].waited, streams[1].waited) == ([main], [])
    assert lanes.streams is streams


def test_slopes_that_autograd_adds_up_are_never_on_their_way(main):
    """Layers in two places: one's slope would be read where it is added to the other's."""
    lanes = Lanes(torch.device("cuda", 0))
    net = nn.Sequential(nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 3), nn.PReLU())
    net[2].weight = net[0].weight
    fuse(net, Tools(kernels_in_torch, lanes))
    net(torch.rand(2, 3)).sum().backward()
    assert not any(stream.waited for stream in lanes.streams)


def test_work_behind_lanes_waits_for_them_and_what_was_before(main):
    lanes = Lanes(torch.device("cuda", 0), 2)
    with lanes.beside() as first:
        pass
    with lanes.beside() as second, lanes.behind(torch.zeros(1), lane=first):
        pass
    with lanes.behind():
        pass
    rear = lanes._rear
    assert rear.waited == [main, first, main, first, second]
    lanes.join()
    assert main.waited == [first, second, rear]
    lanes.join()
    assert main.waited == [first, second, rear]


def test_the_stream_that_others_wait_for_comes_first(main, monkeypatch):
    """A kernel that fills the device would hold back the small ones of the recording's own."""
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda *given: made.append(given) or main)
    device = torch.device("cuda", 0)
    Lanes(device, 2)
    assert made == [(device,)] * 3
    Branches(ConcatTable(nn.Identity(), nn.Identity()), device)
    assert made[3:] == [(device, FIRST)] * 2
    assert FIRST < 0
