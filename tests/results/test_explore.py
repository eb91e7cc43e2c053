"""The arithmetic of `sample.py --explore`: directions, the way between two faces, exact ends."""

import math

import pytest
import torch
from torch import nn

from eyescream_py import load_generator
from eyescream_py.results.explore import (
    DIRECTIONS,
    NOISE_DEVIATION,
    Explorer,
    Place,
    between,
    enlarged,
    main_directions,
)
from eyescream_py.results.generator import Generator, described
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.shapes import View
from tests.golden_data import GOLDEN

STILL = (0.0,) * DIRECTIONS


@pytest.fixture(scope="module", params=["faces16", "faces32"])
def faces(request) -> Explorer:
    return Explorer(load_generator(f"pretrained:{request.param}"))


def small_G(*first: nn.Module) -> Generator:
    torch.manual_seed(3)
    layers = first or (nn.Linear(6, 9),)
    network = nn.Sequential(*layers, nn.PReLU(), nn.Linear(9, 12), nn.Sigmoid(), View(3, 2, 2))
    return described(network.eval(), "test")


class TestDirections:
    def test_they_are_orthonormal(self, faces):
        gram = faces.directions.double() @ faces.directions.double().T
        torch.testing.assert_close(gram, torch.eye(DIRECTIONS).double(), atol=1e-5, rtol=0)

    def test_they_are_the_eigenvectors_of_the_largest_eigenvalues(self, faces):
        weights = next(faces.G.network.parameters()).detach().double()
        values, vectors = torch.linalg.eigh(weights.T @ weights)
        largest = vectors.T.flip(0)[:DIRECTIONS]
        overlap = (largest * faces.directions.double()).sum(1).abs()
        torch.testing.assert_close(overlap, torch.ones(DIRECTIONS).double(), atol=1e-4, rtol=0)
        lengths = (weights @ faces.directions.double().T).norm(dim=0)
        torch.testing.assert_close(lengths**2, values.flip(0)[:DIRECTIONS], atol=1e-3, rtol=1e-4)

    def test_the_largest_entry_is_positive(self, faces):
        for direction in faces.directions:
            assert direction[direction.abs().argmax()] > 0

    def test_they_change_faces_more_than_random_ones(self, faces):
        torch.manual_seed(1)
        noise = faces.G.noise(50, 3)
        random = nn.functional.normalize(torch.randn(DIRECTIONS, faces.G.noise_dim))

        def change(directions):
            moved = [faces.G.network(noise + NOISE_DEVIATION * d) for d in directions]
            return sum((m - faces.G.network(noise)).square().mean().sqrt() for m in moved)

        with torch.inference_mode():
            assert change(faces.directions) > 2 * change(random)

    def test_no_more_than_the_noise_is_long(self):
        assert Explorer(small_G()).directions.shape == (6, 6)

    def test_layers_without_weights_may_come_first(self):
        G = small_G(nn.Identity(), nn.Linear(6, 9))
        assert main_directions(G.network, 2).shape == (2, 6)

    @pytest.mark.parametrize("first", [nn.Conv2d(3, 4, 3), nn.BatchNorm1d(6), nn.PReLU()])
    def test_another_first_layer_is_said(self, first):
        with pytest.raises(UserError, match=f"begins with {type(first).__name__}"):
            main_directions(nn.Sequential(first, nn.Linear(6, 9)), 2)

    def test_numbers_that_are_none_are_said(self):
        G = small_G()
        G.network[0].weight.data[0, 0] = float("nan")
        with pytest.raises(UserError, match="weights of G are no finite numbers"):
            main_directions(G.network, 3)


class TestFaces:
    def test_at_rest_it_is_the_seed_s_own_face(self, faces):
        for seed in (0, 1, 77):
            assert torch.equal(faces.face(Place(seed, 5, 0, STILL)), faces.G.sample(1, seed))

    def test_the_ends_are_both_faces(self, faces):
        assert torch.equal(faces.face(Place(3, 8, 1, STILL)), faces.G.sample(1, 8))
        assert torch.equal(faces.noise(Place(3, 8, 0, STILL)), faces.G.noise(1, 3))
        assert torch.equal(faces.noise(Place(3, 8, 1, STILL)), faces.G.noise(1, 8))

    def test_a_step_is_a_standard_deviation_of_the_noise(self, faces):
        steps = (1.5, 0.0, -2.0, *STILL[3:])
        moved = faces.noise(Place(3, 8, 0, steps)) - faces.G.noise(1, 3)
        along = (moved @ faces.directions.T)[0] / NOISE_DEVIATION
        torch.testing.assert_close(along, torch.tensor(steps), atol=1e-4, rtol=0)
        measured = faces.G.noise(20_000, 1).std()
        assert float(measured) == pytest.approx(NOISE_DEVIATION, rel=0.01)

    def test_the_way_passes_through_what_the_slider_shows(self, faces):
        place = Place(2, 9, 0.3, (1.0, *STILL[1:]))
        way = faces.way(place, 5)
        for index, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
            face = faces.face(Place(2, 9, t, place.steps))[0]
            torch.testing.assert_close(way[index], face, atol=1e-5, rtol=0)

    def test_the_chart_s_faces_are_those_of_their_seeds(self, faces):
        chart = faces.seeds(4, 3)
        torch.testing.assert_close(chart[2:], faces.G.sample(1, 6), atol=1e-5, rtol=0)


class TestBetween:
    @pytest.mark.parametrize("angle", [math.pi / 2, math.pi / 4])
    def test_an_arc_keeps_the_length(self, angle):
        a, b, third = (
            torch.tensor([[2 * math.cos(x), 2 * math.sin(x), 0]]) for x in (0, angle, angle / 3)
        )
        torch.testing.assert_close(between(a, b, 1 / 3), third)

    @pytest.mark.parametrize("factor", [1.0, -1.0, 0.5])
    def test_along_one_line_it_is_straight(self, factor):
        a = torch.tensor([[1.0, -2, 3]])
        torch.testing.assert_close(between(a, factor * a, 0.5), (1 + factor) / 2 * a)


@pytest.mark.parametrize("name", ["adversarial_mini", "upsampling_generator_mini"])
def test_generators_that_lua_torch_wrote(name):
    explorer = Explorer(load_generator(GOLDEN / f"{name}.net"))
    still = (0.0,) * len(explorer.directions)
    assert torch.equal(explorer.face(Place(1, 2, 0, still)), explorer.G.sample(1, 1))
    moved = explorer.face(Place(1, 2, 0, (2.0, *still[1:])))
    assert not torch.equal(moved, explorer.G.sample(1, 1))


def test_enlarged_pictures_stay_pictures():
    pictures = torch.rand(2, 3, 4, 8)
    large = enlarged(pictures, 44)
    assert large.shape == (2, 3, 22, 44)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1
    torch.testing.assert_close(enlarged(pictures, 2), pictures)
