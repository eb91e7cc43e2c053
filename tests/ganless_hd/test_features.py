import pytest
import torch

from eyescream_py.ganless_hd.checkpoints import write_tensors
from eyescream_py.ganless_hd.features import (
    ResNet18Features,
    calibrate,
    frozen,
    load_features,
    random_features,
)
from eyescream_py.ganless_hd.networks import parameter_count
from eyescream_py.system.errors import UserError

PICTURES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_five_taps_with_their_sides_and_channels():
    with torch.no_grad():
        taps = random_features(1.0, seed=0)(PICTURES)
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (64, 16, 24), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)
    ]  # fmt: skip


def test_size_is_that_of_resnet18_without_its_classifier():
    assert parameter_count(ResNet18Features()) == 11_689_512 - 513_000


def test_torchvision_names():
    names = set(ResNet18Features().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight"} <= names
    assert {"layer2.0.downsample.0.weight", "layer4.1.bn2.bias"} <= names
    assert "layer1.0.downsample.0.weight" not in names


def test_calibration_is_the_mean_over_batches():
    network = random_features(0.125, seed=0)
    batches = [PICTURES, PICTURES * 0.5]
    calibrate(network, batches)
    with torch.no_grad():
        means = [network.conv1(batch).mean((0, 2, 3)) for batch in batches]
    torch.testing.assert_close(network.bn1.running_mean, torch.stack(means).mean(0))
    assert not network.training


def test_calibrated_activations_have_unit_size(small_features):
    with torch.no_grad():
        taps = small_features(torch.rand(4, 3, 64, 64) * 2 - 1)
    assert all(0.1 < tap.std() < 10 for tap in taps)


def test_freezing_folds_normalisations_without_changing_activations(small_features):
    with torch.no_grad():
        before = small_features(PICTURES)
        after = frozen(small_features)(PICTURES)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in small_features.modules())


def test_frozen_network_gets_no_gradients_and_stays_as_it_is(small_features):
    network = frozen(small_features)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = PICTURES.clone().requires_grad_()
    torch.stack([tap.mean() for tap in network(x)]).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_loading_a_state_dict(small_features, tmp_path, suffix):
    path = tmp_path / f"resnet{suffix}"
    state = small_features.state_dict() | {"fc.weight": torch.zeros(10, 64)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        write_tensors(path, state, {})
    with torch.no_grad():
        expected, taps = small_features(PICTURES), load_features(path)(PICTURES)
    torch.testing.assert_close(expected, taps, rtol=0, atol=0)


def test_missing_tensors_are_named(small_features, tmp_path):
    state = small_features.state_dict()
    del state["layer3.0.bn1.running_mean"], state["layer4.1.conv2.weight"]
    write_tensors(tmp_path / "half.safetensors", state, {})
    with pytest.raises(UserError) as error:
        load_features(tmp_path / "half.safetensors")
    assert "half.safetensors" in error.value.message
    assert "2 tensors" in error.value.message
    assert "layer3.0.bn1.running_mean, layer4.1.conv2.weight" in error.value.message


def test_tensors_of_another_network_are_named(small_features, tmp_path):
    state = small_features.state_dict() | {"layer2.0.conv1.weight": torch.zeros(16, 8, 1, 1)}
    write_tensors(tmp_path / "other.safetensors", state, {})
    with pytest.raises(UserError, match=r"other sizes .*layer2\.0\.conv1\.weight"):
        load_features(tmp_path / "other.safetensors")
