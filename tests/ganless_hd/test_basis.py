import pytest
import torch

from eyescream_py.ganless_hd.basis import analytic_basis, basis_of_filters
from eyescream_py.system.errors import UserError


def test_analytic_basis_is_orthonormal():
    basis = analytic_basis()
    assert basis.shape == (3, 9)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3))


def test_analytic_patterns():
    blur, vertical, horizontal = analytic_basis().view(3, 3, 3)
    assert blur.unique().numel() == 1
    torch.testing.assert_close(vertical, -vertical.flip(0))
    torch.testing.assert_close(horizontal, vertical.T)
    assert vertical[1].abs().max() == 0


def test_svd_finds_the_space_that_filters_are_made_of():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.linalg.qr(torch.randn(9, 3, generator=generator))[0].T
    strength = torch.tensor([3.0, 2.0, 1.0])
    mixes = torch.randn(200, 3, generator=generator) * strength
    bank = (mixes @ patterns).view(20, 10, 3, 3)
    basis = basis_of_filters({"conv.weight": bank, "other": torch.zeros(4, 4, 1, 1)})
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
    assert (basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all()
    _, _, expected = torch.linalg.svd(bank.view(-1, 9), full_matrices=False)
    torch.testing.assert_close(
        (basis * expected[:3]).sum(1).abs(), torch.ones(3), atol=1e-4, rtol=0
    )


def test_a_file_without_filters_is_named():
    with pytest.raises(UserError, match=r"nets\.pth: no 3x3 filters"):
        basis_of_filters({"fc.weight": torch.zeros(5, 5)}, "nets.pth")
