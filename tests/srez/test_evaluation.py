import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.srez.batches import held_out_pictures
from eyescream_py.srez.data import load_split
from eyescream_py.srez.evaluation import (
    compare,
    enlarge,
    finest_level,
    generate,
    psnr,
    run_evaluate,
    sliced_wasserstein,
    ssim,
    table,
    with_matched_noise,
)
from eyescream_py.srez.networks import Generator, use_batch_statistics
from eyescream_py.srez.options import Options
from eyescream_py.srez.pictures import back_project
from eyescream_py.srez.training import run_train
from eyescream_py.system.errors import UserError
from eyescream_py.system.json_lines import read_json_lines

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces(faces_folder):
    _, test = load_split(str(faces_folder), "celeba", 16, 0, "", 0, "")
    return held_out_pictures(test, Options(), CPU)


def test_psnr_of_a_known_error():
    label = torch.full((2, 3, 8, 8), 0.5)
    assert psnr(label + 0.1, label) == pytest.approx(20, abs=1e-3)


def test_ssim_is_one_for_the_same_and_lower_for_others(faces):
    _, label = faces
    assert ssim(label, label) == pytest.approx(1)
    assert ssim(label + 0.1 * torch.randn(label.shape), label) < 0.9


def test_finest_level_has_no_two_by_two_means():
    level = finest_level(torch.rand(1, 3, 8, 8))
    assert torch.nn.functional.avg_pool2d(level, 2).abs().max() < 1e-6


def test_distance_is_zero_for_the_same_patches_and_grows_with_the_difference():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 3, 16, 16, generator=rng) for _ in range(2))
    near, far = sliced_wasserstein(a, b), sliced_wasserstein(a, 2 * b)
    assert near < 80
    assert far == pytest.approx(1000 * (2 / np.pi) ** 0.5, rel=0.1)  # mean |2z - z| of a normal z
    assert (
        sliced_wasserstein(a, a + 1) > 500
    )  # as far as any projection of ones, |d.1|, in the mean


def test_matched_noise_lifts_the_finest_variance_to_the_truth_s(faces):
    small, label = faces
    smooth = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    noisy = with_matched_noise(smooth, label)
    assert finest_level(smooth).var() < 0.5 * finest_level(label).var()
    assert finest_level(noisy).var() / finest_level(label).var() == pytest.approx(1, abs=0.05)


def test_the_truth_itself_is_best_in_every_figure(faces):
    small, label = faces
    figures = compare(small, label, label)
    assert figures["srez"]["detail_swd"] < 0.5 * figures["bicubic"]["detail_swd"]
    assert figures["srez"]["consistency"] < 1e-6
    assert figures["srez"]["psnr"] > 99
    assert figures["srez"]["ssim"] == pytest.approx(1)
    assert figures["bicubic + noise"]["detail_swd"] < figures["bicubic"]["detail_swd"]
    assert table(figures).count("\n") == 4
    dark = compare(small, label / 2, label)["srez"]["consistency"]
    assert dark == pytest.approx(float(small.mean() / 2), rel=1e-4)


def test_generate_does_not_depend_on_chunks_and_keeps_the_mode():
    generator = Generator(1, width=1 / 32).train()
    inputs = torch.rand(5, 3, 4, 4)
    before = generator.stages[1].residual[0].running_mean.clone()
    whole, parts = generate(generator, inputs, 5), generate(generator, inputs, 2)
    assert torch.allclose(whole, parts, atol=1e-6)
    assert generator.training
    assert torch.equal(generator.stages[1].residual[0].running_mean, before)


def test_enlarging_follows_bn_and_back_projection():
    torch.manual_seed(0)
    generator, small = Generator(1, width=1 / 32).train(), torch.rand(3, 3, 8, 8)
    generator(small)  # running statistics that are not the start's
    told = dataclasses.replace(Options(), back_projection=0)
    alone = {}
    for bn in ("running", "batch"):
        use_batch_statistics(generator, bn == "batch")
        alone[bn] = generate(generator, small)
    for bn in ("running", "batch"):
        assert torch.equal(enlarge(generator, small, dataclasses.replace(told, bn=bn)), alone[bn])
    assert not torch.equal(alone["running"], alone["batch"])
    corrected = dataclasses.replace(told, back_projection=1, bn="batch")
    wanted = back_project(alone["batch"], small)
    assert torch.equal(enlarge(generator, small, corrected), wanted)
    assert not torch.equal(wanted, alone["batch"])
    noise = dataclasses.replace(corrected, input="noise")
    assert torch.equal(enlarge(generator, small, noise), alone["batch"])


def test_evaluate_judges_a_checkpoint_on_its_own_held_out_faces(tiny, tmp_path):
    run_train(tiny, CPU, say=lambda line: None)
    lines = []
    other = dataclasses.replace(tiny, test_vectors=1, crop="none", sample_size=128)
    figures = run_evaluate(other, CPU, lines.append)
    assert lines[0].startswith("4 held-out faces, 4 batches")
    records = [r for r in read_json_lines(tmp_path / "summary" / "metrics.jsonl") if "psnr" in r]
    assert figures["srez"]["psnr"] == pytest.approx(records[-1]["psnr"], abs=1e-4)
    assert figures["bicubic"]["psnr"] == pytest.approx(records[-1]["psnr_bicubic"], abs=1e-4)
    assert figures["network alone"]["consistency"] > 2 * figures["srez"]["consistency"]
    with Image.open(tmp_path / "summary" / "evaluation_batch000004.png") as picture:
        assert picture.size == (128, 128)


def test_faces_from_noise_have_no_truth(tiny):
    options = dataclasses.replace(tiny, input="noise", max_batches=1)
    run_train(options, CPU, say=lambda line: None)
    with pytest.raises(UserError, match="from noise"):
        run_evaluate(options, CPU)
