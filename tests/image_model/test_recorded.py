"""Steps as recordings: with a pretended graph on the processor, with a real one on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.image_model.data import load_folder, load_pairs
from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions, SemiOptions
from eyescream_py.image_model.semi import CrossEncoder, FrozenEncoderGan
from eyescream_py.image_model.training import ImageModel, load_domains
from eyescream_py.system.recording import set_rate
from tests.fake_cuda import RECORDING, OnCuda, recording_device, values_read
from tests.image_model.test_loop import numbers, run_for, tensors

STEPS = 8


@pytest.fixture(params=RECORDING)
def device(request, monkeypatch) -> torch.device:
    return recording_device(request.param, monkeypatch)


def model(
    heads: Path, device: torch.device, capture: bool, gan: GanOptions, image: dict, **options
):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    folders = {
        "synth_dir": str(heads / "Faces_depth"),
        "real_dir": str(heads / "Faces_real"),
        "nd_dir": str(heads / "Faces_ND"),
    }
    chosen = ModelOptions(**{**folders, **options})
    shape = ImageOptions(**{"batch_size": 4, "image_size": 16, **image})
    domains = load_domains(chosen, shape, rng, device)
    return ImageModel(chosen, shape, gan, domains, rng, device, capture)


def assert_alike(written, recorded, steps: int = STEPS) -> list[float]:
    """The same losses, and D steps a turn of it where there are any."""
    taken = []
    for step in range(steps):
        a, b = written.step(), recorded.step()
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-5), (step, name)
        taken.append(a.get("D_steps", 0))
    for name, module in written.modules.items():
        for p, q in zip(module.parameters(), recorded.modules[name].parameters(), strict=True):
            torch.testing.assert_close(p, q)
    return taken


@pytest.mark.parametrize(("optim", "number"), [("RMSP", 0), ("ADAM", 1), ("RMSP", 3)])
def test_recorded_turns_are_the_written_ones_however_many_steps_d_takes(
    heads: Path, device: torch.device, optim: str, number: int
) -> None:
    low, high = {0: (-9, -1), 1: (-9, 9), 3: (9, 99)}[number]
    gan = GanOptions(diff_low=low, diff_high=high, d_limit=3)
    made = (
        model(heads, device, capture, gan, {"optim": optim}, use_recon=True, self_l1=0.5, l1=True,
              use_nd_l1=True)
        for capture in (False, True)
    )  # fmt: skip
    assert assert_alike(*made) == STEPS * [number]


@pytest.mark.parametrize(("objective", "arch"), [("l2", "NU"), ("wgan", "PIX")])
def test_recorded_networks_draw_and_normalise_as_written(
    heads: Path, device: torch.device, objective: str, arch: str
) -> None:
    """A recording runs its warm-up and each replay through torch's generator in turn, so the two
    sides need runs of their own.
    """
    gan = GanOptions(objective=objective, diff_low=-9, diff_high=9)
    reports = []
    for capture in (False, True):
        learner = model(heads, device, capture, gan, {"norm": "batch"}, gen_arch=arch)
        if objective == "wgan":
            learner.game.schedule.turn = 501
        torch.manual_seed(7)
        reports.append([learner.step() for _ in range(8)])
    for a, b in zip(*reports, strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-5)


def test_both_stages_of_the_semi_supervised_model(heads: Path, device: torch.device) -> None:
    def stage1(capture: bool) -> CrossEncoder:
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        image = ImageOptions(batch_size=4, image_size=16, optim="ADAM")
        pairs = load_pairs(heads / "Faces_ND", "--nd_dir", 16, 1, rng).to(device)
        return CrossEncoder(SemiOptions(), image, pairs, rng, device, capture)

    def stage2(capture: bool) -> FrozenEncoderGan:
        torch.manual_seed(1)
        rng = np.random.default_rng(1)
        image = ImageOptions(batch_size=4, image_size=16, norm="instance")
        synth = load_folder(heads / "Faces_depth", "--synth_dir", 16, 1, rng).to(device)
        real = load_folder(heads / "Faces_real", "--real_dir", 16, 1, rng).to(device)
        gan = GanOptions(diff_low=0.4, d_limit=2)
        return FrozenEncoderGan(SemiOptions(), image, gan, synth, real, rng, device, capture)

    for stage in (stage1, stage2):
        assert_alike(stage(False), stage(True))


@pytest.mark.parametrize(
    "options", [{"use_nd_gan": True}, {"optim": "ADAM", "gen_arch": "PIX", "decay_steps": 2}]
)
def test_a_recorded_run_goes_on_to_the_bit(
    heads: Path, tmp_path: Path, device: torch.device, options: dict
) -> None:
    """With pictures from the replay cache, random numbers, and rates that fall at the end."""
    run_for(heads, tmp_path / "whole", 10, device=device, **options)
    run_for(heads, tmp_path / "first", 6, device=device, **{**options, "decay_steps": 0})
    left = tmp_path / "first/model.ckpt-6.safetensors"
    run_for(heads, tmp_path / "second", 4, left, device=device, **options)
    whole, second = numbers(tmp_path / "whole"), numbers(tmp_path / "second")
    assert all(second[step] == whole[step] for step in second)
    a = tensors(tmp_path / "whole/model.ckpt-10.safetensors")
    b = tensors(tmp_path / "second/model.ckpt-10.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_nothing_of_a_recorded_function_is_read_back(heads: Path) -> None:
    gan, cpu = GanOptions(), torch.device("cpu")
    learner = model(
        heads, cpu, False, gan, {}, use_recon=True, self_l1=0.5, l1=True, use_nd_l1=True
    )
    x, y = learner.draw()
    game = learner.game
    assert game is not None
    functions = {
        "l1": lambda: learner._l1_losses(x, y),
        "self": lambda: learner._self_l1_loss(x),
        "reconstruction": lambda: learner._reconstruction_loss(x),
        "critic": lambda: game._criticised(y, x),
        "judge": lambda: game._judged(y, x),
        "make": lambda: game._made(x),
        "turn": lambda: (game._begun(x), game._finished(x)),
    }
    for name, function in functions.items():
        assert values_read(function) == [], name


def test_rmsprop_s_rate_on_a_gpu_makes_the_same_steps() -> None:
    def made(kind):
        p = kind(torch.tensor([2.0, -1.0, 0.5]))
        return p.requires_grad_(), build_optimizer("RMSP", [p], 0.1)

    (p, plain), (q, recorded) = made(torch.nn.Parameter), made(OnCuda)
    for gradient in (torch.tensor([0.5, -4.0, 0.0]), torch.tensor([0.0, 1.0, 3.0])):
        for optimizer in (plain, recorded):
            set_rate(optimizer, float(gradient[1]) / -40 if gradient[1] < 0 else 0.02)
        p.grad, q.grad = gradient, gradient.clone()
        plain.step()
        recorded.step()
    assert isinstance(recorded.param_groups[0]["lr"], torch.Tensor)
    torch.testing.assert_close(p.data, q.data)
