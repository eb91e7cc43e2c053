"""DiffAugment, the slope penalty, the spectral bound, and where the game uses them."""

import pytest
import torch
from torch import nn

from eyescream_py.cli.options import AUGMENTATIONS
from eyescream_py.data.dataset import Dataset
from eyescream_py.game.adversarial import AccuracyGate, Game, Learner, Penalty
from eyescream_py.game.answers import Logits
from eyescream_py.game.feeds import FaceFeed
from eyescream_py.game.taming import (
    DiffAugment,
    SlopePenalty,
    SpectralBound,
    Taming,
    hole,
    shifted,
    squared_slope,
)
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.optim import SGD
from eyescream_py.torch7.random import TorchSource


def pictures(n=6, channels=3, size=16):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, channels, size, size, generator=generator) * 0.5 + 0.25


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_kind_of_view_changes_the_pictures_and_lets_gradients_through(kind):
    images = pictures().requires_grad_()
    seen = DiffAugment([kind], TorchSource(1))(images)
    assert seen.shape == images.shape
    assert not torch.equal(seen, images)
    seen.sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


class Drawn:
    """Gives out the same eight numbers, or the first seven, for every picture."""

    def __init__(self, *numbers):
        self.numbers = torch.tensor(numbers)

    def uniform_(self, tensor, low, high):
        assert (low, high) == (0, 1)
        return tensor.copy_(self.numbers[: tensor.shape[1]])


def test_each_kind_of_view_takes_its_own_numbers():
    """Brightness and contrast in 0..1 as about half a picture; the hole comes last."""
    images = pictures(3, 1)
    source = Drawn(0.9, 0.8, 1.0, 0.0, 0.5, 0.25, 0.7)  # down by two, left by two; side: mirrored
    bright = images + 0.2
    mean = bright.mean((1, 2, 3), keepdim=True)
    colour = 1.3 * (bright - mean) + mean
    moved = torch.zeros_like(images)
    moved[:, :, 2:, :-2] = images[:, :, :-2, 2:]
    cut = images.clone()
    cut[:, :, 4:12, :8] = 0  # centred at row 8, column 4
    for kind, expected in (
        ("colour", colour), ("mirror", images.flip(3)), ("translation", moved), ("cutout", cut)
    ):  # fmt: skip
        torch.testing.assert_close(DiffAugment([kind], source)(images), expected)
    assert not DiffAugment(["cutout", "translation"], source)(images)[:, :, 4:12, :8].any()


def test_colour_changes_brightness_then_saturation_then_contrast():
    """As in Zhao et al. 2020: a saturation of 0 leaves each pixel the mean of its channels."""
    images = pictures(3)
    for share in (0.0, 0.5, 0.75):
        bright = images + 0.2
        grey = bright.mean(1, keepdim=True)
        mean = bright.mean((1, 2, 3), keepdim=True)
        expected = 1.3 * (grey + 2 * share * (bright - grey) - mean) + mean
        source = Drawn(0.9, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, share)
        torch.testing.assert_close(DiffAugment(["colour"], source)(images), expected)


@pytest.mark.parametrize(
    ("kinds", "channels", "count"),
    [("colour,mirror", 3, 8), ("colour,mirror", 1, 7), ("translation,mirror", 3, 7)],
)
def test_an_eighth_number_is_drawn_where_there_is_saturation(kinds, channels, count):
    views, twin = DiffAugment(kinds.split(","), TorchSource(1)), TorchSource(1)
    views(pictures(4, channels))
    twin.uniform_(torch.empty(4, count), 0, 1)
    following = [source.uniform_(torch.empty(3), 0, 1) for source in (views.source, twin)]
    assert torch.equal(*following)


def test_r1_is_an_eighth_of_the_papers_gamma():
    """With D(x) = w.x of pictures in -1..1 the loss is half that of Mescheder et al."""
    D = nn.Sequential(View(16), nn.Linear(16, 1), nn.Sigmoid())
    images = pictures(4, 1, 4)
    scaled = (2 * images - 1).requires_grad_()  # the D of this picture is D of images
    slope = torch.autograd.grad(Logits(D)((scaled + 1) / 2).sum(), scaled)[0]
    papers = 8 * 0.3 / 2 * slope.square().sum((1, 2, 3)).mean()
    ours = torch.as_tensor(SlopePenalty(0.3)(Logits(D), images))
    assert float(ours.detach()) == pytest.approx(float(papers) / 2, rel=1e-4)


def test_no_kinds_leave_the_pictures_alone():
    images = pictures()
    assert torch.equal(DiffAugment([], TorchSource(1))(images), images)


def test_a_mirrored_view_is_the_picture_or_its_mirror_image():
    images = pictures(40)
    seen = DiffAugment(["mirror"], TorchSource(1))(images)
    same = [torch.equal(a, b) for a, b in zip(seen, images, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(seen, images, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 10 < sum(same) < 30


def test_shifted_moves_by_whole_pixels_and_brings_zeros_in():
    images = pictures(3)
    moved = shifted(images, torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(moved[0, :, 2:], images[0, :, :-2])
    assert moved[0, :, :2].abs().sum() == 0
    assert torch.equal(moved[1, :, :-2], images[1, :, 2:])
    assert torch.equal(moved[2, :, :, 2:], images[2, :, :, :-2])


def test_the_hole_is_a_square_of_half_the_side_cut_at_the_border():
    places = torch.tensor([0.5, 0.0, 0.999])
    masks = hole(pictures(3), places, places)
    assert masks[0].sum() == 8 * 8
    assert masks[0, 0, 4:12, 4:12].all()
    assert masks[1].sum() == masks[2].sum() == 4 * 4
    assert masks[1, 0, :4, :4].all()
    assert masks[2, 0, 12:, 12:].all()


def test_a_hole_of_an_odd_number_of_lines_has_one_in_its_centre():
    masks = hole(pictures(2, size=14), torch.tensor([0.5, 0.999]), torch.tensor([0.5, 0.0]))
    assert masks[0].sum() == 7 * 7
    assert masks[0, 0, 4:11, 4:11].all()
    assert masks[1].sum() == masks[1, 0, 10:, :4].sum() == 4 * 4


def test_slope_of_a_logistic_regression():
    weights = torch.tensor([0.3, -0.2], requires_grad=True)
    x = torch.tensor([[0.1, 0.4], [0.5, -0.3]], requires_grad=True)
    penalty = squared_slope(x @ weights, x)
    assert float(penalty.detach()) == pytest.approx(0.3**2 + 0.2**2, rel=1e-4)
    penalty.backward()
    torch.testing.assert_close(weights.grad, 2 * weights.detach(), rtol=1e-4, atol=1e-6)


def test_the_penalty_comes_every_fourth_time_with_four_times_the_weight():
    D = nn.Sequential(View(16), nn.Linear(16, 1), nn.Sigmoid())
    expected = float(D[1].weight.detach().square().sum())
    slope = SlopePenalty(0.5, every=4)
    calls = [torch.as_tensor(slope(Logits(D), pictures(4, 1, 4))) for _ in range(8)]
    found = [float(penalty.detach()) for penalty in calls]
    assert found[1:4] == found[5:] == [0, 0, 0]
    assert found[0] == pytest.approx(4 * 0.25 * expected, rel=1e-4)
    assert found[4] == found[0]


def test_the_penalty_goes_through_layers_that_were_sped_up():
    torch.manual_seed(4)
    D = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), View(4 * 14 * 14), nn.Linear(784, 1))
    D.append(nn.Sigmoid())
    gradients = []
    for fast in (False, True):
        if fast:
            speed_up(D)
        D.zero_grad()
        SlopePenalty(1.0)(Logits(D), pictures(4)).backward()
        gradients.append([p.grad.clone() for p in D.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 2
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert "forward" in D[1].__dict__  # the fast layer is back


def test_the_spectral_bound_holds_after_a_few_steps_and_leaves_small_weights_alone():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    with torch.no_grad():
        network[0].weight.mul_(20)
    small = network[2].weight.detach().clone()
    bound = SpectralBound(network, 2.0)
    for _ in range(30):
        bound.apply()
    norm = torch.linalg.matrix_norm(network[0].weight.detach().flatten(1), 2)
    assert float(norm) == pytest.approx(2.0, rel=0.01)
    assert torch.equal(network[2].weight, small)


def game(taming=None, real_target=1.0, seed=1):
    torch.manual_seed(5)
    D = nn.Sequential(View(16), nn.Linear(16, 1), nn.Sigmoid())
    G = nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), View(1, 4, 4))
    data = Dataset(torch.arange(160, dtype=torch.uint8).view(10, 1, 4, 4), "counted")
    players = [
        Learner(network, SGD(network.parameters(), 0.5), Penalty(), 0.0) for network in (D, G)
    ]
    feed = FaceFeed(data, G, 3, 10, TorchSource(seed), real_target=real_target)
    feed.begin_epoch()
    return Game(*players, feed, AccuracyGate(1.01, 4, torch.device("cpu")), taming=taming)


def weights(a_game):
    return torch.cat([p.detach().flatten() for p in a_game.D.network.parameters()]).clone()


def test_smoothing_changes_the_real_targets_only():
    _, targets = game(real_target=0.9).feed.discriminator_batch(6)
    torch.testing.assert_close(targets, torch.tensor([0.9, 0.9, 0.9, 0, 0, 0]))


def test_shared_pictures_are_judged_once_by_either_player_and_then_new_ones():
    """D hears its smoothed targets; G's are 1, of the pictures that D was shown."""
    feed = game(real_target=0.9).feed
    feed.shared = True
    (shown,), _ = feed.discriminator_batch(6)
    (judged,), targets = feed.generator_batch(6)
    assert torch.equal(judged, shown[3:])
    assert judged.requires_grad
    assert not shown.requires_grad
    assert targets.tolist() == [1, 1, 1]
    (others,), targets = feed.generator_batch(6)
    assert len(others) == len(targets) == 6
    assert not torch.equal(others[:3], judged)


def test_taming_that_does_nothing_changes_nothing_and_each_kind_changes_d():
    plain, idle = game(), game(Taming())
    others = [
        game(Taming(slope=SlopePenalty(5.0))),
        game(Taming(augment=DiffAugment(["cutout"], TorchSource(9)))),
    ]
    bounded = game()
    bounded.taming = Taming(bound=SpectralBound(bounded.D.network, 0.01))
    for each in (plain, idle, bounded, *others):
        each.iteration(4)
    assert torch.equal(weights(plain), weights(idle))
    for each in (bounded, *others):
        assert not torch.equal(weights(plain), weights(each))


def test_r1_is_of_the_real_half_of_a_batch():
    """D is x^2/2 of the only pixel, whose slope is x."""
    D = nn.Sequential(View(1), Square(), nn.Sigmoid())
    batch = torch.tensor([1.0, 3.0, 50.0, 70.0]).view(4, 1, 1, 1)
    penalty = Taming(slope=SlopePenalty(6.0)).penalty(Logits(D), batch)
    assert float(penalty.detach()) == pytest.approx(6 / 2 * (1 + 9) / 2)


class Square(nn.Module):
    def forward(self, x):
        return x.square() / 2


def test_both_players_and_r1_see_the_views_and_not_the_pictures():
    seen, sloped = [], []
    made = game(Taming(augment=lambda images: images + 100, slope=SpiedSlope(sloped)))
    made.D.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    made.iteration(4)
    assert len(seen) == 2
    assert all((images >= 100).all() for images in seen)
    (real,) = sloped
    assert torch.equal(real, seen[0][:2])


class SpiedSlope(SlopePenalty):
    def __init__(self, seen):
        super().__init__(1.0)
        self.seen = seen

    def __call__(self, D, real):
        self.seen.append(real.clone())
        return 0.0


def test_r1_is_no_part_of_the_loss_that_is_told():
    plain, tamed = game(), game(Taming(slope=SlopePenalty(5.0)))
    told = []
    for each in (plain, tamed):
        each.discriminator_step(4, lambda network, loss: told.append(loss))
    assert told[0] == told[1]
    assert plain.figures.sums["D_loss"] == tamed.figures.sums["D_loss"] == pytest.approx(told[0])
    assert not torch.equal(weights(plain), weights(tamed))


def test_r1_makes_d_flatter():
    flat, plain = game(Taming(slope=SlopePenalty(2.0))), game()
    for _ in range(20):
        flat.iteration(8)
        plain.iteration(8)
    steepness = [float(g.D.network[1].weight.detach().norm()) for g in (flat, plain)]
    assert steepness[0] < 0.7 * steepness[1]


def test_directions_survive_a_resume():
    bound = SpectralBound(nn.Linear(5, 4), 1.0)
    bound.apply()
    slope = SlopePenalty(1.0, every=4)
    slope.steps = 3
    other = Taming(slope=SlopePenalty(1.0, every=4), bound=SpectralBound(nn.Linear(5, 4), 1.0))
    other.set_state(Taming(slope=slope, bound=bound).state())
    assert other.slope.steps == 3
    assert torch.equal(other.bound.directions[0], bound.directions[0])
    other.set_state({})
    assert torch.equal(other.bound.directions[0], bound.directions[0])
