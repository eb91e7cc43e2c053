import pytest
import torch

from eyescream_py import features
from eyescream_py.features.resnet import ResNet18, random_resnet
from eyescream_py.system.errors import UserError

PICTURES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture
def small() -> ResNet18:
    """A calibrated random ResNet-18 of 1/8 width, not yet frozen."""
    network = random_resnet(0.125, seed=1)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2)]
    features.calibrate(network, batches)
    return network


def test_five_taps_with_their_sides_and_channels():
    with torch.no_grad():
        taps = random_resnet().eval()(PICTURES)
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (64, 16, 24), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)
    ]  # fmt: skip


def test_size_is_that_of_resnet18_without_its_classifier():
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_689_512 - 513_000


def test_torchvision_names():
    names = set(ResNet18().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight"} <= names
    assert {"layer2.0.downsample.0.weight", "layer4.1.bn2.bias"} <= names
    assert "layer1.0.downsample.0.weight" not in names


def test_calibration_is_the_mean_over_batches():
    network = random_resnet(0.125, seed=0)
    batches = [PICTURES, PICTURES * 0.5]
    features.calibrate(network, batches)
    with torch.no_grad():
        means = [network.conv1(batch).mean((0, 2, 3)) for batch in batches]
    torch.testing.assert_close(network.bn1.running_mean, torch.stack(means).mean(0))
    assert not network.training


def test_calibrated_activations_have_unit_size(small):
    with torch.no_grad():
        taps = small(torch.rand(4, 3, 64, 64) * 2 - 1)
    assert all(0.1 < tap.std() < 10 for tap in taps)


def test_freezing_folds_normalisations_without_changing_activations(small):
    with torch.no_grad():
        before = small(PICTURES)
        after = features.frozen(small)(PICTURES)
        again = features.frozen(small)(PICTURES)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after, again, rtol=0, atol=0)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in small.modules())


def test_frozen_network_gets_no_gradients_and_stays_as_it_is(small):
    network = features.frozen(small)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = PICTURES.clone().requires_grad_()
    torch.stack([tap.mean() for tap in network(x)]).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("width", [0.1, 0.125, 0.3])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_of_any_width_comes_back(tmp_path, width, legacy):
    network = random_resnet(width, seed=2).eval()
    path = tmp_path / "resnet.pth"
    state = network.state_dict() | {"head.weight": torch.zeros(10, 64)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with torch.no_grad():
        expected, taps = network(PICTURES), features.load(str(path))(PICTURES)
    torch.testing.assert_close(expected, taps, rtol=0, atol=0)


def test_missing_tensors_are_named(small, tmp_path):
    state = small.state_dict()
    del state["layer3.0.bn1.running_mean"], state["layer4.1.conv1.weight"]
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(UserError) as error:
        features.load(str(tmp_path / "half.pth"))
    assert "half.pth: not a ResNet18 state dict, 2 tensors" in error.value.message
    assert "layer3.0.bn1.running_mean, layer4.1.conv1.weight" in error.value.message


def test_tensors_of_another_network_are_named(small, tmp_path):
    state = small.state_dict() | {"layer2.0.conv1.weight": torch.zeros(16, 8, 1, 1)}
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other sizes .*layer2\.0\.conv1\.weight"):
        features.load(str(tmp_path / "other.pth"))


def test_a_trained_classifiers_network_normalises_its_pictures_and_keeps_to_it(tmp_path, small):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    trained = {**small.state_dict(), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    torch.save(trained, tmp_path / "trained.pth")
    torch.save(small.state_dict(), tmp_path / "bare.pth")
    network = features.load(str(tmp_path / "trained.pth"))
    torch.save(network.state_dict(), tmp_path / "saved.pth")
    with torch.no_grad():
        wanted = small.eval()(((PICTURES + 1) / 2 - mean) / std)
        for name in ("trained.pth", "saved.pth"):
            found = features.frozen(features.load(str(tmp_path / name)))(PICTURES)
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            features.load(str(tmp_path / "bare.pth"))(PICTURES), small(PICTURES)
        )


def test_shortcuts_of_any_widths():
    taps = ResNet18((2, 3, 3, 4, 4))(torch.zeros(1, 3, 64, 64))
    assert [tuple(tap.shape[1:3]) for tap in taps] == [(2, 16), (3, 16), (3, 8), (4, 4), (4, 2)]
