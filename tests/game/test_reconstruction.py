"""Learning to give pictures back: stages, their losses, the validation split."""

import torch
from torch import nn

from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import Learner, Penalty
from eyescream_py.game.answers import bce_loss
from eyescream_py.game.reconstruction import Reconstruction
from eyescream_py.torch7.optim import SGD
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
