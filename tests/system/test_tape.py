"""Recordings of what a processor computes."""

import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from eyescream_py.system.tape import as_one, in_replays, record

ORDER = torch.tensor([1, 0, 5, 4, 3, 2])


class Counter:
    """Adds its count of calls to a tensor, as an optimizer does that counts in Python."""

    def __init__(self):
        self.calls = 0

    def add(self, target):
        self.calls += 1
        target += self.calls


def work_on(state, source):
    """Views, results in place, in lists and in pairs, random numbers, slopes of kept results."""
    noise = torch.empty(4, 6).uniform_(-1, 1, generator=source)
    halves = noise.view(2, 12).T.contiguous().split(6)
    mixed = torch.cat([halves[1], halves[0]]).reshape(4, 6)
    state["x"][:2].add_(mixed[2:]).clamp_(-3, 3)
    weight = state["w"].requires_grad_()
    y = torch.sigmoid(F.leaky_relu(state["x"] @ weight, 0.2)).exp().tanh()
    values, places = y.max(1)
    (slope,) = torch.autograd.grad((values * y[:, 0]).sum(), weight)
    with torch.no_grad():
        weight -= 0.1 * slope
        state["sum"] += places.double().sum()
        state["turned"].copy_(state["x"].t()[ORDER])


def fresh():
    drawn = torch.Generator().manual_seed(3)
    shapes = {"x": (4, 6), "w": (6, 5), "turned": (6, 4)}
    state = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    return {**state, "sum": torch.zeros((), dtype=torch.float64)}


def test_a_recording_does_what_the_work_did_to_the_bit():
    (ours, source), (theirs, other) = (
        (fresh(), torch.Generator().manual_seed(5)) for _ in range(2)
    )
    again = record(lambda: work_on(ours, source))
    work_on(theirs, other)
    for _ in range(5):
        again.replay()
        work_on(theirs, other)
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name
    assert torch.equal(source.get_state(), other.get_state())


def test_what_was_changed_in_between_counts():
    x, y = torch.ones(3), torch.zeros(3)
    again = record(lambda: y.add_(x[1:].sum()))
    x.fill_(10)
    again.replay()
    assert y.tolist() == [22.0, 22.0, 22.0]


def test_a_part_in_python_is_done_again_by_python():
    counter, x = Counter(), torch.zeros(2)

    def work():
        as_one(counter.add, x)
        y = as_one(lambda a: a * float(a.sum()), x)  # reads a number
        x.copy_(y)

    again = record(work)
    assert (counter.calls, x.tolist()) == (1, [2.0, 2.0])
    again.replay()
    assert (counter.calls, x.tolist()) == (2, [32.0, 32.0])
    as_one(counter.add, x)
    assert counter.calls == 3


def test_a_replay_hands_over_its_own_tensors():
    taken = []
    x = torch.zeros(2)

    def work():
        y = x + 1
        in_replays(taken.append, y)
        x.copy_(y)

    again = record(work)
    assert taken == []
    again.replay()
    again.replay()
    assert [y.tolist() for y in taken] == [[2.0, 2.0], [3.0, 3.0]]


def test_results_are_let_go_of_after_their_last_use():
    x, alive = torch.ones(4), []
    seen = []

    def watch(y):
        alive.append(weakref.ref(y))

    def look(y):
        seen.append(alive[-1]() is None)

    def work():
        y = x * 2
        as_one(watch, y)
        z = y + 1
        del y
        as_one(look, z)

    again = record(work)
    again.replay()
    assert seen[-1]


class Views(TorchDispatchMode):
    """Counts the views that are made inside its block."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.is_view
        return function(*args, **(kwargs or {}))


def test_views_of_views_are_made_of_the_whole_and_once():
    x = torch.arange(12.0)

    def work():
        y = x * 2
        for _ in range(2):  # of four views three are on the way; then all are known
            last = y.view(3, 4).t()[1:].unsqueeze(0).expand(2, 3, 3)
        bits = y.view(torch.int32)[2:].view(5, 2)  # of another type
        same = y.view(3, 4).view(12)
        x.copy_(same + last.sum() + bits.sum() % 7)

    again, expected = record(work), x.clone()
    with Views() as views:
        again.replay()
    result = x.clone()
    assert views.count == 3
    x.copy_(expected)
    work()
    assert torch.equal(result, x)


def test_layers_of_torch_and_their_slopes():
    pictures = torch.rand(6, 1, 8, 8)

    def work(net, kept):
        net.zero_grad()
        F.binary_cross_entropy(net(pictures), torch.ones(6, 1)).backward()
        with torch.no_grad():
            for p, place in zip(net.parameters(), kept, strict=True):
                p.sub_(0.1 * p.grad)
                place.copy_(p.grad)
        net.zero_grad()

    def run(record_it):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ELU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64, 8), nn.Softplus(), nn.Dropout(), nn.Linear(8, 1),
            nn.Sigmoid(),
        )  # fmt: skip
        kept = [torch.zeros_like(p) for p in net.parameters()]
        work(net, kept)
        again = record(lambda: work(net, kept)) if record_it else None
        for _ in range(4):
            again.replay() if again else work(net, kept)
        if not record_it:
            work(net, kept)
        return [*kept, *(value.clone() for value in net.state_dict().values())]

    for ours, theirs in zip(run(True), run(False), strict=True):
        assert torch.equal(ours, theirs)


class Holder:
    def __init__(self):
        self.value = torch.ones(2)

    def replace(self):
        self.value = self.value + 1  # a new tensor that the next time would have to read

    def exchange(self):
        self.value, self.old = self.value + 1, self.value

    def keep_a_view(self):
        self.old = (self.value * 2)[1:]

    def lay_elsewhere(self):
        self.value.data = self.value + 1

    def from_python(self):
        self.value.copy_(torch.tensor([1.0, 2.0]))


X = torch.arange(4.0)


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.sum().item(), lambda: X[X > 1], lambda: X.nonzero(), lambda: bool(X.any()),
        lambda: torch.equal(X, X), lambda: X.clone().resize_(2), lambda: X.clone().unsqueeze_(0),
        lambda: X.unique(), Holder().replace, Holder().exchange, Holder().keep_a_view,
        Holder().lay_elsewhere, Holder().from_python,
    ],
)  # fmt: skip
def test_what_may_be_otherwise_next_time_is_not_recorded(work):
    assert record(work) is None


def test_slopes_that_stay_with_their_weights_are_handed_over_or_not_recorded():
    weight = torch.ones(3, requires_grad=True)

    def work(hand_over):
        weight.grad = None
        (weight * X[1:]).square().sum().backward()
        if hand_over:
            in_replays(lambda slope: setattr(weight, "grad", slope), weight.grad)

    assert record(lambda: work(False)) is None
    again = record(lambda: work(True))
    weight.data.fill_(2)
    again.replay()
    assert weight.grad.tolist() == [4.0, 16.0, 36.0]


def test_work_without_operators_is_done_again_by_doing_nothing():
    record(lambda: None).replay()


def test_work_that_fails_leaves_no_recorder_behind():
    def work():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        record(work)
    assert as_one(lambda: 7) == 7


def test_recording_does_not_load_torchs_compiler():
    """Which takes seconds."""
    code = (
        "import sys, torch; from eyescream_py.system.tape import record; x = torch.ones(2)\n"
        "record(lambda: x.add_(1)).replay(); print(x.tolist(), 'torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[0] == "[3.0, 3.0] False"
