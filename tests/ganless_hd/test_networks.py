import pytest
import torch
import torch.nn.functional as F

from eyescream_py.ganless_hd.basis import analytic_basis
from eyescream_py.ganless_hd.networks import BasisConv2d, UNet, encode, parameter_count


def conv(inputs: int = 5, outputs: int = 4) -> BasisConv2d:
    module = BasisConv2d(inputs, outputs, analytic_basis(), std=0.3)
    module.reset(torch.Generator().manual_seed(0))
    return module


def test_parameter_counts():
    assert parameter_count(UNet()) == 7_860_162
    assert parameter_count(UNet(0.125)) == 123_678


def test_published_names_and_sizes():
    state = UNet().state_dict()
    assert len(state) == 13 * 3 + 2
    assert state["encoderLevels.0.params"].shape == (64 * 3, 1, 3)
    assert state["decoderLevels.0.node.params"].shape == (32 * 128, 1, 3)
    assert state["decoderLevels.5.node.params"].shape == (256 * 1024, 1, 3)
    assert state["finalDecoder.basisWeights"].shape == (3, 9)
    assert state["collapse.weight"].shape == (3, 32, 1, 1)


def test_start_values():
    network = UNet(seed=4)
    assert network.encoderLevels[3].params.std().item() == pytest.approx(0.02, rel=0.01)
    assert network.encoderLevels[3].bias.abs().max() == 0
    torch.testing.assert_close(network.finalDecoder.basisWeights, analytic_basis())
    narrow = UNet(0.5).encoderLevels[3]
    assert narrow.params.std().item() == pytest.approx((3 * narrow.inputs) ** -0.5, rel=0.02)


def test_seed_decides_the_start_values():
    first, again, other = (UNet(0.125, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoderLevels.2.params"], other["encoderLevels.2.params"])
    assert not torch.equal(first["collapse.bias"], other["collapse.bias"])


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 4), (4, 6)])
def test_basis_conv_equals_a_convolution_with_kernels_built_one_by_one(inputs, outputs):
    module = conv(inputs, outputs)
    module.bias.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, inputs, 9, 7, generator=torch.Generator().manual_seed(1))
    kernel = torch.zeros(outputs, inputs, 3, 3)
    for o in range(outputs):
        for i in range(inputs):
            for k in range(3):
                pattern = module.basisWeights[k].view(3, 3)
                kernel[o, i] += module.params[o * inputs + i, 0, k] * pattern
    expected = F.conv2d(x, kernel, module.bias, padding=1)
    torch.testing.assert_close(module(x, module.kernel()), expected)
    torch.testing.assert_close(module(x), expected)


def test_wide_layers_are_factored_on_the_cpu():
    x = torch.zeros(1)
    assert conv(128, 200).kernel_for(x) is None
    assert conv(128, 127).kernel_for(x).shape == (127, 128, 3, 3)
    assert conv(128, 200).kernel_for(torch.zeros(1, device="meta")).shape == (200, 128, 3, 3)


def test_kernels_lie_in_the_span_of_the_basis():
    kernels = conv().kernel().detach().reshape(-1, 9)
    basis = analytic_basis()
    torch.testing.assert_close(kernels @ basis.T @ basis, kernels)
    assert torch.linalg.matrix_rank(kernels) == 3


def test_gradients_reach_every_parameter():
    network = UNet(0.0625)
    network(torch.rand(1, 3, 64, 64) * 2 - 1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_pooling_before_selu_is_the_published_order():
    module, x = conv(3, 4), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for kernel in (module.kernel(), None):
        published = F.max_pool2d(F.selu(module(x, kernel)), 2)
        assert torch.equal(encode(module, x, kernel), published)


@pytest.mark.parametrize("sides", [(64, 64), (128, 128), (64, 192)])
def test_output_has_the_size_of_the_input(sides):
    output = UNet(0.0625)(torch.rand(2, 3, *sides) * 2 - 1)
    assert output.shape == (2, 3, *sides)
    assert output.dtype == torch.float32
    assert output.abs().max() <= 1


def test_output_size_512():
    with torch.no_grad():
        assert UNet(0.0625)(torch.zeros(1, 3, 512, 512)).shape == (1, 3, 512, 512)


def test_size_that_is_no_multiple_of_64_is_rejected():
    with pytest.raises(ValueError, match="100x64 pixels: both sides must be multiples of 64"):
        UNet(0.0625)(torch.zeros(1, 3, 64, 100))


def test_recomputing_changes_no_gradient():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gradients = []
    for recompute in (False, True):
        network = UNet(0.0625, recompute=recompute)
        network(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_nothing_depends_on_pixels_256_or_more_away():
    """What painting in tiles relies on."""
    network = UNet(0.03125)
    x = torch.zeros(1, 3, 64, 704, requires_grad=True)
    network(x)[..., 320:384].sum().backward()
    reach = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert reach.min() > 320 - 256
    assert reach.max() < 384 + 256


def test_the_whole_network_is_the_published_one_written_out():
    """As a published checkpoint needs it: skips first, pixels doubled, SELU everywhere, tanh."""
    network = UNet(0.0625, seed=5)
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(3)) * 2 - 1

    def level(conv: BasisConv2d, x: torch.Tensor) -> torch.Tensor:
        return F.selu(F.conv2d(x, conv.kernel(), conv.bias, padding=1))

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(len(name)))
        skips = [x]
        for conv in network.encoderLevels:
            skips.append(F.max_pool2d(level(conv, skips[-1]), 2))
        y = skips.pop()
        for number in range(5, -1, -1):
            y = level(network.decoderLevels[number].node, y)
            y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
            y = torch.cat([skips[number], y], 1) if number else y
        expected = network.collapse(level(network.finalDecoder, y)).tanh()
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
