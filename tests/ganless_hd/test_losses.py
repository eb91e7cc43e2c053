import numpy as np
import pytest
import torch

from eyescream_py.features import frozen
from eyescream_py.ganless_hd.losses import PerceptualLoss, pearson
from eyescream_py.ganless_hd.options import CHOICES

GENERATOR = torch.Generator().manual_seed(7)
A = torch.randn(3, 4, 6, 5, generator=GENERATOR)
B = torch.randn(3, 4, 6, 5, generator=GENERATOR) + 0.5 * A


@pytest.mark.parametrize("scope", CHOICES["pearson"])
def test_correlation_with_itself_is_one(scope):
    assert pearson(A, A, scope).item() == pytest.approx(1, abs=1e-5)
    assert pearson(A, -A, scope).item() == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("scope", CHOICES["pearson"])
def test_scale_and_shift_of_the_whole_change_nothing(scope):
    torch.testing.assert_close(pearson(3 * A + 8, B, scope), pearson(A, B, scope))
    torch.testing.assert_close(pearson(A, 0.2 * B - 1, scope), pearson(A, B, scope))


def test_scopes_equal_numpy_over_the_same_groups():
    def mean_corrcoef(a, b):
        return np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])

    rows = {"global": (1, -1), "sample": (3, -1), "channel": (12, -1)}
    for scope, shape in rows.items():
        expected = mean_corrcoef(A.reshape(shape).numpy(), B.reshape(shape).numpy())
        assert pearson(A, B, scope).item() == pytest.approx(expected, abs=1e-5)


def test_only_the_global_scope_sees_levels_of_channels():
    levels = torch.arange(4.0).view(1, 4, 1, 1) * 100
    assert pearson(A + levels, -A + levels, "global") > 0.99
    assert pearson(A + levels, -A + levels, "channel") < -0.99


@pytest.mark.parametrize("scope", CHOICES["pearson"])
def test_constant_activations_are_finite(scope):
    x = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    value = pearson(x, B[:2, :3, :4, :4], scope)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-3)
    assert x.grad.isfinite().all()
    assert pearson(B, torch.ones_like(B), scope).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture
def loss(small_features):
    return PerceptualLoss(frozen(small_features))


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_identical_pictures_reach_the_lowest_value(loss):
    parts = loss(pictures(0), loss.reference(pictures(0)))
    assert parts.features.item() == pytest.approx(-5, abs=1e-3)
    assert parts.pixels == 0
    assert parts.total == parts.features


def test_parts_equal_their_definition(loss):
    outputs, targets = pictures(1), pictures(2)
    parts = loss(outputs, loss.reference(targets))
    taps = zip(loss.features(outputs), loss.features(targets), strict=True)
    expected = -sum(
        np.corrcoef(a.detach().flatten().numpy(), b.detach().flatten().numpy())[0, 1]
        for a, b in taps
    )
    assert parts.features.item() == pytest.approx(expected, abs=1e-4)
    assert parts.pixels.item() == pytest.approx((outputs - targets).square().mean().item())
    torch.testing.assert_close(parts.total, parts.features + parts.pixels)


def test_reference_has_no_graph(loss):
    targets = pictures(3).requires_grad_()
    assert not any(rows.requires_grad for rows in loss.reference(targets).activations)
