"""The step in C against torch's operators one by one, to the bit."""

import pytest
import torch
from torch import nn

from eyescream_py.game import joined_adam
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.group import Alone
from eyescream_py.game.joined_adam import join
from eyescream_py.game.working import Working
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.optim import SGD, Adam
from tests.loops import change, sources_anew
from tests.system.test_compiled import needs_compiler

PENALTIES = [Penalty(), Penalty(0, 1e-3), Penalty(1e-3, 0), Penalty(1e-3, 1e-2)]


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3, padding=1), nn.PReLU(), nn.Flatten(), nn.Linear(320, 41)
    net = nn.Sequential(*layers)
    net[0].to(memory_format=torch.channels_last)
    return net


def player(penalty, clamp, rounded):
    net = network()
    flat = Flat(net) if rounded else None
    adam = Adam(flat or net.parameters(), 1e-2, betas=(0.4, 0.99))
    return Learner(net, adam, penalty, clamp, Working(net, flat) if flat else None)


def learn(player, steps=3):
    """The gradients of each step, and the numbers afterwards."""
    found = []
    for step in range(steps):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        with player.computing(), torch.autocast("cpu", torch.bfloat16, bool(player.working)):
            loss = player.network(x).float().square().mean()
        player.learn(loss, Alone())
        found += [g.clone() for g in player.optimizer.gradients]
    held = [t for name in ("m", "v") for t in player.optimizer.held(name)]
    copies = [player.working.rounded] if player.working else []
    return [*found, *player.optimizer.weights, *held, *copies]


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("clamp", [0, 0.01])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_player_learns_the_same_to_the_bit(penalty, clamp, rounded, threads):
    torch.set_num_threads(threads)
    joined, apart = (player(penalty, clamp, rounded) for _ in range(2))
    join(joined)
    assert joined.optimizer.joined
    assert not apart.optimizer.joined
    for ours, torchs in zip(learn(joined), learn(apart), strict=True):
        assert torch.equal(ours, torchs)


@needs_compiler
def test_weights_laid_otherwise_than_their_slopes(monkeypatch):
    joined, apart = (player(Penalty(0, 0.1), 1e-3, False) for _ in range(2))
    join(joined)
    for side in (joined, apart):
        for weight, lay in zip(side.optimizer.parameters[::3], (1, 2), strict=False):
            base = torch.empty(*weight.shape[:-1], lay * weight.shape[-1]).transpose(0, 1)
            like = base.transpose(0, 1)[..., ::lay]
            weight.data = like.copy_(weight.detach())
    for ours, torchs in zip(learn(joined), learn(apart), strict=True):
        assert torch.equal(ours, torchs)


@needs_compiler
def test_nan_and_the_infinite_stay_as_torch_leaves_them():
    joined, apart = (player(Penalty(0, 0.1), 0.5, True) for _ in range(2))
    join(joined)
    for side in (joined, apart):
        weights = side.optimizer.weights[0]
        weights[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        weights[3:6] = torch.tensor([1e-40, -1e-42, 3e38])
        side.optimizer.gradients[0].copy_(torch.linspace(-1, 1, len(weights)))
        side.optimizer.gradients[0][6:9] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        if side is apart:
            side.penalty.add_gradients(side.optimizer.weights, side.optimizer.gradients)
            side.optimizer.gradients[0].clamp_(-0.5, 0.5)
        side.step()
    for ours, torchs in zip(joined.optimizer.weights, apart.optimizer.weights, strict=True):
        assert torch.equal(ours.isnan(), torchs.isnan())
        assert torch.equal(ours.nan_to_num(), torchs.nan_to_num())
    ours, torchs = joined.working.rounded, apart.working.rounded
    assert torch.equal(ours.isnan(), torchs.isnan())
    assert torch.equal(ours.nan_to_num(), torchs.nan_to_num())


@pytest.mark.parametrize("what", ["fp64", "sgd", "counters on the device"])
def test_steps_of_other_kinds_stay_as_they_are(what):
    net = network().double() if what == "fp64" else network()
    made = SGD(net.parameters(), 0.1) if what == "sgd" else None
    adam = made or Adam(net.parameters(), capturable=what.startswith("counters"))
    side = Learner(net, adam, Penalty(), 1.0)
    join(side)
    assert side.optimizer.joined is None


@needs_compiler
def test_code_that_computes_otherwise_is_not_taken(monkeypatch, capsys, tmp_path):
    with sources_anew(monkeypatch, tmp_path, joined_adam.proven, "adam.c") as folder:
        change(folder / "adam.c", "fmaf(l2, w, g)", "g + l2 * w")
        assert joined_adam.proven() is None
    said = "adam.c computes otherwise than torch: torch's operators do its work, slower.\n"
    assert capsys.readouterr().err == said
