"""What a file's networks show of their options, where the file keeps none."""

import pytest
import torch
from torch import nn

from eyescream_py import torch7
from eyescream_py.networks import checkpoints, models, models_c2f
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.results.shown import shown_options
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.shapes import View
from eyescream_py.torch7.layers.tables import CAddTable
from tests.golden_data import GOLDEN


def kept(path, **networks):
    """The options that a file of these networks, and nothing else, shows."""
    torch7.save(path, {name: torch7.from_module(net) for name, net in networks.items()})
    return shown_options(checkpoints.read(path), path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("G_arch", "D_arch"), [("mlp", "default"), ("upsampling", "b")])
def test_a_game_shows_sizes_and_architectures(tmp_path, channels, G_arch, D_arch):
    dims = (channels, 16, 16)
    G, D = models.create_G(dims, 12, G_arch), models.create_D(dims, D_arch)
    assert kept(tmp_path / "x.net", G=G, D=D) == {
        "scale": 16, "grayscale": channels == 1, "noiseDim": 12, "G_arch": G_arch,
        "D_arch": D_arch,
    }  # fmt: skip


@pytest.mark.parametrize("saved", [lambda net: net, models_c2f.as_lua_saves])
@pytest.mark.parametrize(("channels", "G_arch", "D_arch"), [(1, "default", "b"), (3, "d", "c")])
def test_a_pair_shows_all_but_the_coarse_size_which_its_name_does(
    tmp_path, saved, channels, G_arch, D_arch
):
    dims = (channels, 12, 12)
    pair = {
        "G": saved(models_c2f.create_G(dims, G_arch)),
        "D": saved(models_c2f.create_D(dims, D_arch)),
    }
    shown = {
        "fineSize": 12, "grayscale": channels == 1, "G_arch": G_arch, "D_arch": D_arch,
    }  # fmt: skip
    named = kept(tmp_path / "adversarial_c2f_5_to_12.bestnet", **pair)
    assert named == {**shown, "coarseSize": 5}
    assert kept(tmp_path / "renamed_5_to_13.net", **pair) == shown


def test_an_autoencoder_and_a_denoiser_show_their_sizes(tmp_path):
    AE = create_autoencoder((1, 12, 12), 7)
    assert kept(tmp_path / "a.net", AE=AE) == {"scale": 12, "noiseDim": 7}
    parts = {
        "AE1_ENCODER": create_encoder(), "AE1_DECODER": create_decoder((3, 12, 12)),
    }  # fmt: skip
    assert kept(tmp_path / "d.net", **parts) == {"scale": 12, "grayscale": False}


def test_a_G_of_no_squares_is_told_before_anything_is_read(tmp_path):
    G = nn.Sequential(nn.Linear(5, 2 * 4 * 6), nn.Sigmoid(), View(1, 8, 6))
    D = nn.Sequential(View(48), nn.Linear(48, 1), nn.Sigmoid())
    with pytest.raises(UserError, match=r"x\.net: its G draws 6x8 pictures"):
        kept(tmp_path / "x.net", G=G, D=D)


def striding_D(values):
    """A pair's D of 8 px that no pooling shrinks."""
    shrinking = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    return nn.Sequential(CAddTable(), shrinking, View(values), nn.Linear(values, 1))


@pytest.mark.parametrize(
    "networks",
    [
        {}, {"other": nn.Linear(2, 2)}, {"G": nn.Sigmoid(), "D": nn.Sigmoid()},
        {"G": nn.Linear(4, 9)}, {"G": nn.Linear(4, 9), "D": nn.Linear(9, 1)},
        {"G": nn.Conv2d(2, 1, 3), "D": nn.Linear(9, 1)}, {"AE": nn.Linear(4, 4)},
        {"AE1_DECODER": nn.Linear(4, 4)},
        {"AE": nn.Sequential(nn.Linear(3 * 16, 9), nn.Linear(9, 3 * 16))},  # of colour pictures
        {"G": models_c2f.create_G((1, 8, 8)), "D": striding_D(16)},
        {"G": models_c2f.create_G((1, 8, 8)), "D": striding_D(15)},
    ],
)  # fmt: skip
def test_other_networks_show_nothing(tmp_path, networks):
    assert kept(tmp_path / "x.net", **networks) == {}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("adversarial_mini.net", {"scale": 8, "grayscale": True, "noiseDim": 5}),
        ("adversarial_mini_cuda.net", {"scale": 8, "grayscale": True, "noiseDim": 5}),
        ("adversarial_c2f_4_to_8_mini.net", {"grayscale": True, "fineSize": 8, "coarseSize": 4}),
        ("autoencoder_mini.net", {"scale": 8, "noiseDim": 6}),
        ("denoiser_1x8x8_mini.net", {"scale": 8, "grayscale": True}),
    ],
)
def test_files_of_the_lua_program(name, sizes):
    assert shown_options(checkpoints.read(GOLDEN / name), GOLDEN / name) == sizes


def test_memory_is_taken_for_no_network_but_the_file_s(tmp_path, monkeypatch):
    devices = []

    def create_G(dims, noise_dim, architecture):
        net = nn.Linear(1, 1)
        devices.append(net.weight.device.type)
        return net

    monkeypatch.setattr(models, "create_G", create_G)
    G = nn.Sequential(nn.Linear(5, 64), View(1, 8, 8))
    kept(tmp_path / "x.net", G=G, D=nn.Sequential(View(64), nn.Linear(64, 1)))
    assert devices
    assert set(devices) == {torch.device("meta").type}
