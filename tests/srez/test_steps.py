import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from eyescream_py.srez.batches import Batch, Batches, held_out_pictures
from eyescream_py.srez.data import load_split
from eyescream_py.srez.evaluation import enlarge, psnr
from eyescream_py.srez.objectives import tie_loss
from eyescream_py.srez.steps import build_networks, build_step, train_step

CPU = torch.device("cpu")


@pytest.fixture
def batch(tiny):
    return stream(tiny).batch(0)


def stream(options):
    train, _ = load_split(options.dataset, options.crop, 4, 0, "", 0, "")
    return Batches(train, options, CPU)


def in_double(networks, batch):
    """Networks and batch for comparisons of Adam's first steps, which are near lr*sign(gradient):
    where a gradient is near 0, single rounding chooses the sign, and processors round differently.
    """
    networks.generator.double()
    networks.critic.double()
    return Batch(*(tensor.double() for tensor in batch.tensors()))


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_both_updates_use_the_weights_before_either(tiny, batch, optimizer):
    """Against the plainest loop: two separate losses, copies of the old networks, ordinary backward
    passes.
    """
    options = dataclasses.replace(tiny, optimizer=optimizer, learning_rate_start=0.01)
    networks = build_networks(options, CPU)
    batch = in_double(networks, batch)
    generator, critic = copy.deepcopy(networks.generator), copy.deepcopy(networks.critic)
    fake = generator(batch.inputs)
    g_loss = 0.1 * F.softplus(-critic(fake)).mean() + 0.9 * tie_loss(fake, batch.small)
    g_loss.backward()
    critic.zero_grad()
    d_loss = F.softplus(-critic(batch.label)) + F.softplus(critic(fake.detach()))
    d_loss.mean().backward()
    for network in (generator, critic):
        for p in network.parameters():
            if optimizer == "adam":  # first step: the gradient over its own size
                p.data -= 0.01 * p.grad / (p.grad.abs() + 1e-8)
            else:
                p.data -= 0.01 * p.grad / (0.9 + 0.1 * p.grad**2).sqrt()
    train_step(networks, batch, options)
    assert torch.allclose(weights(networks.generator), weights(generator), atol=1e-8)
    assert torch.allclose(weights(networks.critic), weights(critic), atol=1e-8)


def test_fused_updates_follow_plain_adam_for_many_steps(tiny):
    """The networks' memory layout is not the gradients' own; a mix-up would show here at once."""
    options = dataclasses.replace(tiny, learning_rate_start=0.003, epsilon=1e-3)
    networks, plain = build_networks(options, CPU), build_networks(options, CPU)
    batches = [stream(options).batch(k) for k in range(3)]
    for trained in (networks, plain):
        doubled = [in_double(trained, batch) for batch in batches]
    for role in ("generator", "critic"):
        params = list(getattr(plain, role).parameters())
        for p in params:
            p.data = p.data.contiguous()
        setattr(
            plain,
            f"{role}_optimizer",
            torch.optim.Adam(params, 0.003, (0.5, 0.9), 1e-3, foreach=False),
        )
    for batch in doubled:
        train_step(networks, batch, options)
        train_step(plain, batch, options)
    for role in ("generator", "critic"):
        a, b = weights(getattr(networks, role)), weights(getattr(plain, role))
        assert (a - b).norm() / b.norm() < 1e-9


def test_losses_of_the_first_step(tiny, batch):
    options = dataclasses.replace(tiny, pixel_factor=2.0)
    networks = build_networks(options, CPU)
    with torch.no_grad():
        fake = copy.deepcopy(networks.generator)(batch.inputs)
    losses = train_step(networks, batch, options)
    tie = tie_loss(fake, batch.small)
    assert float(losses["l1_loss"]) == pytest.approx(float(tie), rel=1e-4)
    total = 0.1 * losses["adversarial_loss"] + 0.9 * tie + 2 * (fake - batch.label).abs().mean()
    assert float(losses["generator_loss"]) == pytest.approx(float(total), rel=1e-4)


def test_from_noise_only_the_critic_judges(tiny):
    options = dataclasses.replace(tiny, input="noise")
    losses = train_step(build_networks(options, CPU), stream(options).batch(0), options)
    assert torch.equal(losses["generator_loss"], losses["adversarial_loss"])
    assert "l1_loss" not in losses


def test_a_critic_only_step_leaves_the_generator_alone(tiny, batch):
    networks = build_networks(tiny, CPU)
    generator, critic = weights(networks.generator), weights(networks.critic)
    losses = train_step(networks, batch, tiny, with_generator=False)
    assert torch.equal(weights(networks.generator), generator)
    assert not torch.equal(weights(networks.critic), critic)
    assert "generator_loss" not in losses


def test_wgan_clips_every_parameter_of_the_critic(tiny, batch):
    options = dataclasses.replace(tiny, loss_func="wgan", optimizer="rmsprop")
    networks = build_networks(options, CPU)
    assert weights(networks.critic).abs().max() > 0.01
    train_step(networks, batch, options)
    assert weights(networks.critic).abs().max() <= 0.01


def test_the_critic_learns_to_score_real_pictures_higher(tiny):
    """Of wgangp: weights clipped to 0.01 leave this small critic of wgan scores of 1e-9, whose sign
    is rounding.
    """
    options = dataclasses.replace(
        tiny, loss_func="wgangp", optimizer="adam", learning_rate_start=2e-3, critic_norm="none"
    )
    networks, batches = build_networks(options, CPU), stream(options)
    for k in range(30):
        losses = train_step(networks, batches.batch(k), options, with_generator=False)
    assert losses["wasserstein_estimate"] > 0


def test_a_heavy_penalty_brings_the_slope_to_one(tiny):
    options = dataclasses.replace(
        tiny, loss_func="wgangp", LAMBDA=100.0, learning_rate_start=2e-3, critic_norm="none"
    )
    networks, batches = build_networks(options, CPU), stream(options)

    def slope(batch: Batch) -> float:
        x = batch.label.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(networks.critic(x).sum(), x)
        return float(gradient.flatten(1).norm(dim=1).mean())

    before = slope(batches.batch(99))
    for k in range(60):
        train_step(networks, batches.batch(k), options, with_generator=False)
    after = slope(batches.batch(99))
    assert abs(after - 1) < 0.3 < abs(before - 1)


@pytest.mark.parametrize("score", [7.0, 9.0, 12.0, 20.0, 50.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_score_is_so_large_that_the_losses_have_no_slope(tiny, batch, score, precision):
    """A critic that is wrong about everything by `score`, through the whole step."""
    options = dataclasses.replace(tiny, precision=precision, critic_norm="none", learning_beta1=0.0)
    networks = build_networks(options, CPU)
    last = networks.critic.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(score)  # "real" to the generated ones
    train_step(networks, batch, options)
    true = torch.sigmoid(torch.tensor(score)) - torch.sigmoid(torch.tensor(-score))
    assert float(last.bias.grad) == pytest.approx(float(true), rel=0.01)
    with torch.no_grad():
        last.bias.fill_(-score)  # "generated" to them: what the generator gets
    fake = -torch.full((4,), score, requires_grad=True)
    (slope,) = torch.autograd.grad(F.softplus(-fake).mean(), fake)
    assert float(slope.sum()) == pytest.approx(-float(torch.sigmoid(torch.tensor(score))), rel=0.01)


def test_bf16_follows_fp32(tiny, batch):
    losses = {}
    for precision in ("fp32", "bf16"):
        options = dataclasses.replace(tiny, precision=precision)
        losses[precision] = train_step(build_networks(options, CPU), batch, options)
    for name, value in losses["fp32"].items():
        assert float(losses["bf16"][name]) == pytest.approx(float(value), abs=0.05), name
        assert losses["bf16"][name].dtype == torch.float32


def test_running_statistics_serve_as_well_as_the_batch_s_own(tiny):
    """After 60 batches: with start values left in them the pictures would be grey."""
    options = dataclasses.replace(tiny, learning_rate_start=2e-4, back_projection=0)
    networks, batches = build_networks(options, CPU), stream(options)
    for k in range(60):
        train_step(networks, batches.batch(k), options)
    _, test = load_split(options.dataset, options.crop, 4, 0, "", 0, "")
    small, label = held_out_pictures(test, options, CPU)
    by = {
        bn: psnr(enlarge(networks.generator, small, dataclasses.replace(options, bn=bn)), label)
        for bn in ("running", "batch")
    }
    assert by["running"] > by["batch"] - 0.3


def test_same_seed_same_networks_and_other_randomness_untouched(tiny):
    state = torch.get_rng_state()
    a, b = build_networks(tiny, CPU), build_networks(tiny, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(a.generator), weights(b.generator))
    other = build_networks(dataclasses.replace(tiny, random_seed=1), CPU)
    assert not torch.equal(weights(a.generator), weights(other.generator))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("objective", ["gan", "wgan", "wgangp"])
def test_recorded_step_follows_the_eager_one(tiny, objective):
    options = dataclasses.replace(tiny, loss_func=objective, n_critic=2, epsilon=1e-3)
    device = torch.device("cuda")
    eager, recorded = build_networks(options, device), build_networks(options, device)
    train, _ = load_split(options.dataset, options.crop, 4, 0, "", 0, "")
    batches, step = Batches(train, options, device), build_step(recorded, options, device)
    for k in range(16):
        a = train_step(eager, batches.batch(k), options, k % 2 == 1)
        b = step(batches.batch(k), k % 2 == 1)
        assert set(a) == set(b)
    for role in ("generator", "critic"):
        x, y = weights(getattr(eager, role)), weights(getattr(recorded, role))
        assert (x - y).norm() / x.norm() < 1e-2
