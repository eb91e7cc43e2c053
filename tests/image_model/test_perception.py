from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py import features
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions
from eyescream_py.image_model.perception import PerceptualLoss
from eyescream_py.image_model.training import ImageModel, check_options, load_domains
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")


def pictures(channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, 32, 32, generator=torch.manual_seed(0)) - 0.5


@pytest.fixture(scope="module")
def loss() -> PerceptualLoss:
    network = features.load("random", width=0.25)
    features.calibrate(network, [2 * pictures()])
    return PerceptualLoss(features.frozen(network))


def test_equal_pictures_cost_nothing_and_the_more_they_differ_the_more(loss) -> None:
    truth = pictures()
    costs = [loss(truth + far * torch.randn_like(truth), truth).item() for far in (0, 0.1, 0.5)]
    assert costs[0] == 0
    assert 0 < costs[1] < costs[2]


def test_it_is_the_mean_over_maps_of_their_relative_difference(loss) -> None:
    output, truth = pictures(1), pictures(1).flip(-1)
    maps = [loss.network(2 * side.expand(-1, 3, -1, -1)) for side in (output, truth)]
    ratios = [((a - b).abs().mean() / b.abs().mean()).item() for a, b in zip(*maps, strict=True)]
    assert loss(output, truth).item() == pytest.approx(np.mean(ratios), rel=1e-5)


def test_only_the_output_gets_slopes(loss) -> None:
    output, truth = (p.requires_grad_() for p in (pictures(), pictures().flip(-1)))
    loss(output, truth).backward()
    assert output.grad.abs().sum() > 0
    assert truth.grad is None
    assert all(p.grad is None for p in loss.network.parameters())


def test_the_weight_scales_the_step_and_not_the_report(heads: Path) -> None:
    image = ImageOptions(batch_size=4, image_size=16)
    found = []
    for weight in (0.0, 0.1, 10.0):
        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        options = ModelOptions(nd_dir=str(heads / "Faces_ND"), use_gan=False, l1=True, llr=1e-5,
                               use_nd_l1=True, features_loss=weight, features="random")  # fmt: skip
        domains = load_domains(options, image, rng, CPU)
        model = ImageModel(options, image, GanOptions(), domains, rng, CPU)
        before = [p.detach().clone() for p in model.generator.parameters()]
        batch = tuple(side[:4].float() / 255 - 0.5 for side in domains.pairs.sides)
        report = model.l1_step(*batch)
        pairs = zip(model.generator.parameters(), before, strict=True)
        found.append((report, sum((a - b).norm() for a, b in pairs).item()))
    assert model.l1_step(*batch)["features"] < report["features"]
    (plain, _), (light, near), (heavy, far) = found
    assert list(plain) == ["L1"]
    assert plain["L1"] == light["L1"] == heavy["L1"]
    assert light["features"] == heavy["features"] > 0
    assert far > 2 * near


def test_a_random_network_draws_none_of_the_runs_numbers_and_is_calibrated_on_targets() -> None:
    targets = [pictures(), pictures().flip(0)]
    before = torch.get_rng_state()
    loss = PerceptualLoss.load("random", targets, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    known = features.load("random")
    features.calibrate(known, [2 * batch for batch in targets])
    for found, wanted in zip(
        loss.network(pictures()), features.frozen(known)(pictures()), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_it_is_part_of_l1() -> None:
    with pytest.raises(UserError, match="--features_loss: is a part of --L1"):
        check_options(ModelOptions(features_loss=1), ImageOptions())


def test_an_unknown_network_is_named(heads: Path) -> None:
    with pytest.raises(UserError, match="--features=no/such: no such file"):
        PerceptualLoss.load("no/such", [], CPU)
