import pytest
import torch

from eyescream_py.mln.fast import FastNetwork
from eyescream_py.mln.networks import MinimalLinearNetwork, Shape, build_network
from eyescream_py.mln.series import chosen_rows, equal_rows, reconstruct_series
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, random_images, spiral_protocol


def network(**sizes: object) -> MinimalLinearNetwork:
    torch.manual_seed(0)
    shape = Shape(SIDE, SIDE, SIDE / 2, 3, 4, 2, **sizes)  # type: ignore[arg-type]
    return build_network(shape, spiral_protocol().trajectory)


@pytest.mark.parametrize(
    "sizes",
    [
        {"k_grid": "matched"},
        {"k_grid": "matched", "outputs": 2},
        {"k_grid": "legacy"},
        {"k_grid": "matched", "trainable_fourier": True},
        {"k_grid": "matched", "complex_bias": True},
    ],
)
def test_the_fast_form_makes_the_same_images(sizes: dict) -> None:
    slow = network(**sizes)
    fast = FastNetwork(slow)
    assert fast.fused == (set(sizes) <= {"k_grid", "outputs"} and sizes["k_grid"] == "matched")
    signal = random_images(5, 3, 320)
    with torch.no_grad():
        torch.testing.assert_close(fast(signal), slow(signal), rtol=1e-4, atol=1e-5)


def test_half_precision_is_within_a_hundredth() -> None:
    slow, signal = network(k_grid="matched"), random_images(3, 3, 320)
    with torch.no_grad():
        true = slow(signal)
    error = (FastNetwork(slow, half=True)(signal) - true).norm() / true.norm()
    assert 0 < error < 0.01


def test_rows_go_through_in_batches_in_order() -> None:
    signal = torch.arange(7.0)[:, None, None] * torch.ones(7, 2, 3) + 0j
    seen = []

    def method(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part[:, :1, :1, None].expand(-1, 1, 4, 4)

    done = reconstruct_series(method, signal, torch.device("cpu"), 3)
    assert seen == [3, 3, 1]
    assert done.images[:, 0, 0, 0].real.tolist() == list(range(7))
    assert done.seconds > 0


@pytest.mark.parametrize(
    ("rows", "kept"), [("", 5), ("2", 2), ("1:3", 2), (":4", 4), ("3:", 2), ("-1:", 1)]
)
def test_rows_are_chosen_by_count_or_range(rows: str, kept: int) -> None:
    assert len(chosen_rows(torch.ones(5, 1, 1), rows)) == kept


@pytest.mark.parametrize("rows", ["x", "1:2:3", "7:9", "0", "-2"])
def test_rows_that_are_none_are_refused(rows: str) -> None:
    with pytest.raises(UserError, match="--rows"):
        chosen_rows(torch.ones(5, 1, 1), rows)


def test_rows_of_zeros_are_refused() -> None:
    signal = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    with pytest.raises(UserError, match="--rows 2: these rows are zero"):
        chosen_rows(signal, "2")
    assert len(chosen_rows(signal, "3")) == 3


def test_equal_rows_are_noticed() -> None:
    row = random_images(1, 2, 3)
    assert equal_rows(row.expand(4, -1, -1))
    assert not equal_rows(row)
    assert not equal_rows(random_images(2, 2, 3))
