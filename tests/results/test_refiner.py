"""load_refiner: the pair of train_c2f.py enlarges faces."""

import pytest
import torch

from eyescream_py import load_generator, load_refiner, torch7
from eyescream_py.networks import models, models_c2f
from eyescream_py.system.errors import UserError
from eyescream_py.torch7 import image
from eyescream_py.torch7.random import TorchSource

DIMS = (1, 16, 16)


@pytest.fixture
def pair(tmp_path):
    torch.manual_seed(2)
    networks = {"G": models_c2f.create_G(DIMS), "D": models_c2f.create_D(DIMS)}
    path = tmp_path / "adversarial_c2f_8_to_16.net"
    content = {name: torch7.from_module(network) for name, network in networks.items()}
    torch7.save(path, {**content, "opt": {"fineSize": 16, "coarseSize": 8}})
    return path, networks


@pytest.fixture
def faces():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def test_one_try_adds_what_G_draws(pair, faces):
    path, networks = pair
    refiner = load_refiner(path)
    assert refiner.size == 16
    coarse = image.scale(faces, 16)
    noise = TorchSource(4).uniform_(torch.empty(3, 1, 16, 16), -1, 1)
    with torch.no_grad():
        expected = (coarse + networks["G"].eval()(noise, coarse)).clamp(0, 1)
    found = refiner.refine(faces, seed=4, tries=1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_try_that_D_likes_best_is_kept(pair, faces):
    path, networks = pair
    D = networks["D"].eval()
    coarse = image.scale(faces, 16)
    noise = TorchSource(1).uniform_(torch.empty(3 * 4, 1, 16, 16), -1, 1).view(3, 4, 1, 16, 16)
    found = load_refiner(path).refine(faces, tries=4)
    for number in range(3):
        many = coarse[number : number + 1].expand(4, -1, -1, -1)
        with torch.no_grad():
            diffs = networks["G"].eval()(noise[number], many)
            best = D(diffs, many).argmax()
        assert torch.allclose(found[number], (many[0] + diffs[best]).clamp(0, 1), atol=1e-5)


def test_the_averaged_G_refines_unless_it_is_not_wanted(pair, faces, tmp_path):
    path, _ = pair
    plain = load_refiner(path).refine(faces)
    averaged = models_c2f.create_G(DIMS)
    content = {**torch7.load(path), "G_ema": torch7.from_module(averaged)}
    torch7.save(tmp_path / "both.net", content)
    torch7.save(tmp_path / "averaged.net", {**content, "G": content["G_ema"]})
    wanted = load_refiner(tmp_path / "averaged.net", ema=False).refine(faces)
    assert not torch.equal(wanted, plain)
    assert torch.equal(load_refiner(tmp_path / "both.net").refine(faces), wanted)
    assert torch.equal(load_refiner(tmp_path / "both.net", ema=False).refine(faces), plain)


def test_a_batch_bounds_what_the_networks_get_at_once(pair, faces):
    refiner, seen = load_refiner(pair[0]), []
    whole = refiner.choose(faces, TorchSource(1), tries=4)
    for net in (refiner.G, refiner.D):
        net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0][0])))
    parts = refiner.choose(faces, TorchSource(1), tries=4, batch=5)
    assert seen == [5, 5, 2, 5, 5, 2]
    torch.testing.assert_close(parts, whole)


def test_an_autocast_around_it_changes_nothing(pair, faces):
    refiner = load_refiner(pair[0])
    expected = refiner.refine(faces)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(refiner.refine(faces), expected)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16), (1, 8, 8), (2, 1, 4, 8)])
def test_pictures_that_do_not_fit(pair, shape):
    with pytest.raises(ValueError, match="cannot be refined"):
        load_refiner(pair[0]).refine(torch.zeros(shape))


def test_files_without_a_pair(tmp_path):
    G = torch7.from_module(models.create_G((1, 8, 8), 4))
    torch7.save(tmp_path / "half.net", {"G": G})
    for name in ("half.net", "gone.net"):
        with pytest.raises(UserError, match=name):
            load_refiner(tmp_path / name)


def test_a_network_of_faces_refines_nothing(tmp_path):
    D, G = models.create_D((1, 8, 8)), models.create_G((1, 8, 8), 4)
    path = tmp_path / "adversarial.net"
    torch7.save(path, {"G": torch7.from_module(G), "D": torch7.from_module(D)})
    with pytest.raises(UserError, match="its G and D refine no pictures; give a file of train_c2f"):
        load_refiner(path)


@pytest.mark.parametrize("size", [float("nan"), 16.5, -16, 0, 2**31, "16", {"a": 1}])
def test_a_file_that_claims_an_odd_size(pair, size):
    content = torch7.load(pair[0])
    content["opt"]["fineSize"] = size
    torch7.save(pair[0], content)
    with pytest.raises(UserError, match="its fineSize is no side of a picture"):
        load_refiner(pair[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_every_width_are_refined(pair, faces, dtype):
    refiner = load_refiner(pair[0])
    rounded = faces.to(dtype)
    assert torch.equal(refiner.refine(rounded), refiner.refine(rounded.float()))
    assert torch.equal(refiner.refine(faces.requires_grad_()), refiner.refine(faces.detach()))


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda p: p.numpy(), TypeError, "not ndarray"),
        (lambda p: p.tolist(), TypeError, "not list"),
        (lambda p: (p * 255).byte(), TypeError, "uint8"),
        (lambda p: p > 0.5, TypeError, "bool"),
        (lambda p: p.to(torch.complex64), TypeError, "complex64"),
        (lambda p: p.to("meta"), TypeError, "plain"),
        (lambda p: p.to_sparse(), TypeError, "plain"),
        (lambda p: p * 255, ValueError, r"0\.\.1, these go from .* to 2\d\d"),
        (lambda p: p * 2 - 1, ValueError, r"0\.\.1"),
        (lambda p: p * float("nan"), ValueError, "nan"),
        (lambda p: p / 0, ValueError, "inf"),
        (lambda p: p[0], ValueError, "shape"),
    ],
)
def test_what_are_no_pictures_is_refused(pair, faces, change, error, word):
    with pytest.raises(error, match=word):
        load_refiner(pair[0]).refine(change(faces))


def test_the_best_of_none_is_refused(pair, faces):
    with pytest.raises(ValueError, match="best of 0"):
        load_refiner(pair[0]).refine(faces, tries=0)


@pytest.mark.parametrize("device", ["", "none", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(pair, device):
    for load in (lambda: load_refiner(pair[0], device), lambda: load_generator(device=device)):
        with pytest.raises(UserError, match=f"^device={device}: "):
            load()


def test_more_pictures_than_fit_in_memory():
    with pytest.raises(UserError, match="ask for fewer pictures"):
        load_generator("pretrained:faces16").sample(10**12)
