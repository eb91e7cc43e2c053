import copy

import pytest
import torch

from eyescream_py.features import frozen
from eyescream_py.ganless_hd.averaging import WEIGHTS
from eyescream_py.ganless_hd.data import ContourPhotos, ResizedPhotos, find_photos, fixed_batches
from eyescream_py.ganless_hd.losses import LossParts, PerceptualLoss, Reference
from eyescream_py.ganless_hd.networks import UNet
from eyescream_py.ganless_hd.options import Options
from eyescream_py.ganless_hd.trainer import Trainer, chosen_precision

CPU = torch.device("cpu")


@pytest.fixture
def make_trainer(small_features):
    loss = PerceptualLoss(frozen(small_features))

    def make(width: float = 0.0625, **options) -> Trainer:
        return Trainer(UNet(width, seed=3), loss, Options(**options), CPU)

    return make


def batch(seed: int, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, count, 3, 64, 64, generator=generator) * 2 - 1)


def test_two_steps_per_batch(make_trainer):
    trainer = make_trainer()
    trainer.train_batch(*batch(0))
    assert trainer.optimizer.state[trainer.flat.vector]["step"] == 2
    sums, steps = trainer.take_sums()
    assert steps == 2
    assert sums[0].item() == pytest.approx((sums[1] + sums[2]).item())
    assert trainer.take_sums()[1] == 0


class InDouble:
    """A loss without features, which are single."""

    def reference(self, targets):
        return Reference(targets, [])

    def __call__(self, outputs, reference):
        return LossParts(outputs.abs().mean(), (outputs - reference.pictures).square().mean())


def test_a_step_equals_adam_on_separate_parameters():
    """The flat vector is a faster way to the same numbers; in double, as Adam's first steps are
    near lr*sign(gradient), and single rounding chooses the sign where a gradient is near 0.
    """
    plain, loss = UNet(0.0625, seed=3).double(), InDouble()
    trainer = Trainer(copy.deepcopy(plain), loss, Options(averaging="none"), CPU)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, betas=(0.9, 0.999), amsgrad=True)
    inputs, targets = (half.double() for half in batch(1))
    trainer.train_batch(inputs, targets)
    for _ in range(2):
        optimizer.zero_grad()
        loss(plain(inputs), loss.reference(targets)).total.backward()
        optimizer.step()
    expected = torch.cat([parameter.flatten() for parameter in plain.parameters()])
    torch.testing.assert_close(trainer.flat.vector, expected, rtol=1e-9, atol=1e-9)


def test_published_averaging_starts_at_the_sixth_step(make_trainer):
    trainer = make_trainer()
    iterates = []
    for seed in range(3):
        inputs, targets = batch(seed)
        for _ in range(2):
            trainer.step(inputs, trainer.loss.reference(targets))
            iterates.append(trainer.raw_weights().clone())
            averaged = not torch.equal(trainer.flat.vector, iterates[-1])
            assert averaged == (len(iterates) == 6)
    expected = sum(weight * one for weight, one in zip(WEIGHTS, iterates, strict=True))
    torch.testing.assert_close(trainer.averaged_weights(), expected)


def test_teacher_is_what_is_saved_and_raw_is_the_student(make_trainer):
    trainer = make_trainer(averaging="ema")
    trainer.train_batch(*batch(0))
    assert trainer.averaged_weights() is trainer.averaging.teacher()
    assert torch.equal(trainer.raw_weights(), trainer.flat.vector)
    assert not torch.equal(trainer.averaged_weights(), trainer.raw_weights())


@pytest.mark.parametrize("averaging", ["last", "ema", "none"])
def test_restored_state_goes_on_bit_for_bit(make_trainer, averaging):
    one, other = make_trainer(averaging=averaging), make_trainer(averaging=averaging)
    for seed in range(4):
        one.train_batch(*batch(seed))
    other.restore({name: value.clone() for name, value in one.state().items()})
    for trainer in (one, other):
        trainer.train_batch(*batch(9))
    assert torch.equal(one.flat.vector, other.flat.vector)


def test_evaluation_changes_nothing_and_counts_samples(make_trainer):
    trainer = make_trainer()
    pictures = torch.randint(0, 256, (3, 2, 3, 64, 64), dtype=torch.uint8)
    pairs = [(inputs, target) for inputs, target in pictures]
    before = trainer.flat.vector.clone()
    alone = [trainer.evaluate(fixed_batches([pair], 1))["pixels"] for pair in pairs]
    together = trainer.evaluate(fixed_batches(pairs, 2))
    assert together["pixels"] == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert together["total"] == pytest.approx(together["features"] + together["pixels"])
    assert torch.equal(before, trainer.flat.vector)


def test_bfloat16_is_close_to_float32(make_trainer):
    inputs, targets = batch(4)
    full, half = make_trainer(precision="float32"), make_trainer(precision="bfloat16")
    losses = []
    for trainer in (full, half):
        trainer.train_batch(inputs, targets)
        losses.append(trainer.take_sums()[0][0].item())
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
    assert half.flat.vector.dtype == torch.float32


def test_rate_and_decay_are_those_of_the_options(make_trainer):
    trainer = make_trainer(lr=0.02, averaging="ema", ema_decay=0.7)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.02
    assert trainer.averaging.decay == 0.7


def test_precision_names():
    assert chosen_precision("auto", CPU) == torch.float32
    assert chosen_precision("bfloat16", CPU) == torch.bfloat16
    assert chosen_precision("float32", CPU) == torch.float32


def test_overfits_one_batch(make_trainer, photos):
    """Feature loss falls by more than 1.5 within 60 steps of a fixed batch of four."""
    data = ContourPhotos(ResizedPhotos(find_photos([photos]).paths, 72), 64, True, seed=0)
    ((inputs, targets),) = fixed_batches((data[number] for number in range(4)), 4)
    inputs, targets = (half.float() / 127.5 - 1 for half in (inputs, targets))
    trainer = make_trainer(width=0.125)
    losses = []
    for _ in range(30):
        trainer.train_batch(inputs, targets)
        sums, steps = trainer.take_sums()
        losses.append((sums / steps).tolist())
    assert losses[-1][1] < losses[0][1] - 1.5
    assert losses[-1][2] < losses[0][2]
