"""Random programs of views, changes in place, lists, numbers read and slopes: recorded and not."""

import random

import pytest
import torch

from eyescream_py.system.tape import as_one, record

PROGRAMS, STEPS = 30, 40


def by_its_sum(x):
    return x.add_(float(x.sum()) * 1e-3)


def turned(x, other, source):
    return x.t() if x.dim() == 2 else x.reshape(-1)


def tail(x, other, source):
    return x[len(x) // 3 :] if x.dim() else x.detach()


def ends(x, other, source):
    flat = x.reshape(-1)
    return flat[:1] - flat[-1:]


def changed(x, other, source):
    return x.mul_(0.5).add_(0.1)


def through_a_view(x, other, source):
    x.reshape(-1)[:2].clamp_(-1, 1)
    return x.unsqueeze(0)[..., None].squeeze()


def taken_over(x, other, source):
    return x.copy_(other * 0.9) if x.shape == other.shape else torch.tanh(x)


def each(x, other, source):
    torch._foreach_add_([x], 0.01)
    return torch._foreach_mul([x, other], 0.7)[1]


def drawn(x, other, source):
    return x.clone().uniform_(-1, 1, generator=source)


def into(x, other, source):
    place = torch.empty_like(x)
    torch.add(x, x, alpha=-0.3, out=place)
    return place


def parts(x, other, source):
    return x.reshape(-1).split(3)[-1]


def complex_product(x, other, source):
    y = torch.complex(x, x).conj()
    return (y * y).imag


def whole(x, other, source):
    return as_one(by_its_sum, x)


def read(x, other, source):
    return as_one(lambda a, b: a * float(b.mean()), x, other)


@torch.enable_grad()
def slope(x, other, source):
    weight = x.detach().clone().requires_grad_()
    loss = (weight.tanh() * weight.sigmoid()).sum() + weight.reshape(-1).softmax(0).max()
    flat = weight.reshape(-1) * 2
    flat[1:].sigmoid_()  # kept for the way back as a part of what came before it
    return torch.autograd.grad(loss + flat.sum(), weight)[0]


KINDS = (turned, tail, ends, changed, through_a_view, taken_over, each, drawn, into, parts,
         complex_product, whole, read, slope)  # fmt: skip


@torch.no_grad()
def run(seed, state, source):
    """STEPS operations on what lies in `state` and on each other's results, kept in it at last."""
    choice, pool = random.Random(seed), list(state)
    for _ in range(STEPS):
        kind, x, other = choice.choice(KINDS), choice.choice(pool), choice.choice(pool)
        pool.append(kind(x, other, source))
    for place, last in zip(state, reversed(pool), strict=False):
        place.copy_(torch.tanh(place + last.sum()))


def start():
    source = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=source) for shape in ((3, 4), (4, 3), (), (12,))], source


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_a_recorded_program_does_what_it_did(seed):
    (ours, source), (theirs, other) = start(), start()
    again = record(lambda: run(seed, ours, source))
    run(seed, theirs, other)
    for _ in range(3):
        again.replay()
        run(seed, theirs, other)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
            assert a.isfinite().all()
    assert torch.equal(source.get_state(), other.get_state())
