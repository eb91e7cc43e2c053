from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.options import GanOptions, ImageOptions, ModelOptions
from eyescream_py.image_model.training import ImageModel, check_options, generate, load_domains
from eyescream_py.system.errors import UserError

CPU = torch.device("cpu")
IMAGE = ImageOptions(batch_size=4, image_size=16)


def make_model(heads: Path, gan: GanOptions = GanOptions(), **options) -> ImageModel:  # noqa: B008
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    folders = {
        "synth_dir": str(heads / "Faces_depth"),
        "real_dir": str(heads / "Faces_real"),
        "nd_dir": str(heads / "Faces_ND"),
    }
    chosen = ModelOptions(**{**folders, **options})
    domains = load_domains(chosen, IMAGE, rng, CPU)
    return ImageModel(chosen, IMAGE, gan, domains, rng, CPU)


@pytest.fixture
def full(heads: Path) -> ImageModel:
    return make_model(heads, l1=True, use_nd_l1=True, use_recon=True, self_l1=0.5, rlr=1e-3)


def snapshot(model: ImageModel) -> dict[str, list[Tensor]]:
    return {
        name: [p.detach().clone() for p in module.parameters()]
        for name, module in model.modules.items()
    }


def moved(model: ImageModel, before: dict[str, list[Tensor]]) -> set[str]:
    return {
        name
        for name, module in model.modules.items()
        if any(
            not torch.equal(a, b) for a, b in zip(module.parameters(), before[name], strict=True)
        )
    }


def test_which_networks_each_sub_step_moves(full: ImageModel) -> None:
    x, y = full.draw()
    for work, expected in [
        (lambda: full.l1_step(x, y), {"generator"}),
        (lambda: full.self_l1_step(x), {"generator"}),
        (lambda: full.reconstruction_step(x), {"generator", "reconstructor"}),
        (lambda: full.game.critic_step(x, y), {"discriminator"}),
        (lambda: full.game.generator_step(x), {"generator"}),
    ]:
        before = snapshot(full)
        work()
        assert moved(full, before) == expected


def test_each_optimizer_has_its_own_rate(heads: Path) -> None:
    gan = GanOptions(glr=1e-2, dlr=2e-2)
    model = make_model(
        heads, gan, l1=True, use_nd_l1=True, use_recon=True, self_l1=1, rlr=3e-2, llr=4e-2
    )
    rates = {name: o.param_groups[0]["lr"] for name, o in model.optimizers.items()}
    assert rates == {
        "generator": 1e-2,
        "discriminator": 2e-2,
        "reconstruction": 3e-2,
        "l1": 4e-2,
        "self_l1": 4e-2,
    }


def test_glr_really_drives_the_generators_step(heads: Path) -> None:
    steps = []
    for rate in (1e-4, 1e-2):
        model = make_model(heads, GanOptions(glr=rate))
        before = snapshot(model)["generator"]
        model.game.generator_step(model.draw()[0])
        parameters = model.generator.parameters()
        steps.append(sum((a - b).norm() for a, b in zip(parameters, before, strict=True)).item())
    assert steps[1] == pytest.approx(100 * steps[0], rel=0.01)


def test_order_and_names_of_the_losses(full: ImageModel) -> None:
    assert list(full.step()) == ["L1", "self_L1", "R", "D", "G", "difference", "D_steps"]


@pytest.mark.parametrize("kind", ["l1", "self_l1"])
def test_weights_scale_the_step_and_not_the_report(heads: Path, kind: str) -> None:
    steps, reports = [], []
    for weight in (1.0, 10.0):
        weights = {"l1": {"l1_weight": weight}, "self_l1": {"self_l1": weight}}[kind]
        model = make_model(heads, l1=True, use_nd_l1=True, llr=1e-5, **weights)
        x, y = model._pairs.draw(4)
        before = snapshot(model)["generator"]
        reports.append(model.l1_step(x, y)["L1"] if kind == "l1" else model.self_l1_step(x))
        parameters = model.generator.parameters()
        steps.append(sum((a - b).norm() for a, b in zip(parameters, before, strict=True)).item())
    assert reports[0] == reports[1]
    assert steps[1] > 5 * steps[0]


def test_the_reconstructor_is_judged_on_gs_picture_by_its_source(heads: Path) -> None:
    model = make_model(heads, use_recon=True)
    x, _ = model.draw()
    with torch.no_grad():
        expected = (model.modules["reconstructor"](model.generator(x)) - x).abs().mean()
    assert model.reconstruction_step(x) == pytest.approx(float(expected), rel=1e-5)
    model._seen = x, x
    shown = model.samples()
    wanted = generate(model.modules["reconstructor"], shown["output"])
    torch.testing.assert_close(shown["reconstruction"], wanted)


def test_self_l1_pulls_the_picture_towards_its_source(heads: Path) -> None:
    model = make_model(heads, use_gan=False, self_l1=1.0, llr=1e-2)
    losses = [model.step()["self_L1"] for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_only_what_is_needed_is_read(heads: Path, tmp_path: Path) -> None:
    nowhere = {"synth_dir": str(tmp_path / "no"), "real_dir": str(tmp_path / "no")}
    model = make_model(heads, **nowhere, l1=True, use_nd_l1=True, use_nd_gan=True, use_recon=True)
    assert set(model.domains.present()) == {"pairs"}
    assert set(model.step()) == {"L1", "R", "D", "G", "difference", "D_steps"}
    paired = make_model(heads, **nowhere, l1=True, use_nd_l1=True, use_gan=False)
    assert set(paired.modules) == {"generator"}
    assert list(paired.step()) == ["L1"]


def test_unpaired_folders_give_unrelated_batches_and_pairs_related_ones(heads: Path) -> None:
    model = make_model(heads, use_nd_gan=True)
    x, y = model.draw()
    depths, photos = model.domains.pairs.all()
    for a, b in zip(x, y, strict=True):
        index = next(i for i, d in enumerate(depths) if torch.equal(a, d))
        assert torch.equal(photos[index], b)
    assert set(make_model(heads).domains.present()) == {"synth", "real"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_gan": False}, "nothing is left to learn"),
        ({"use_nd_l1": True}, "--use_nd_L1"),
        ({"use_gan": False, "l1": True, "use_nd_l1": True, "use_nd_gan": True}, "contradict"),
    ],
)
def test_options_that_contradict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_options(ModelOptions(**options), IMAGE)


def test_folders_of_equal_names_are_no_pairs_and_a_list_makes_them(
    heads: Path, tmp_path: Path
) -> None:
    names = sorted(p.name for p in (heads / "Faces_real").iterdir())
    assert names == sorted(p.name for p in (heads / "Faces_depth").iterdir())
    with pytest.raises(UserError, match="--L1 needs pairs"):
        check_options(ModelOptions(l1=True), IMAGE)
    listing = tmp_path / "pairs.txt"
    listing.write_text("".join(f"{name}\t{name}\n" for name in names[:5]))
    options = {"l1": True, "use_gan": False, "pair_list": str(listing)}
    check_options(ModelOptions(**options), IMAGE)
    model = make_model(heads, **options)
    assert len(model.domains.listed) == 5
    assert set(model.step()) == {"L1"}


def test_generate_leaves_no_trace(heads: Path) -> None:
    model = make_model(heads, gen_arch="NU")
    x, _ = model.draw()
    norm = nn.Sequential(model.generator, nn.BatchNorm2d(1))
    state = torch.get_rng_state()
    generate(norm, x)
    assert torch.equal(state, torch.get_rng_state())
    assert norm.training
    assert norm[1].num_batches_tracked == 0


def test_direction_turns_folders_and_pairs(heads: Path) -> None:
    options = {"l1": True, "use_nd_l1": True}
    there, back = (make_model(heads, direction=d, **options) for d in ("AtoB", "BtoA"))
    for a, b in (("synth", "real"), ("real", "synth")):
        assert there.domains.present()[a].names == back.domains.present()[b].names
        assert torch.equal(getattr(there.domains, a).sides[0], getattr(back.domains, b).sides[0])
    for side in (0, 1):
        assert torch.equal(there.domains.pairs.sides[side], back.domains.pairs.sides[1 - side])
    assert set(make_model(heads, direction="BtoA", use_gan=False, self_l1=1).domains.present()) == {
        "synth"
    }


def test_augmented_runs_draw_other_pictures_from_the_same_stream(heads: Path) -> None:
    options = {"use_nd_gan": True, "l1": True, "use_nd_l1": True}
    first, again = (make_model(heads, flip=True, crop=3, **options) for _ in range(2))
    assert torch.equal(first.draw()[0], again.draw()[0])
    assert not torch.equal(first.draw()[0], make_model(heads, **options).draw()[0])


def test_a_patch_critic_learns_to_tell_pictures_apart_and_moves_g(heads: Path) -> None:
    gan = GanOptions(critic="patch", dlr=0.03, d_limit=1)
    model = make_model(heads, gan, use_nd_gan=True, l1=True, use_nd_l1=True)
    x, y = model.draw()
    before = model.game.judge(x, y)
    for _ in range(25):
        model.game.critic_step(x, y)
    assert model.game.judge(x, y) < 0.9 * before
    start = snapshot(model)
    metrics = model.step()
    assert {"L1", "D", "G", "difference"} <= set(metrics)
    assert moved(model, start) == {"generator", "discriminator"}


def test_samples_show_the_last_batch(full: ImageModel) -> None:
    full.step()
    samples = full.samples()
    assert set(samples) == {"input", "output", "target", "reconstruction"}
    torch.testing.assert_close(samples["output"], generate(full.generator, samples["input"]))
    depths, photos = full.domains.pairs.all()  # of which both sides are shown, where there are any
    for shown, target in zip(samples["input"], samples["target"], strict=True):
        number = next(i for i, depth in enumerate(depths) if torch.equal(shown, depth))
        assert torch.equal(target, photos[number])


def test_paired_l1_learns_more_than_the_mean_photo(heads: Path) -> None:
    from eyescream_py.image_model.data import load_pairs
    from eyescream_py.image_model.generate import score

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    options = ModelOptions(nd_dir=str(heads / "Faces_ND"), l1=True, use_nd_l1=True, use_gan=False)
    image = ImageOptions(batch_size=8, image_size=32)
    domains = load_domains(options, image, rng, CPU)
    model = ImageModel(options, image, GanOptions(), domains, rng, CPU)
    model.optimizers["l1"] = build_optimizer("ADAM", model.generator.parameters(), 2e-3)
    for _ in range(120):
        model.step()
    held_out = load_pairs(heads / "Faces_ND_test", "--nd_dir", 32, 1, rng)
    scores = score(model.generator.eval(), held_out, domains.pairs.sides[1])
    assert scores.l1 < 0.75 * scores.baseline_l1
