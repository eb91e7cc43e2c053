import pytest
import torch

from eyescream_py.image_model.networks import (
    Conv,
    Decoder,
    Discriminator,
    Encoder,
    build_critic,
    build_generator,
)
from eyescream_py.image_model.options import GENERATORS, NORMS


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("arch", "count"),
    [("U", 137_505), ("V", 87_009), ("F", 28_097), ("NU", 1_289_602), ("PIX", 7_310_529)],
)
def test_generator_parameter_counts_at_128_grey(arch: str, count: int) -> None:
    assert parameters(build_generator(arch, 1, 128)) == count


def test_discriminator_parameter_count_at_128_grey() -> None:
    assert parameters(Discriminator(1, 128)) == 47_473


@pytest.mark.parametrize("arch", GENERATORS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_generators_keep_the_shape_and_stay_inside_minus_one_and_one(
    arch: str, channels: int, norm: str
) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(2, channels, 20, 20)
    y = build_generator(arch, channels, 20, norm)(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert y.std() > 1e-4


def test_every_pixel_of_pix_depends_on_the_whole_picture_and_on_its_own_place() -> None:
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 64, 64, requires_grad=True)
    pix = build_generator("PIX", 1, 64).eval()
    with torch.no_grad():
        for bias in (b for name, b in pix.named_parameters() if name.endswith("bias")):
            bias.normal_(0, 0.1)
    for network, whole in ((pix, True), (build_generator("U", 1, 64), False)):
        (reach,) = torch.autograd.grad(network(x)[0, 0, 0, 0], x)
        assert bool(reach[0, 0, 32:, 32:].any()) == whole
    inside = pix(x.detach())[0, 0, 24:40, 24:40]
    assert inside.std() > 1e-3  # of an empty picture, far from its border
    assert not torch.equal(pix.train()(x), pix(x))  # drop-out


def test_a_pixel_of_u_sees_29_to_33_pixels_a_side() -> None:
    net, spans = build_generator("U", 1, 48), set()
    for place in range(22, 26):  # all four places between pixels of the code
        x = torch.rand(1, 1, 48, 48, requires_grad=True)
        net(x)[0, 0, place, 24].backward()
        seen = x.grad.abs().sum(3).flatten().nonzero()
        spans.add(int(seen.max() - seen.min()) + 1)
    assert spans == {29, 33}


def test_noise_makes_nu_differ_and_u_is_deterministic() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 16)
    nu, u = build_generator("NU", 1, 16), build_generator("U", 1, 16)
    assert not torch.equal(nu(x), nu(x))
    assert torch.equal(u(x), u(x))
    noise = torch.randn(2, 100)
    assert torch.equal(nu(x, noise), nu(x, noise))


@pytest.mark.parametrize("norm", NORMS)
def test_discriminator_flattens_to_s_squared(norm: str) -> None:
    torch.manual_seed(0)
    critic = Discriminator(1, 24, norm)
    assert critic.dense.in_features == 24**2
    assert critic(torch.randn(4, 1, 24, 24)).shape == (4, 1)


def test_dense_layers_are_normalised_with_batch_and_not_with_conv() -> None:
    """As in the original; up to version 1 of checkpoints they were left out."""
    torch.manual_seed(0)
    x = torch.randn(16, 1, 16, 16)
    scores = Discriminator(1, 16, "batch")(x)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=5e-3)
    plain = Discriminator(1, 16, "conv")(x)
    assert abs(plain.std().item() - 1) > 0.05
    names = build_generator("NU", 1, 16, "batch").state_dict().keys()
    assert "mix.dense_norm.running_var" in names
    assert names - build_generator("NU", 1, 16, "conv").state_dict().keys() == {
        f"mix.dense_norm.{n}"
        for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_normalisations_are_those_of_their_definition() -> None:
    """Epsilon 1e-3; running statistics move by a tenth, as TensorFlow's do."""
    torch.manual_seed(0)
    x = 0.05 * torch.randn(4, 3, 8, 8, dtype=torch.double)
    for norm, axes in (("batch", (0, 2, 3)), ("conv", (0, 2, 3)), ("instance", (2, 3))):
        layer = Conv(3, 3, 1, norm=norm, activation=lambda x: x).double()
        with torch.no_grad():
            layer.conv.weight.copy_(torch.eye(3)[..., None, None])
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        torch.testing.assert_close(layer(x), (x - mean) / (variance + 1e-3).sqrt())
        assert {name for name, _ in layer.norm.named_parameters()} == {"weight", "bias"}
        if norm != "instance":
            torch.testing.assert_close(layer.norm.running_mean, 0.1 * mean.flatten())
    dense = Discriminator(1, 8, "batch").dense_norm
    assert (dense.eps, dense.momentum) == (1e-3, 0.1)


def test_which_layers_are_normalised() -> None:
    def bare(network: torch.nn.Module) -> list[str]:
        layers = [(name, m) for name, m in network.named_modules() if isinstance(m, Conv)]
        return [name for name, layer in layers if isinstance(layer.norm, torch.nn.Identity)]

    for norm in ("batch", "conv", "instance"):
        assert bare(build_generator("PIX", 1, 16, norm)) == ["first", "out"]
        assert bare(build_critic("patch", 1, 16, norm)) == ["layers.0", "layers.3"]
        assert bare(build_critic("dense", 1, 16, norm)) == []
        for arch, out in (("U", "out"), ("V", "decoder.layers.2"), ("F", "4")):
            wanted = [out] if norm == "instance" else []
            assert bare(build_generator(arch, 1, 16, norm)) == wanted


def test_layers_are_joined_as_in_the_papers() -> None:
    torch.manual_seed(0)
    x, noise, f = torch.randn(2, 1, 16, 16), torch.randn(2, 100), torch.nn.functional
    nu, pix, patch = (
        build_generator("NU", 1, 16), build_generator("PIX", 1, 16).eval(),
        build_critic("patch", 1, 16),
    )  # fmt: skip
    full = nu.c1(x)
    half = nu.c2(full)
    plane = nu.mix.squeeze(nu.c3(half)).flatten(1)
    mixed = nu.mix.dense(torch.cat([noise, plane], 1)).relu().view(2, 1, 4, 4)
    up = nu.d2(torch.cat([half, nu.d1(nu.c4(nu.mix.widen(mixed)))], 1))
    torch.testing.assert_close(nu(x, noise), nu.out(torch.cat([full, up], 1)))
    first = pix.first(x)
    second = pix.down[0](first)
    up = torch.cat([second, pix.up[0](pix.down[1](second))], 1)
    up = torch.cat([first, pix.up[1](up)], 1)
    torch.testing.assert_close(pix(x), pix.out(up))
    last = patch.layers[3].conv
    scores = f.conv2d(patch.layers[:3](x), last.weight, last.bias).flatten(1)
    torch.testing.assert_close(patch(x), scores)


def test_pix_drops_half_in_its_two_innermost_layers() -> None:
    drops = [layer.p for layer in build_generator("PIX", 1, 64).modules()
             if isinstance(layer, torch.nn.Dropout)]  # fmt: skip
    assert drops == [0.5, 0.5, 0, 0]


def test_instance_norm_makes_a_picture_independent_of_its_batch() -> None:
    torch.manual_seed(0)
    network = build_generator("U", 1, 16, "instance")
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


@pytest.mark.parametrize("norm", NORMS)
def test_patch_critic_scores_each_place_by_what_is_near(norm: str) -> None:
    torch.manual_seed(0)
    critic = build_critic("patch", 3, 32, norm).eval()
    x = torch.randn(2, 3, 32, 32)
    scores = critic(x)
    assert scores.shape == (2, 64)
    if norm != "instance":
        x[:, :, :, 24:] = 0  # beyond the reach of the top left score
        assert torch.equal(critic(x)[:, 0], scores[:, 0])
        assert not torch.equal(critic(x)[:, -1], scores[:, -1])


def test_stride_two_pads_one_before_and_two_after() -> None:
    conv = Conv(1, 1, 5, 2, activation=lambda x: x)
    with torch.no_grad():
        conv.conv.weight.zero_()
        conv.conv.weight[0, 0, 0, 0] = 1  # picks the input one row and column before the centre
    x = torch.arange(36.0).view(1, 1, 6, 6) + 1
    expected = torch.tensor([[0.0, 0, 0], [0, 8, 10], [0, 20, 22]])
    assert torch.equal(conv(x)[0, 0], expected)


def test_transposed_layer_is_the_adjoint_of_the_strided_one() -> None:
    torch.manual_seed(0)
    down = Conv(2, 3, 5, 2, activation=lambda x: x).double()
    up = Conv(3, 2, 5, 2, up=True, activation=lambda x: x).double()
    with torch.no_grad():
        up.conv.weight.copy_(down.conv.weight)
    x, code = torch.randn(1, 2, 8, 8).double(), torch.randn(1, 3, 4, 4).double()
    torch.testing.assert_close((down(x) * code).sum(), (x * up(code)).sum())


def test_kernels_start_glorot_uniform_and_biases_zero() -> None:
    torch.manual_seed(0)
    conv = Conv(32, 32, 5, 2).conv
    bound = (6 / (25 * 64)) ** 0.5
    assert 0.98 * bound < conv.weight.abs().max() <= bound
    assert conv.bias is not None
    assert not conv.bias.any()


def test_v_is_encoder_and_decoder_with_a_code_of_32_planes() -> None:
    code = Encoder(1)(torch.zeros(2, 1, 32, 32))
    assert code.shape == (2, 32, 8, 8)
    assert Decoder(1)(code).shape == (2, 1, 32, 32)


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(ValueError, match="'X'"):
        build_generator("X", 1, 32)


@pytest.mark.parametrize(("kernel", "size"), [(5, 6), (4, 8)])
def test_a_doubling_layer_is_torchs_transposed_convolution(kernel: int, size: int) -> None:
    """Its bias, added apart, changes neither pictures nor gradients."""
    torch.manual_seed(0)
    layer = Conv(3, 5, kernel, 2, up=True)
    torch.nn.init.normal_(layer.conv.bias)
    x = torch.randn(2, 3, size, size, requires_grad=True)
    wanted = torch.nn.functional.leaky_relu(layer.conv(x)[..., : 2 * size, : 2 * size], 0.01)
    weights = torch.randn_like(wanted)
    inputs = x, layer.conv.weight, layer.conv.bias
    found = layer(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for result, expected in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_networks_compute_what_plain_layers_in_plain_layout_do(channels: int) -> None:
    """Weights whose channels lie side by side, and products for layers of 1x1 and for the slopes of
    one plane, change no result.
    """
    torch.manual_seed(0)
    u, d = build_generator("U", channels, 16), build_critic("dense", channels, 16)
    w = {name: p.detach().contiguous().requires_grad_() for name, p in u.named_parameters()}
    f = torch.nn.functional

    def layer(name: str, x: torch.Tensor, stride: int = 1, pad: tuple = (0, 0)) -> torch.Tensor:
        x = f.pad(x, (*pad, *pad))
        return f.conv2d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], stride)

    def grown(name: str, x: torch.Tensor) -> torch.Tensor:
        y = f.conv_transpose2d(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], 2, 1)
        return f.leaky_relu(y[..., :-1, :-1])

    x = torch.randn(3, channels, 16, 16)
    full = f.leaky_relu(layer("c1", x))
    half = f.leaky_relu(layer("c2", full, 2, (1, 2)))
    code = f.leaky_relu(layer("c3", half, 2, (1, 2)))
    up = grown("d1", f.leaky_relu(layer("c4", code, 1, (1, 1))))
    plain = layer("out", torch.cat([full, grown("d2", torch.cat([half, up], 1))], 1)).tanh()
    torch.testing.assert_close(u(x), plain, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(d(plain).mean(), list(w.values()))
    d.requires_grad_(False)  # as in G's step
    found = torch.autograd.grad(d(u(x)).mean(), list(u.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
