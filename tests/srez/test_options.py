import math
import re

import pytest

from eyescream_py.srez.options import MOSTS, Options
from eyescream_py.system.errors import UserError


def test_the_objective_implies_how_the_critic_is_bounded():
    gan, wgan, wgangp = (Options(loss_func=name) for name in ("dcgan", "wgan", "wgangp"))
    assert (gan.objective, gan.clip, gan.penalty_weight, gan.norm_of_critic) == (
        "gan",
        0,
        0,
        "batch",
    )
    assert (wgan.clip, wgan.penalty_weight) == (0.01, 0)
    assert (wgangp.clip, wgangp.penalty_weight, wgangp.norm_of_critic) == (0, 10, "layer")
    assert Options(loss_func="gan").objective == "gan"
    assert Options(loss_func="gan", weigh_clip=1).clip == 0.01


def test_stages_follow_from_sizes():
    assert Options().stages == 2
    assert Options(scale=8).stages == 3
    assert Options(input="noise").stages == 4
    assert Options(input="noise", sample_size=128).stages == 5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"loss_func": "wgan", "weigh_clip": 0}, "weigh_clip=0"),
        ({"loss_func": "wgangp", "LAMBDA": 0.0}, "LAMBDA=0"),
        ({"loss_func": "gan", "LAMBDA": 10.0}, "LAMBDA=10"),
        ({"sample_size": 72}, "sample_size=72"),
        ({"sample_size": 256}, "sample_size=256"),
        ({"scale": 3}, "scale=3"),
        ({"input": "noise", "noise_dimension": 3}, "noise_dimension=3"),
        ({"input": "noise", "noise_dimension": 0}, "noise_dimension=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"width": 0.0}, "width=0"),
        ({"critic_width": -1.0}, "critic_width=-1"),
        ({"critic_width": 0.0}, "critic_width=0"),
        ({"gene_l1_factor": 1.5}, "gene_l1_factor=1.5"),
        ({"learning_beta1": 1.0}, "learning_beta1=1"),
        ({"train_time": 0.0}, "train_time=0"),
        ({"max_batches": -1}, "max_batches=-1"),
        ({"optimizer": "sgd"}, "optimizer=sgd"),
        ({"critic_norm": "group"}, "critic_norm=group"),
        ({"random_seed": 1 << 63}, "random_seed=9223372036854775808"),
        ({"LAMBDA": float("nan"), "loss_func": "wgangp"}, "LAMBDA=nan"),
        ({"learning_rate_start": float("inf")}, "learning_rate_start=inf"),
        ({"width": 65.0}, "width=65"),
        ({"summary_period": 1 << 31}, "summary_period=2147483648"),
    ],
)
def test_what_cannot_work_is_refused_by_name(wrong, named):
    with pytest.raises(UserError, match=f"--.*{named}"):
        Options(**wrong).check()


@pytest.mark.parametrize(("name", "most"), MOSTS.items())
def test_numbers_have_upper_limits(name, most):
    objective = {"loss_func": "wgangp"} if name == "LAMBDA" else {}
    kind = type(getattr(Options(), name) or 0.0)
    Options(**objective, **{name: kind(most)}).check()
    beyond = math.nextafter(most, math.inf) if kind is float else int(most) + 1
    with pytest.raises(UserError, match=rf"--{name}=.*: give at most {re.escape(f'{most:g}')}"):
        Options(**objective, **{name: beyond}).check()


@pytest.mark.parametrize("name", ["width", "critic_width"])
def test_networks_have_a_widest(name):
    Options(**{name: 64.0}).check()
    with pytest.raises(UserError, match=f"--{name}=64.0.*: give at most 64"):
        Options(**{name: math.nextafter(64, 65)}).check()


def test_the_defaults_work():
    Options().check()
