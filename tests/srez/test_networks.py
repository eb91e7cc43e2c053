import math

import pytest
import torch
from torch import nn

from eyescream_py.srez.networks import (
    BatchShift,
    Critic,
    DoubleSide,
    Generator,
    HalfSide,
    LayerShift,
    ResidualBlock,
    TransposedStage,
    convolution,
    normalisation,
    parameter_count,
    use_batch_statistics,
)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: Generator(2), 3_844_451),
        (lambda: Generator(4), 7_534_691),
        (lambda: Generator(4, norm=False), 7_530_851),
        (lambda: Generator(4, "deconv"), 1_160_806),
        (lambda: Generator(4, "deconv", norm=False), 1_160_163),
        (lambda: Critic(), 4_175_937),
        (lambda: Critic("layer"), 4_175_937),
        (lambda: Critic("none"), 4_173_953),
    ],
)
def test_parameter_counts_of_the_originals(network, count):
    with torch.device("meta"):
        assert parameter_count(network()) == count


@pytest.mark.parametrize("architecture", ["resnet", "deconv"])
@pytest.mark.parametrize(("stages", "side"), [(1, 32), (2, 16), (3, 8), (4, 4), (5, 4)])
def test_generator_doubles_once_per_stage_into_the_open_unit_range(architecture, stages, side):
    torch.manual_seed(0)
    generator = Generator(stages, architecture, width=1 / 32)
    output = generator(2 * torch.rand(2, 3, side, side) - 1)
    assert output.shape == (2, 3, side * 2**stages, side * 2**stages)
    assert 0 < output.min() < output.max() < 1


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_critic_gives_one_score_per_picture(norm):
    critic = Critic(norm, width=1 / 32)
    assert critic(torch.rand(3, 3, 64, 64)).shape == (3,)


def test_the_critic_sees_pictures_from_minus_one_to_one_and_means_its_scores():
    torch.manual_seed(0)
    critic = Critic("none", width=1 / 32).double()
    x = torch.rand(2, 3, 32, 48, dtype=torch.double)
    values = 2 * x - 1
    for number, layer in enumerate(m for m in critic.modules() if isinstance(m, nn.Conv2d)):
        edge = (0, 1, 0, 1) if layer.stride == (2, 2) else (layer.kernel_size[0] // 2,) * 4
        values = nn.functional.pad(values, edge)
        values = nn.functional.conv2d(values, layer.weight, layer.bias, layer.stride)
        values = values.relu() if number < 6 else values
    assert torch.allclose(critic(x), values.mean((1, 2, 3)))


def test_layer_norm_and_none_score_each_picture_by_itself_and_batch_norm_does_not():
    pictures = torch.rand(3, 3, 32, 32)
    for norm, alone in (("layer", True), ("none", True), ("batch", False)):
        torch.manual_seed(1)
        critic = Critic(norm, width=1 / 16)
        together, single = critic(pictures)[0], critic(pictures[:1])[0]
        assert torch.allclose(together, single, atol=1e-5) == alone, norm


def doubling(norm, then_kernel, units=6):
    """A doubling with random biases, and the same written out layer by layer."""
    torch.manual_seed(2)
    then = convolution(units, 5, then_kernel, 2.0) if then_kernel else None
    stage = DoubleSide(normalisation(norm, units), convolution(units, units, 3), then).double()
    for p in stage.parameters():
        if p.dim() == 1:
            p.data.normal_()
    behind = [then] if then else []
    plain = nn.Sequential(nn.Upsample(scale_factor=2), stage.norm, nn.ReLU(), stage.conv, *behind)
    return stage, plain


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("then_kernel", [0, 1, 3])
@pytest.mark.parametrize("size", [(5, 4), (2, 2)])
def test_doubling_stage_is_nearest_norm_relu_and_convolutions(norm, then_kernel, size):
    stage, plain = doubling(norm, then_kernel)
    x = torch.randn(3, 6, *size, dtype=torch.double)
    assert torch.allclose(stage(x), plain(x))


@pytest.mark.parametrize("then_kernel", [0, 1, 3])
def test_doubling_stage_has_the_plain_gradients(then_kernel):
    stage, plain = doubling("none", then_kernel)
    x = torch.randn(2, 6, 4, 3, dtype=torch.double, requires_grad=True)
    inputs = [x, *stage.parameters()]
    fast = torch.autograd.grad(stage(x).square().sum(), inputs)
    for a, b in zip(fast, torch.autograd.grad(plain(x).square().sum(), inputs), strict=True):
        assert torch.allclose(a, b)


def test_transposed_stage_crops_the_last_row_and_column():
    stage = TransposedStage(1, 1, "none")
    stage.conv.weight.data.zero_()
    stage.conv.weight.data[0, 0, 0, 0] = 1
    x = torch.rand(1, 1, 3, 3)
    assert torch.equal(stage(x)[0, 0, ::2, ::2], x[0, 0])
    assert stage(x).shape == (1, 1, 6, 6)


def test_half_side_pads_right_and_bottom_only():
    layer = HalfSide(1, 1)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[0, 0, 0, 0] = 1
    x = torch.rand(1, 1, 4, 4)
    assert torch.equal(layer(x)[0, 0], x[0, 0, ::2, ::2])


def test_residual_block_starts_near_the_identity():
    torch.manual_seed(3)
    block = ResidualBlock(32, "batch")
    x = torch.randn(4, 32, 8, 8)
    assert (block(x) - x).norm() / x.norm() < 0.05


def test_start_weights_are_truncated_normal_with_tf_deviation():
    torch.manual_seed(4)
    layer = convolution(64, 128, 3, 2.0)
    deviation = math.sqrt(2.0 / (math.sqrt(64 * 128) * 9))
    assert layer.weight.abs().max() <= 2 * deviation
    assert float(layer.weight.detach().std() / deviation) == pytest.approx(
        0.8796, abs=0.01
    )  # of a normal cut at 2
    assert not layer.bias.any()


def test_each_layer_starts_with_its_own_factor():
    torch.manual_seed(0)
    residual = 4 * [1e-3]
    for network, factors in (
        (Generator(2, width=1 / 8), [1, *residual, 1, 1, *residual, 1, 2, 2, 1]),
        (Generator(2, "deconv", width=1 / 8), [1, 1, 2, 2, 1]),
        (Critic(width=1 / 8), 7 * [2]),
    ):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for layer, factor in zip(layers, factors, strict=True):
            spread = math.sqrt(layer.in_channels * layer.out_channels) * layer.kernel_size[0] ** 2
            largest = float(layer.weight.detach().abs().max()) / math.sqrt(factor / spread)
            assert 1.5 < largest <= 2.0001, (type(network), factor)


def test_batch_norm_has_a_shift_and_no_scale_and_batch_or_running_statistics():
    norm = BatchShift(2)
    x = 5 + 3 * torch.randn(8, 2, 6, 6)
    for _ in range(500):
        trained = norm(x)
    assert trained.mean((0, 2, 3)).abs().max() < 1e-4
    assert float(trained.detach().std()) == pytest.approx(1, abs=0.01)
    norm.eval()
    assert torch.allclose(norm(x), trained, atol=0.05)
    assert norm(x[:1] + 1).mean() > 0.2
    use_batch_statistics(norm, True)
    assert norm(x[:1] + 1).mean().abs() < 1e-4


def test_normalisations_are_those_of_their_definition():
    """Epsilon 1e-3 over a batch or with running statistics, 1e-12 over a picture: no more."""
    x = 0.03 * torch.randn(4, 2, 6, 6, dtype=torch.double)
    batch, layer = BatchShift(2).double(), LayerShift(2).double()
    for norm in (batch, layer):
        norm.shift.data.copy_(torch.tensor([0.5, -2.0]))
    shift = torch.tensor([0.5, -2.0], dtype=torch.double)[:, None, None]

    def normed(axes, epsilon):
        variance = x.var(axes, correction=0, keepdim=True)
        return (x - x.mean(axes, keepdim=True)) / (variance + epsilon).sqrt() + shift

    assert torch.allclose(batch(x), normed((0, 2, 3), 1e-3))
    assert torch.allclose(layer(x), normed((1, 2, 3), 1e-12))
    batch.eval().running_mean.copy_(torch.tensor([0.1, 0.2]))
    batch.running_var.copy_(torch.tensor([1e-3, 3e-3]))
    mean = torch.tensor([0.1, 0.2], dtype=torch.double)[:, None, None]
    deviation = torch.tensor([2e-3, 4e-3], dtype=torch.double).sqrt()[:, None, None]
    assert torch.allclose(batch(x), (x - mean) / deviation + shift, rtol=1e-5)
    use_batch_statistics(batch, True)
    assert torch.allclose(batch(x), normed((0, 2, 3), 1e-3))


def test_running_statistics_are_the_plain_mean_of_the_first_batches():
    norm = BatchShift(2)
    batches = [k + torch.randn(4, 2, 5, 5) for k in range(9)]
    for x in batches:
        norm(x)
    means = torch.stack([x.mean((0, 2, 3)) for x in batches])
    variances = torch.stack([x.var((0, 2, 3)) for x in batches])
    assert torch.allclose(norm.running_mean, means.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, variances.mean(0), atol=1e-4)
    for _ in range(200):  # later ones forget the first
        norm(100 + torch.randn(4, 2, 5, 5))
    assert (norm.running_mean - 100).abs().max() < 0.5
    assert norm.seen == 209


def test_running_statistics_stay_out_of_what_is_learnt():
    norm = BatchShift(3).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradgradcheck(norm, (x,))  # the gradient penalty with batch norm
    assert set(norm.state_dict()) == {"shift", "running_mean", "running_var", "seen"}


def test_batch_norm_gets_a_scale_and_a_shift_as_cuda_s_backward_pass_needs(monkeypatch):
    seen = []
    original = torch.nn.functional.batch_norm

    def recorded(x, mean, variance, weight, bias, *rest):
        seen.append((weight, bias))
        return original(x, mean, variance, weight, bias, *rest)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", recorded)
    norm = BatchShift(3)
    for statistics in (False, True):
        use_batch_statistics(norm, statistics)
        norm.train()(torch.randn(2, 3, 4, 4))
        norm.eval()(torch.randn(2, 3, 4, 4))
    assert len(seen) == 4
    assert all(torch.equal(w, torch.ones(3)) and b is norm.shift for w, b in seen)


def test_scores_and_pictures_are_fp32_under_bf16():
    """bf16 has 8 bits: a score of 300 would move in steps of 2, a sigmoid near 1 not at all."""
    critic, generator = Critic("layer", width=1 / 16), Generator(1, width=1 / 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(torch.rand(2, 3, 32, 32)).dtype == torch.float32
        assert generator(torch.rand(2, 3, 8, 8)).dtype == torch.float32


def test_layer_norm_is_per_picture_and_twice_differentiable():
    norm = LayerShift(3).double()
    x = 2 + torch.randn(2, 3, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.allclose(norm(x).mean((1, 2, 3)), torch.zeros(2, dtype=torch.double), atol=1e-9)
    assert torch.autograd.gradgradcheck(norm, (x.detach().requires_grad_(),))
