from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.image_model.checkpoints import read_checkpoint, save_checkpoint
from eyescream_py.image_model.data import load_folder, load_pairs, normalise
from eyescream_py.image_model.loop import resume
from eyescream_py.image_model.options import GanOptions, ImageOptions, SemiOptions
from eyescream_py.image_model.replay import ReplayCache
from eyescream_py.image_model.semi import CrossEncoder, FrozenEncoderGan
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")


def stage1(heads: Path, routes: str = "cross", **image) -> CrossEncoder:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = ImageOptions(**{"batch_size": 8, "image_size": 32, "optim": "ADAM", **image})
    pairs = load_pairs(heads / "Faces_ND", "--nd_dir", shape.image_size, shape.channels, rng)
    return CrossEncoder(SemiOptions(routes=routes, llr=2e-3), shape, pairs, rng, CPU)


def stage2(heads: Path, alpha: float = 1.0, norm: str = "none", **gan) -> FrozenEncoderGan:
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    shape = ImageOptions(batch_size=4, image_size=32, norm=norm)
    synth = load_folder(heads / "Faces_depth", "--synth_dir", 32, 1, rng)
    real = load_folder(heads / "Faces_real", "--real_dir", 32, 1, rng)
    options = SemiOptions(alpha=alpha)
    return FrozenEncoderGan(options, shape, GanOptions(**gan), synth, real, rng, CPU)


def saved(learner, path: Path):
    save_checkpoint(path, 1, learner.settings, learner.state(), learner.modules, learner.optimizers)
    return read_checkpoint(path)


@pytest.mark.parametrize(
    ("routes", "names"),
    [
        ("cross", {"synth_to_real", "real_to_synth"}),
        ("all", {"synth_to_real", "real_to_synth", "synth_to_synth", "real_to_real"}),
    ],
)
def test_routes_use_one_encoder_and_the_targets_decoder(heads, routes, names) -> None:
    learner = stage1(heads, routes)
    synth, real = learner._pairs.draw(2)
    losses = learner.route_losses(synth, real)
    assert set(losses) == names
    expected = (learner.decoders["synth"](learner.encoder(real)) - synth).abs().mean()
    torch.testing.assert_close(losses["real_to_synth"], expected)
    before = {k: [p.clone() for p in m.parameters()] for k, m in learner.modules.items()}
    metrics = learner.step()
    assert set(metrics) == {"L1", *names}
    assert metrics["L1"] == pytest.approx(np.mean([metrics[name] for name in names]))
    for name, module in learner.modules.items():
        assert all(
            not torch.equal(a, b) for a, b in zip(module.parameters(), before[name], strict=True)
        ), name


def test_cross_encoder_beats_the_mean_picture_on_every_route(heads: Path) -> None:
    learner = stage1(heads)
    for _ in range(120):
        learner.step()
    held_out = load_pairs(heads / "Faces_ND_test", "--nd_dir", 32, 1, np.random.default_rng(0))
    synth, real = held_out.all()
    with torch.no_grad():
        losses = learner.route_losses(synth, real)
    for route, target, side in [("synth_to_real", real, 1), ("real_to_synth", synth, 0)]:
        mean = normalise(learner._pairs.sides[side]).mean(0)
        assert losses[route] < 0.8 * (target - mean).abs().mean(), route


def test_stage_two_never_moves_the_encoder_even_with_batch_norm(heads: Path) -> None:
    learner = stage2(heads, norm="batch", glr=1e-2)
    before = {
        k: {n: v.clone() for n, v in m.state_dict().items()} for k, m in learner.modules.items()
    }
    for _ in range(2):
        learner.step()
        learner.samples()
    for name, module in learner.modules.items():
        same = all(torch.equal(v, before[name][n]) for n, v in module.state_dict().items())
        assert same == (name == "encoder"), name


def test_stage_two_settles_its_replayed_pictures_with_each_checkpoint(heads, tmp_path) -> None:
    learner, cache = stage2(heads), (tmp_path / "replay", 9, (1, 32, 32))
    learner.game.replay = ReplayCache.create(*cache)
    learner.step()
    learner.saved()
    learner.step()
    learner.close()
    again = ReplayCache.open(*cache)
    assert (again.pushes, again.count) == (1, 4)
    again.close()


def test_code_constancy_is_the_l1_of_codes_and_reaches_the_decoder(heads: Path) -> None:
    learner = stage2(heads, alpha=2.5)
    x, _ = learner.draw()
    fake = learner.generator(x)
    loss = learner.code_constancy(fake, x)
    expected = 2.5 * (learner.encoder(fake) - learner.encoder(x)).abs().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in learner.decoder.parameters())
    assert learner.code_constancy(x, x) == 0


def test_a_heavy_alpha_brings_the_codes_together(heads: Path, tmp_path: Path) -> None:
    first = stage1(heads)
    for _ in range(10):
        first.step()
    learner = stage2(heads, alpha=100.0, glr=1e-3)
    learner.start_from(saved(first, tmp_path / "s.safetensors"), "fresh")
    x, _ = learner.draw()
    with torch.no_grad():
        before = learner.code_constancy(learner.generator(x), x)
    for _ in range(25):
        learner.step()
    with torch.no_grad():
        assert learner.code_constancy(learner.generator(x), x) < 0.8 * before


def test_stage_two_starts_from_stage_one(heads: Path, tmp_path: Path) -> None:
    first = stage1(heads)
    first.step()
    checkpoint = saved(first, tmp_path / "s.safetensors")
    for decoder, same in [("real", True), ("fresh", False)]:
        second = stage2(heads)
        second.start_from(checkpoint, decoder)
        x, _ = second.draw()
        code = first.encoder(x)
        torch.testing.assert_close(second.encoder(x), code)
        assert torch.equal(second.generator(x), first.decoders["real"](code)) == same


def test_an_encoder_of_another_shape_is_refused(heads: Path, tmp_path: Path) -> None:
    checkpoint = saved(stage1(heads, norm="batch"), tmp_path / "s.safetensors")
    with pytest.raises(UserError, match="--norm"):
        stage2(heads).start_from(checkpoint, "real")


@pytest.mark.parametrize("make", [stage1, stage2])
def test_either_stage_goes_on_where_it_was_saved(heads: Path, tmp_path: Path, make) -> None:
    whole, again = make(heads), make(heads)
    for _ in range(2):
        whole.step()
    checkpoint = saved(whole, tmp_path / "s.safetensors")
    expected = [whole.step() for _ in range(8)]  # through the end of a round
    resume(again, checkpoint)
    assert again.state() == checkpoint.state
    assert [again.step() for _ in range(8)] == expected
