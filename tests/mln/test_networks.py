import numpy as np
import pytest
import torch

from eyescream_py.mln.networks import (
    MinimalLinearNetwork,
    Shape,
    build_network,
    fourier_matrix,
    grid_line,
    neighbour_table,
    tensor_sizes,
    to_label,
)
from eyescream_py.mln.trajectories import spiral
from tests.mln.small import random_images

SHAPE = Shape(image_side=12, grid_side=10, k_max=5.0, coils=3, neighbours=4, segments=2)
TRAJECTORY = spiral(150, 4, 6)


def network(**changes: object) -> MinimalLinearNetwork:
    torch.manual_seed(0)
    return build_network(Shape(**{**SHAPE.__dict__, **changes}), TRAJECTORY)


def test_neighbours_are_the_nearest_in_order_and_rows_follow_the_first_axis() -> None:
    table = neighbour_table(TRAJECTORY, SHAPE)
    line = grid_line(SHAPE)
    assert line[0] == -5 + 0.5
    for i, l in ((0, 0), (2, 7), (9, 5)):  # noqa: E741
        distance = np.hypot(TRAJECTORY[0] - line[i], TRAJECTORY[1] - line[l])
        expected = np.argsort(distance, kind="stable")[:4]
        np.testing.assert_array_equal(table[i * 10 + l], expected)


def test_equal_distances_go_by_index() -> None:
    points = np.array([[1.0, -1.0, 0.0, 0.0, 5.0], [0.0, 0.0, 1.0, -1.0, 5.0]])
    shape = Shape(2, 2, 1.0, 1, 3, 1, k_grid="matched")
    table = neighbour_table(points, shape)
    np.testing.assert_array_equal(table[3], [0, 1, 2])  # the grid point (0, 0)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="4 neighbours"):
        neighbour_table(TRAJECTORY[:, :3], SHAPE)


def test_fourier_matrices() -> None:
    legacy = fourier_matrix(SHAPE)
    f, h = np.linspace(-5, 5, 10)[3], 7
    assert legacy[3, h] == pytest.approx(
        np.exp(1j * f * (-np.pi + np.pi / 12 + 2 * np.pi * h / 12))
    )
    matched = fourier_matrix(Shape(12, 12, 6.0, 1, 1, 1, k_grid="matched"))
    np.testing.assert_allclose(matched @ matched.conj().T, 12 * np.eye(12), atol=1e-12)


def by_hand(net: MinimalLinearNetwork, signal: np.ndarray) -> np.ndarray:
    """The table of formulas with four real products per complex one, as the original multiplied."""
    shape, index = net.shape, net.k_layer.index.numpy()
    r, left = net.k_layer.weight.detach().numpy(), net.i_layer.weight.detach().numpy()
    gathered = signal[:, :, index].transpose(0, 2, 3, 1).reshape(len(signal), len(index), -1)

    def product(equation: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        real = np.einsum(equation, a.real, b.real) - np.einsum(equation, a.imag, b.imag)
        imag = np.einsum(equation, a.real, b.imag) + np.einsum(equation, a.imag, b.real)
        return real + 1j * imag

    grid = product("blp,lpt->blt", gathered, r).reshape(
        -1, shape.grid_side, shape.grid_side, r.shape[-1]
    )
    matrix = fourier_matrix(shape)
    images = product("ih,bilt->bhlt", matrix, grid)
    images = product("lw,bhlt->bhwt", matrix, images)
    return product("bhwt,hwto->bohw", images, left)


@pytest.mark.parametrize("memory", [1 << 26, 4096])
def test_forward_is_the_formula_in_four_real_products(memory: int) -> None:
    net = network(outputs=2, memory=memory)
    signal = random_images(3, 3, TRAJECTORY.shape[1])
    with torch.no_grad():
        output = net(signal).numpy()
    expected = by_hand(net, signal.numpy())
    assert output.shape == (3, 2, 12, 12)
    np.testing.assert_allclose(output, expected, atol=2e-5 * np.abs(expected).max())


def test_linearity() -> None:
    net = network()
    one, two = random_images(2, 3, 150), random_images(2, 3, 150, seed=1)
    a, b = 0.3 - 1.2j, -2.0 + 0.5j
    with torch.no_grad():
        torch.testing.assert_close(
            net(a * one + b * two), a * net(one) + b * net(two), rtol=1e-4, atol=1e-4
        )
        assert net(torch.zeros_like(one)).abs().max() == 0


def test_first_weights_are_truncated_normals() -> None:
    net = network()
    for weight in (net.k_layer.weight, net.i_layer.weight):
        count = 100 * 12 * 2 if weight is net.k_layer.weight else 144 * 2
        sigma = count**-0.25
        parts = torch.view_as_real(weight.detach())
        assert parts.abs().max() <= 2 * sigma
        assert parts.std().item() == pytest.approx(
            0.88 * sigma, rel=0.1
        )  # of a normal cut at 2 sigma


def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        net = MinimalLinearNetwork(Shape(128, 128, 56.0, 8, 12, 7), torch.empty(128**2, 12))
    assert net.k_layer.weight.numel() == 11_010_048
    assert net.i_layer.weight.numel() == 114_688


@pytest.mark.parametrize(
    "trained",
    [
        {},
        {"trainable_fourier": True, "shared_fourier": True},
        {"trainable_fourier": True, "shared_fourier": False},
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_sizes_by_arithmetic_are_the_stored_tensors(trained: dict, bias: bool) -> None:
    net = network(outputs=2, complex_bias=bias, **trained)
    stored = {
        name: tuple((torch.view_as_real(value) if value.is_complex() else value).shape)
        for name, value in net.state_dict().items()
    }
    assert tensor_sizes(net.shape) == stored


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"k_layer.weight", "i_layer.weight"}),
        ({"trainable_fourier": True},
         {"k_layer.weight", "i_layer.weight", "rows.matrix", "columns.matrix"}),
        ({"trainable_fourier": True, "complex_bias": True},
         {"k_layer.weight", "i_layer.weight", "rows.matrix", "columns.matrix", "rows.bias",
          "columns.bias"}),
        ({"trainable_fourier": True, "shared_fourier": False},
         {"k_layer.weight", "i_layer.weight", "rows.matrix", "columns.matrix"}),
    ],
)  # fmt: skip
def test_gradients_reach_what_is_trained_and_nothing_else(changes: dict, names: set[str]) -> None:
    net = network(**changes)
    output = net(random_images(2, 3, 150))
    assert output.shape == (2, 1, 12, 12)
    output.abs().sum().backward()
    assert {name for name, value in net.named_parameters() if value.grad is not None} == names
    assert all(value.grad.abs().max() > 0 for value in net.parameters())


def test_mixing_layers_collapse_the_segments() -> None:
    net = network(trainable_fourier=True, shared_fourier=False)
    assert net.columns.matrix.shape == (20, 12)
    assert net.rows.matrix.shape == (10, 12)
    assert net.i_layer.weight.shape == (12, 12, 1, 1)


def test_chunked_gather_passes_finite_differences() -> None:
    from eyescream_py.mln.networks import _GatherMultiply

    index = torch.tensor([[0, 2], [1, 1], [4, 0]])
    signal = random_images(5, 2, 3, dtype=torch.complex128).requires_grad_(True)
    weight = random_images(3, 4, 2, seed=1, dtype=torch.complex128).requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda s, w: _GatherMultiply.apply(s, w, index, 1), (signal, weight)
    )


def test_phase_only_penalty_is_zero_for_pure_phases() -> None:
    net = network(trainable_fourier=True)
    assert net.phase_only_penalty().item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        net.rows.matrix.mul_(1.5)
    assert net.phase_only_penalty().item() == pytest.approx(0.5, abs=1e-5)


def test_label_layout_puts_outputs_side_by_side() -> None:
    images = random_images(2, 3, 4, 4)
    label = to_label(images)
    assert label.shape == (2, 4, 12, 2)
    assert label[1, 2, 4 + 3, 1] == images[1, 1, 2, 3].imag
    for number, output in enumerate(images.unbind(1)):
        assert torch.equal(torch.view_as_complex(label)[..., 4 * number : 4 * number + 4], output)
