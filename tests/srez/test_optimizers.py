import pytest
import torch

from eyescream_py.srez.optimizers import (
    build_optimizer,
    learning_rate,
)
from eyescream_py.srez.options import Options
from eyescream_py.system.recording import set_rate


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_rate_can_be_set_between_steps(name):
    p = torch.ones(3, requires_grad=True)
    optimizer = build_optimizer(Options(optimizer=name), [p])
    set_rate(optimizer, 0.0)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(p, torch.ones(3))
    set_rate(optimizer, 0.5)
    p.grad = torch.ones(3)
    optimizer.step()
    assert (p < 0.7).all()


def test_adam_takes_the_fork_s_settings():
    optimizer = build_optimizer(Options(), [torch.ones(1, requires_grad=True)])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.5, 0.9), 1e-8)


def test_the_rate_halves_every_half_life_and_never_with_zero():
    options = Options(learning_rate_start=1.0, learning_rate_half_life=100)
    assert [learning_rate(options, b) for b in (0, 99, 100, 250)] == [1, 1, 0.5, 0.25]
    assert learning_rate(Options(learning_rate_start=1.0, learning_rate_half_life=0), 10**6) == 1
