import dataclasses

import pytest
import torch
from skimage.color import hsv2rgb, rgb2hsv

from eyescream_py.srez.batches import (
    Batches,
    Draws,
    area_reduce,
    augment,
    draw_augmentation,
    held_out_pictures,
    no_augmentation,
)
from eyescream_py.srez.data import Faces

CPU = torch.device("cpu")


def random_faces(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    windows = torch.randint(0, 256, (count, 3, 144, 144), generator=rng, dtype=torch.uint8)
    frames = windows.float() / 255
    means = torch.cat([frames.mean((2, 3)), frames.amax(1).mean((1, 2))[:, None]], 1)
    return Faces(windows, means, torch.arange(count))


def test_no_augmentation_is_the_centred_crop():
    faces = random_faces(2)
    picture = augment(faces.windows, faces.means, no_augmentation(2))
    assert torch.allclose(picture, faces.windows[:, :, 8:136, 8:136] / 255.0, atol=1e-6)


def test_flip_and_place_of_the_crop():
    faces = random_faces(2)
    one, zero = torch.ones(2), torch.zeros(2)
    draws = Draws(
        torch.tensor([True, False]), torch.tensor([0, 16]), torch.tensor([3, 16]), one, zero, one
    )
    picture = augment(faces.windows, faces.means, draws)
    flipped = faces.windows[0].flip(2)[:, 3:131, :128] / 255.0
    assert torch.allclose(picture[0], flipped, atol=1e-6)
    assert torch.allclose(picture[1], faces.windows[1, :, 16:, 16:] / 255.0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_saturation_is_hsv_s(factor):
    faces = random_faces(1)
    draws = dataclasses.replace(no_augmentation(1), saturation=torch.tensor([factor]))
    picture = augment(faces.windows, faces.means, draws)[0]
    hsv = rgb2hsv(faces.windows[0, :, 8:136, 8:136].permute(1, 2, 0).numpy() / 255.0)
    hsv[..., 1] = (hsv[..., 1] * factor).clip(0, 1)
    expected = torch.from_numpy(hsv2rgb(hsv)).permute(2, 0, 1).float()
    assert torch.allclose(picture, expected, atol=1e-4)


def test_brightness_adds_and_clips():
    faces = random_faces(1)
    draws = dataclasses.replace(no_augmentation(1), brightness=torch.tensor([0.05]))
    picture = augment(faces.windows, faces.means, draws)
    plain = faces.windows[:, :, 8:136, 8:136] / 255.0
    assert torch.allclose(picture, (plain + 0.05).clamp(0, 1), atol=1e-6)


def test_contrast_turns_around_the_mean_of_the_whole_frame_after_the_other_colours():
    frame = 0.3 + 0.4 * torch.rand(1, 3, 144, 144)  # nothing clips, so that the mean is exact
    windows = (255 * frame).round().to(torch.uint8)
    frame = windows / 255.0
    means = torch.cat([frame.mean((2, 3)), frame.amax(1).mean((1, 2))[:, None]], 1)
    draws = dataclasses.replace(
        no_augmentation(1), saturation=torch.tensor([0.96]), brightness=torch.tensor([0.03]),
        contrast=torch.tensor([1.05]),
    )  # fmt: skip
    value = frame.amax(1, keepdim=True)
    coloured = value - 0.96 * (value - frame) + 0.03
    mean = coloured.mean((2, 3), keepdim=True)
    expected = (mean + 1.05 * (coloured - mean))[:, :, 8:136, 8:136]
    assert torch.allclose(augment(windows, means, draws), expected, atol=1e-5)


def test_draws_stay_in_the_original_s_ranges():
    draws = draw_augmentation(4000, torch.Generator().manual_seed(0))
    assert draws.flip.float().mean() == pytest.approx(0.5, abs=0.03)
    for place in (draws.left, draws.top):
        assert (int(place.min()), int(place.max())) == (0, 16)
    for values, low, high in (
        (draws.saturation, 0.95, 1.05),
        (draws.brightness, -0.05, 0.05),
        (draws.contrast, 0.95, 1.05),
    ):
        assert low <= values.min() < low + 0.001
        assert high - 0.001 < values.max() <= high


@pytest.mark.parametrize("side", [32, 64, 80, 96, 112, 128])
def test_area_reduction_averages_equal_stretches(side):
    pictures = torch.rand(1, 2, 128, 128)
    fine = (
        pictures.repeat_interleave(side, 2).repeat_interleave(side, 3) if side in (80, 96) else None
    )
    reduced = area_reduce(pictures, side)
    assert reduced.shape == (1, 2, side, side)
    assert reduced.mean() == pytest.approx(float(pictures.mean()), abs=1e-5)
    if fine is not None:  # each output pixel covers 128 x 128 of the side-fold enlarged ones
        by_hand = fine[..., :128, 128:256].mean((2, 3))
        assert torch.allclose(reduced[..., 0, 1], by_hand, atol=1e-5)
    elif 128 % side == 0:
        step = 128 // side
        by_hand = pictures[..., :step, :step].mean((2, 3))
        assert torch.allclose(reduced[..., 0, 0], by_hand, atol=1e-6)


def test_labels_of_64_and_small_pictures_of_16_as_box_means(tiny):
    options = dataclasses.replace(tiny, sample_size=64, train_noise=0.0)
    batch = Batches(random_faces(6), options, CPU).batch(0)
    assert batch.label.shape == (4, 3, 64, 64)
    assert batch.small.shape == (4, 3, 16, 16)
    assert torch.allclose(batch.small, batch.label.view(4, 3, 16, 4, 16, 4).mean((3, 5)), atol=1e-6)
    assert torch.equal(batch.inputs, batch.small)


def test_training_noise_reaches_the_input_and_not_the_target(tiny):
    options = dataclasses.replace(tiny, batch_size=16, sample_size=128)
    batch = Batches(random_faces(16), options, CPU).batch(0)
    assert (batch.inputs - batch.small).std() == pytest.approx(0.03, rel=0.05)


def test_noise_input_is_uniform(tiny):
    options = dataclasses.replace(tiny, input="noise", batch_size=64)
    batch = Batches(random_faces(8), options, CPU).batch(0)
    assert batch.inputs.shape == (64, 3, 4, 4)
    assert batch.inputs.min() < -0.98
    assert batch.inputs.max() > 0.98


def test_batches_follow_from_seed_and_number_alone(tiny):
    faces = random_faces(6)
    one, other = Batches(faces, tiny, CPU), Batches(faces, tiny, CPU)
    one.batch(0)
    for a, b in zip(one.batch(7).tensors(), other.batch(7).tensors(), strict=True):
        assert torch.equal(a, b)
    reseeded = Batches(faces, dataclasses.replace(tiny, random_seed=1), CPU)
    assert not torch.equal(reseeded.batch(7).label, other.batch(7).label)


def test_the_seed_decides_both_the_order_and_what_is_drawn(tiny):
    streams = [Batches(random_faces(6), dataclasses.replace(tiny, random_seed=seed), CPU)
               for seed in range(3)]  # fmt: skip
    orders = [torch.cat([stream._positions(k) for k in range(3)]).tolist() for stream in streams]
    assert len(set(map(tuple, orders))) == 3
    assert len({tuple(stream.batch(1).alpha.tolist()) for stream in streams}) == 3


def test_every_face_comes_once_per_round(tiny):
    stream = Batches(random_faces(6), tiny, CPU)
    drawn = torch.cat([stream._positions(k) for k in range(3)]).tolist()  # 12 = two rounds of 6
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6))
    assert drawn[:6] != drawn[6:]


def test_held_out_pictures_are_the_same_in_every_run(tiny):
    faces = random_faces(3)
    small, label = held_out_pictures(faces, tiny, CPU)
    assert small.shape == (3, 3, 8, 8)
    assert torch.equal(label, held_out_pictures(faces, tiny, CPU)[1])
    noise, _ = held_out_pictures(faces, dataclasses.replace(tiny, input="noise"), CPU)
    again, _ = held_out_pictures(faces, dataclasses.replace(tiny, input="noise"), CPU)
    assert torch.equal(noise, again)
