"""EfficientNet-Lite0 against facts about photographs that scikit-image ships."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from eyescream_py import features
from eyescream_py.features import lite0
from eyescream_py.features.lite0 import EfficientNetLite0, SameConv2d


@pytest.fixture(scope="module")
def network() -> features.FeatureNetwork:
    return features.load("lite0")


def prepared(photo: np.ndarray) -> torch.Tensor:
    """The middle seven eighths at 224 px, as the network was trained: (1, 3, 224, 224)."""
    image = Image.fromarray(photo).convert("RGB")
    side = int(min(image.size) * 0.875)
    left, top = ((length - side) // 2 for length in image.size)
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
    return pixels / 127.5 - 1


# The classes of ImageNet-1k: 281, 282, 285 tabby, tiger cat, Egyptian cat; 967 espresso; 657, 744
# missile, projectile; 872 tripod.
@pytest.mark.parametrize(
    ("photo", "classes", "least"),
    [
        ("chelsea", (281, 282, 285), 0.8),
        ("coffee", (967,), 0.9),
        ("rocket", (657, 744), 0.4),
        ("camera", (872,), 0.9),
    ],
)
def test_photographs_get_their_imagenet_class(network, photo, classes, least):
    with torch.no_grad():
        said = network.classify(prepared(getattr(skimage.data, photo)()))[0]
    assert said.argmax() in classes
    assert said[list(classes)].sum() > least


def test_size_is_the_published_one(network):
    assert sum(p.numel() for p in network.parameters()) == 4_652_008


def test_taps_at_five_strides(network):
    with torch.no_grad():
        taps = network(torch.zeros(1, 3, 64, 96))
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)
    ]  # fmt: skip


def test_a_tap_is_what_the_next_stride_reads(network):
    """The last block at each stride; the last block of all."""
    given, blocks = {}, list(network._blocks)
    hooks = [
        block.register_forward_pre_hook(lambda _, x, n=number: given.setdefault(n, x[0].clone()))
        for number, block in enumerate(blocks)
    ]
    with torch.no_grad():
        taps = network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    for hook in hooks:
        hook.remove()
    halving = [n for n in range(1, 16) if blocks[n]._depthwise_conv.stride == (2, 2)]
    assert len(halving) == 4
    for tap, number in zip(taps, halving, strict=False):
        assert torch.equal(tap, given[number])
    with torch.no_grad():
        torch.testing.assert_close(taps[-1], blocks[-1](given[15]))


def test_padding_puts_the_odd_pixel_behind():
    """An even side at stride 2: TensorFlow pads nothing before and one pixel behind for a 3x3."""
    conv = SameConv2d(1, 1, 3, stride=2)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[None, None])
        x = torch.arange(16.0).view(1, 1, 4, 4)
        got = conv(x)[0, 0]
    # rows and columns 0, 2 are where the windows begin; what lies outside counts as 0
    expected = [[0 + 5 + 10, 2 + 7], [8 + 13, 10 + 15]]
    assert got.tolist() == expected


@pytest.mark.parametrize("side", [5, 6, 7, 8])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stride_halves_rounding_up(side, kernel):
    out = SameConv2d(1, 1, kernel, stride=2)(torch.zeros(1, 1, side, side + 1))
    assert out.shape[-2:] == (-(-side // 2), -(-(side + 1) // 2))


def test_freezing_changes_nothing_that_is_seen():
    network = features.load("lite0")
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before, seen = network(pictures), network.vectors(pictures)
        features.frozen(network)
        torch.testing.assert_close(network(pictures), before, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(network.vectors(pictures), seen, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_every_tensor_of_the_package_is_used(network):
    held = torch.load(lite0.installed_file(), weights_only=True)
    assert set(held) == set(EfficientNetLite0().state_dict())
    assert sum(t.numel() for t in held.values()) == 4_694_073
