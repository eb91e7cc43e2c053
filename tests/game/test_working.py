"""Rounded copies of the weights: what autocast computes, to the bit; and the layout of GPUs."""

import copy

import pytest
import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.answers import Logits
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.precision import choose
from eyescream_py.game.taming import SlopePenalty, SpectralBound, Taming
from eyescream_py.game.working import Working
from eyescream_py.networks import models
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.torch7.flat import Flat
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.stochastic import Dropout, SpatialDropout, set_random_source
from eyescream_py.torch7.optim import Adam
from eyescream_py.torch7.random import TorchSource
from tests.fake_cuda import on_cuda

CPU = torch.device("cpu")


def game(rounded, fast=True):
    torch.manual_seed(0)
    D = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(), SpatialDropout(), View(512),
        nn.Linear(512, 16), nn.PReLU(), Dropout(), nn.Linear(16, 1), nn.Sigmoid(),
    )  # fmt: skip
    G = models.create_G((3, 8, 8), 4, "upsampling")
    source = TorchSource(1)
    for net in (D, G):
        set_random_source(net, source)
        if fast:
            speed_up(net, rounded=True)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    answers = Logits(D)
    players = []
    for net, penalty in ((D, Penalty(1e-5, 1e-4)), (G, Penalty())):
        flat = Flat(net)
        working = Working(net, flat) if rounded else None
        players.append(Learner(net, Adam(flat, 3e-3), penalty, 1.0, working))
    return Game(
        *players, FaceFeed(Dataset(pixels, "noise"), G, 4, 40, source),
        AccuracyGate(1.01, 8, CPU), (2, 1), choose("bf16", CPU).autocast, answers=answers,
        taming=Taming(slope=SlopePenalty(1.0, 3), bound=SpectralBound(D, 3.0)),
    )  # fmt: skip


def test_copies_compute_what_autocast_does_to_the_bit():
    autocast, rounded = game(False), game(True)
    for n in (8, 8, 8, 8, 6):
        for each in (autocast, rounded):
            each.iteration(n)
    for a, b in ((autocast.D, rounded.D), (autocast.G, rounded.G)):
        for p, q in zip(a.network.parameters(), b.network.parameters(), strict=True):
            assert p.dtype == torch.float32
            assert torch.equal(p, q)
    for name, value in autocast.figures.sums.items():
        assert torch.equal(value, rounded.figures.sums[name]), name


def test_copies_are_those_of_weights_that_were_bounded():
    made = game(True)
    made.taming.bound.bound = 0.01
    made.discriminator_step(8)
    flat = made.D.optimizer.flat.weights
    assert torch.linalg.matrix_norm(made.D.network[4].weight.detach(), 2) < 0.1
    assert torch.equal(made.D.working.rounded, flat.bfloat16())


def test_only_the_pass_of_a_step_sees_the_copies():
    made = game(True)
    before = dict(made.D.network.named_parameters())
    with made.computing():
        inside = dict(made.D.network.named_parameters())
    after = dict(made.D.network.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    kinds = {name: p.dtype for name, p in inside.items()}
    assert kinds["0.weight"] == kinds["4.bias"] == torch.bfloat16
    assert kinds["1.weight"] == kinds["7.weight"] == torch.float32  # PReLU, and D's last layer


def test_weights_are_the_networks_own_again_after_a_pass_that_failed():
    net = nn.Sequential(nn.Linear(2, 2))
    working, weight = Working(net, Flat(net)), net[0].weight
    with pytest.raises(ValueError, match="in the pass"), working.in_use():
        raise ValueError("in the pass")
    assert net[0].weight is weight


@pytest.mark.parametrize("on_gpu", [False, True])
def test_slopes_of_prelus_have_copies_on_a_gpu_alone(on_gpu):
    net = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    net = on_cuda(net) if on_gpu else net
    names = [(type(place.owner), place.name) for place in Working(net, Flat(net)).places]
    linear = [(nn.Linear, "weight"), (nn.Linear, "bias")]
    assert names == linear + [(nn.PReLU, "weight")] * on_gpu


def test_copies_follow_weights_that_were_read_from_a_file():
    made = game(True)
    with torch.no_grad():
        made.D.network[0].weight.fill_(0.3)
    made.D.refresh()
    with made.D.computing():
        assert (made.D.network[0].weight == torch.tensor(0.3).bfloat16()).all()


@pytest.mark.parametrize("dims", [(1, 16, 16), (3, 8, 8)])
def test_the_layout_of_gpus_changes_neither_numbers_nor_files(dims, tmp_path):
    torch.manual_seed(2)
    D = models.create_D(dims).eval()
    other = copy.deepcopy(D).to(memory_format=torch.channels_last)
    pictures = torch.rand(4, *dims)
    gradients = []
    for net in (D, other):
        Logits(net)(pictures).sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
    torch7.save(tmp_path / "other", torch7.from_module(other))
    read = torch7.to_module(torch7.load(tmp_path / "other"))
    for p, q in zip(D.parameters(), read.parameters(), strict=True):
        assert torch.equal(p, q)
        assert q.is_contiguous()


def test_moments_of_another_layout_are_saved_and_read_alike():
    layouts = [torch.contiguous_format, torch.channels_last]
    nets = [nn.Conv2d(3, 4, 3).to(memory_format=layout) for layout in layouts]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [Adam(net.parameters()) for net in nets]
    for net, optimizer in zip(nets, optimizers, strict=True):
        net(torch.linspace(0, 1, 75).view(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()
    states = [optimizer.export_state() for optimizer in optimizers]
    torch.testing.assert_close(states[0]["m"], states[1]["m"])
    optimizers[1].import_state(states[0])
    assert torch.equal(optimizers[1].moments["v"][0], optimizers[0].moments["v"][0])
