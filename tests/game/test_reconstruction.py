"""Learning to give pictures back: stages, their losses, the validation split."""

import copy

import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.answers import bce_loss
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.torch7.optim import SGD, Adam
from eyescream_py.training.reconstruct import absolute_error, split


def stage(network, lr=0.1):
    return Learner(network, SGD(network.parameters(), lr), Penalty(), 0.0)


def linear():
    return nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())


def test_losses_are_those_before_the_step():
    torch.manual_seed(1)
    network, images = linear(), torch.rand(6, 4)
    expected = absolute_error(network(images), images)
    losses = Reconstruction([stage(network)], absolute_error).step(images)
    torch.testing.assert_close(losses, expected.detach().reshape(1))
    assert absolute_error(network(images), images) < expected


def test_the_second_stage_learns_from_the_firsts_output_and_changes_nothing_in_it():
    torch.manual_seed(1)
    first, second, alone = linear(), linear(), linear()
    alone.load_state_dict(first.state_dict())
    images = torch.rand(6, 4)
    Reconstruction([stage(first), stage(second)], bce_loss).step(images)
    Reconstruction([stage(alone)], bce_loss).step(images)
    for a, b in zip(first.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    made = Reconstruction([stage(first), stage(second)], bce_loss).outputs(images)
    torch.testing.assert_close(made[1], second(first(images)))


def lua_denoiser(first, second, images, steps):
    """The Lua denoiser's loop, written out: both closures share one table of optim.adam."""
    state = {"t": 0}
    flat = [nn.utils.parameters_to_vector(net.parameters()).detach() for net in (first, second)]
    state["m"], state["v"] = torch.zeros_like(flat[0]), torch.zeros_like(flat[0])
    for _ in range(steps):
        for net in (first, second):
            with torch.no_grad():
                given = images if net is first else first(images)
            loss = bce_loss(net(given), images)
            grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])])
            state["t"] += 1
            state["m"] = 0.9 * state["m"] + 0.1 * grad
            state["v"] = 0.999 * state["v"] + 0.001 * grad**2
            size = 1e-3 * (1 - 0.999 ** state["t"]) ** 0.5 / (1 - 0.9 ** state["t"])
            weights = nn.utils.parameters_to_vector(net.parameters()).detach()
            weights = weights - size * state["m"] / (state["v"].sqrt() + 1e-8)
            nn.utils.vector_to_parameters(weights, net.parameters())


def test_a_replay_trains_the_denoisers_stages_as_lua_does():
    torch.manual_seed(3)
    first, images = linear().double(), torch.rand(6, 4).double()
    nets = [first, *(copy.deepcopy(first) for _ in range(5))]
    lua_denoiser(nets[0], nets[1], images, 14)
    for as_lua, pair in ((True, nets[2:4]), (False, nets[4:])):
        stages = [Learner(n, Adam(n.parameters()), Penalty(), 0.0) for n in pair]
        model = Reconstruction(stages, bce_loss, as_lua=as_lua)
        for _ in range(14):
            model.step(images)
    off = [
        max((a - b).abs().max() for a, b in zip(x.parameters(), y.parameters(), strict=True))
        for x, y in ((nets[0], nets[2]), (nets[1], nets[3]), (nets[1], nets[5]))
    ]
    assert max(off[:2]) < 1e-12
    assert off[2] > 1e-5  # the default: a state each, and the first stage's output of before


def test_the_autoencoders_losses_include_the_penalty_of_the_weights():
    network, images = linear(), torch.rand(6, 4)
    weights = nn.utils.parameters_to_vector(network.parameters()).detach()
    penalty = 0.1 * weights.abs().sum() + 0.3 * weights.square().sum() / 2
    learner = Learner(network, SGD(network.parameters(), 0.1), Penalty(0.1, 0.3), 0.0)
    expected = absolute_error(network(images), images).detach() + penalty
    losses = Reconstruction([learner], absolute_error, with_penalty=True).step(images)
    torch.testing.assert_close(losses[0], expected)


def test_the_encoder_is_not_trained_and_silent_in_evaluation():
    encoder = nn.Sequential(nn.Dropout(0.5))
    model = Reconstruction([stage(linear())], bce_loss, encoder)
    images = torch.rand(6, 4)
    first, again = model.losses(images), model.losses(images)
    assert torch.equal(first, again)
    assert encoder.training


def test_training_lowers_the_loss():
    torch.manual_seed(1)
    model = Reconstruction([stage(linear(), lr=2.0)], bce_loss)
    images = torch.rand(8, 4)
    losses = [float(model.step(images)) for _ in range(200)]
    assert losses[-1] < losses[0] - 0.02


def test_the_split_keeps_copies_of_a_picture_on_one_side():
    images = torch.zeros(40, 1, 2, 2, dtype=torch.uint8)
    data = Dataset(images, "test", borders=tuple(range(0, 40, 7)))
    train, validation = split(data, 10)
    assert len(train) in data.borders
    assert len(train) >= 30
    assert 1 <= len(validation) <= 10
