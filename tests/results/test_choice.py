"""The pictures to show first: neither D's errors nor pictures that are like no other."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from eyescream_py.results import choice
from eyescream_py.results.choice import choose, judge_and_read
from eyescream_py.results.grids import generate, load_base
from eyescream_py.results.sampling import ranking
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.random import TorchSource
from tests.small_runs import small_D


class Bright(nn.Module):
    """A D without weights that likes bright pictures."""

    def forward(self, images):
        return images.mean((1, 2, 3), keepdim=True)


def crowd(n: int = 40, side: int = 8) -> torch.Tensor:
    """Pictures of one kind, each a little different."""
    generator = torch.Generator().manual_seed(3)
    kind = torch.rand(1, 1, side, side, generator=generator)
    noise = 0.05 * torch.randn(n, 1, side, side, generator=generator)
    return (kind + noise).clamp(0, 1)


def odd(side: int = 8) -> torch.Tensor:
    """A picture unlike them: bright squares like those of a chessboard."""
    at = torch.arange(side)
    return (0.7 + 0.3 * ((at[:, None] + at) % 2)).view(1, 1, side, side)


def test_a_picture_that_deceives_D_is_not_shown_first():
    images = torch.cat([crowd(), odd()])
    D = nn.Sequential(View(64), nn.Linear(64, 1), nn.Sigmoid())
    with torch.no_grad():
        D[1].weight.fill_(1.0)
        D[1].bias.fill_(-40.0)
    assert int(ranking(D, images)[0]) == 40
    order = choose(D, images).tolist()
    assert sorted(order) == list(range(41))
    assert order.index(40) > 10


def faces(n: int = 60, side: int = 8) -> torch.Tensor:
    """Pictures with a mirror axis, as different from each other as noise."""
    half = torch.rand(n, 1, side, side // 2, generator=torch.Generator().manual_seed(8))
    return torch.cat([half, half.flip(3)], 3)


def test_a_blotch_on_one_side_is_not_shown_first():
    """D likes it, and it is not further from the others than they are from each other."""
    images = faces()
    blotched = images[:20].clone()
    blotched[:, :, 4:, :4] = 1.0
    order = choose(Bright(), torch.cat([images, blotched])).tolist()
    assert int(ranking(Bright(), torch.cat([images, blotched]))[0]) >= 60
    assert all(index < 60 for index in order[:12])


def test_a_face_without_eyes_and_mouth_is_not_shown_first():
    """Blurred pictures are like many others, and like their mirror images."""
    images = faces(side=16)
    blurred = functional.avg_pool2d(images[:15], 9, stride=1, padding=4, count_include_pad=False)
    order = choose(Bright(), torch.cat([images, blurred])).tolist()
    assert all(index < 60 for index in order[:15])


def test_among_pictures_equally_alike_D_decides():
    bright = crowd(12).double()
    order = choose(Bright(), torch.cat([bright, bright / 2])).tolist()  # twins but for the light
    assert all(order.index(i) < order.index(i + 12) for i in range(12))


def test_a_D_that_was_asked_before_is_asked_of_the_mirrored_pictures_only():
    images, D = crowd(30), small_D((1, 8, 8))
    asked = []
    D.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    order = choose(D, images)
    assert len(asked) == 2
    opinion = judge_and_read(D, images, 256)
    asked.clear()
    assert torch.equal(choose(D, images, opinion=opinion), order)
    assert len(asked) == 1
    assert torch.equal(asked[0], images.flip(3))


def test_neither_the_order_nor_the_batch_decides():
    images, D = crowd(30), small_D((1, 8, 8))
    order = choose(D, images)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    again = shuffled[choose(D, images[shuffled], batch=30)]
    assert len(set(again[:10].tolist()) & set(order[:10].tolist())) >= 9
    by_sevens = choose(D, images, batch=7)
    assert len(set(by_sevens[:10].tolist()) & set(order[:10].tolist())) >= 9


@pytest.mark.parametrize("channels", [1, 3])
def test_D_is_left_as_it_was(channels):
    D = small_D((channels, 8, 8)).train()
    torch.manual_seed(2)
    choose(D, torch.rand(12, channels, 8, 8))
    assert D.training
    assert all(not layer._forward_pre_hooks for layer in D.modules())


def test_two_pictures_are_enough():
    assert sorted(choose(Bright(), crowd(2)).tolist()) == [0, 1]


class Sure(nn.Module):
    """A D that is certain of every picture."""

    def forward(self, images):
        return images.new_ones(len(images), 1)


def test_a_D_that_says_the_same_of_all_decides_nothing():
    images = crowd()
    turned = 39 - choose(Sure(), images.flip(0))
    assert len(set(choose(Sure(), images)[:10].tolist()) & set(turned[:10].tolist())) >= 9


def test_pictures_that_are_no_numbers_come_last():
    images = crowd()
    images[7] = torch.nan
    order = choose(Bright(), images).tolist()
    assert order[-1] == 7
    assert sorted(order) == list(range(40))


def pretrained(name):
    """`sample.py`'s options for a network of the package."""
    given = {"save_base": "", "G_base": f"pretrained:{name}", "ema": True}
    sizes = dict.fromkeys(("scale", "noise_dim", "grayscale"))  # the network's own
    return SimpleNamespace(**given, **sizes, typed=frozenset({"G_base"}))


def mean_distance(images):
    distances = torch.cdist(images.flatten(1), images.flatten(1))
    return float(distances.sum() / (len(images) * (len(images) - 1)))


def test_one_face_many_times_is_shown_once():
    """The middle of the crowd is like many others, and those shown first were all of it."""
    generator = torch.Generator().manual_seed(3)
    faces = torch.rand(60, 1, 8, 8, generator=generator)
    faces = faces[faces.mean((1, 2, 3)).argsort(descending=True)]  # D likes the first best
    copies = (faces[:1] + 0.02 * torch.randn(40, 1, 8, 8, generator=generator)).clamp(0, 1)
    images = torch.cat([copies, faces])
    order = choose(Bright(), images)
    assert sorted(order.tolist()) == list(range(100))
    first = images[order[:30]]
    assert sum(int(i) <= 40 for i in order[:30]) == 1
    assert mean_distance(first) > 0.9 * mean_distance(faces)


def test_of_pictures_that_are_all_the_same_none_is_lost():
    images = torch.full((9, 1, 8, 8), 0.5)
    assert sorted(choose(Bright(), images).tolist()) == list(range(9))


def test_pictures_that_differ_enough_keep_the_order_of_the_rankings(monkeypatch):
    images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    order = choose(Bright(), images)
    monkeypatch.setattr(choice, "APART", (0.0,))
    assert torch.equal(order, choose(Bright(), images))


@pytest.mark.parametrize("name", ["faces16", "faces32"])
def test_the_faces_of_the_package_that_are_shown_are_not_all_of_a_kind(name):
    base = load_base(pretrained(name), torch.device("cpu"))
    noise = TorchSource(1, torch.device("cpu")).uniform_(torch.empty(512, base.G.noise_dim), -1, 1)
    images = generate(base.G.network, noise, 64)
    chosen = images[choose(base.D, images)[:64]]
    assert mean_distance(chosen) > 0.93 * mean_distance(images)
