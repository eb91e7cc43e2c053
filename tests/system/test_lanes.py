"""Work on streams beside a backward pass; the streams write down what is asked of them."""

import contextlib
import types
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eyescream_py.networks.fused_layers import Branches, Tools, fuse, learn_early
from eyescream_py.system import kernels_in_torch
from eyescream_py.system.lanes import FIRST, Lanes
from eyescream_py.torch7.layers.containers import ConcatTable
from tests.networks.test_fused_layers import NETWORKS


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


class Read(TorchDispatchMode):
    """Which memory operators read that none of them has made."""

    def __init__(self):
        super().__init__()
        self.read, self.made = set(), set()

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        given = places(tree_leaves((args, kwargs)))
        self.read |= given - self.made
        found = call(*args, **(kwargs or {}))
        self.made |= places(tree_leaves(found)) - given
        return found


def places(values):
    return {t.untyped_storage().data_ptr() for t in values if isinstance(t, torch.Tensor)} - {0}


class Keeping(Lanes):
    """Notes how many blocks there were, and which of them read what is not kept for them."""

    def __init__(self, lasting):
        super().__init__(torch.device("cpu"))
        self.lasting, self.blocks, self.lost = lasting, 0, []

    def behind(self, *read, lane=None):
        return self.beside(*read)

    @contextlib.contextmanager
    def beside(self, *read):
        with Read() as seen:
            yield None
        self.blocks += 1
        self.lost += [self.blocks] if seen.read - places([*read, *self.lasting]) else []


def taken(inputs, *layers):
    return lambda: nn.Sequential(nn.Conv2d(2, inputs, 3), nn.PReLU(), *layers)


BESIDE = {
    **{name: NETWORKS[name] for name in ("D at 16 px", "G of pairs", "odd pooling")},
    "few planes": (taken(32, nn.Conv2d(32, 2, 5, padding=2)), [(2, 8, 8)]),
    "strides": (taken(64, nn.Conv2d(64, 64, 3, 2, 1)), [(2, 8, 8)]),
    "a wide kernel": (taken(8, nn.Conv2d(8, 16, 7, padding=3)), [(2, 8, 8)]),
}  # fmt: skip


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_read_beside_is_kept(name, rounds):
    """Its memory would be used anew before it is read."""
    torch.manual_seed(0)
    make, shapes = BESIDE[name]
    network = make().to(memory_format=torch.channels_last)
    lanes = Keeping([*network.parameters(), *network.buffers()])
    fuse(network, Tools(kernels_in_torch, lanes))
    step = types.SimpleNamespace(takes=lambda weight: True, take=lambda weight, slope: slope + 1)
    learn_early(network, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
        y = network(*(torch.rand(3, *shape) for shape in shapes))
    y.sum().backward()
    assert lanes.blocks > 1
    assert not lanes.lost
