import pytest
import torch

from eyescream_py import features
from eyescream_py.features import lite0
from eyescream_py.system.errors import UserError


def test_auto_takes_the_trained_network_and_says_so():
    assert features.chosen("auto") == "lite0"
    assert features.load("auto").title == "EfficientNet-Lite0, trained on ImageNet"


def test_without_the_package_auto_is_random_and_says_so(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "a_package_that_is_not_there")
    assert features.chosen("auto") == "random"
    network = features.load("auto", width=0.125, seed=3)
    assert network.title == "a RANDOM ResNet-18 (seed 3, width 0.125)"
    with pytest.raises(UserError, match="--features=lite0: is not installed; pip install eff"):
        features.load("lite0")


def test_random_networks_depend_on_the_seed_alone():
    first, same, other = (features.load("random", width=0.1, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.conv1.weight, same.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_a_file_is_recognised_by_its_tensors(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(features.load("lite0").state_dict(), path)
    assert features.load(str(path)).title == f"EfficientNet-Lite0, trained on ImageNet from {path}"


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match="--features=resnet: no such file, and none of auto, lite0"):
        features.load("resnet")


def test_a_random_judge_is_calibrated_on_the_real_pictures(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "a_package_that_is_not_there")
    real = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    network = features.judge("auto", real)
    assert "RANDOM" in network.title
    found = features.compared(network, real, {"same": real, "dark": real / 3})
    assert found.side == 112
    assert found.frechet["same"] == pytest.approx(0, abs=1e-4)
    assert found.frechet["same"] < found.frechet["dark"]
