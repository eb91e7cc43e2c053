from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eyescream_py.image_model.adversarial import Game
from eyescream_py.image_model.losses import build_optimizer
from eyescream_py.image_model.networks import build_critic, build_generator
from eyescream_py.image_model.options import GanOptions
from eyescream_py.image_model.replay import ReplayCache

SIZE, BATCH = 8, 6


def make_game(options: GanOptions = GanOptions(), norm: str = "none") -> Game:  # noqa: B008
    torch.manual_seed(0)
    generator = build_generator("U", 1, SIZE, norm)
    discriminator = build_critic(options.critic, 1, SIZE, norm)
    g = build_optimizer("RMSP", generator.parameters(), options.glr)
    d = build_optimizer("RMSP", discriminator.parameters(), options.dlr)
    return Game(generator, discriminator, g, d, options, np.random.default_rng(0))


def batch(seed: int) -> Tensor:
    return torch.randn(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).tanh()


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def changed(module: nn.Module, before: list[Tensor]) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True)]


class CountingGame:
    """A game whose D answers with given differences; records which batches its steps saw."""

    def __init__(self, monkeypatch, differences: list[float], **options: float) -> None:
        self.game = make_game(GanOptions(**options))
        self.critic_batches: list[Tensor] = []
        self.generator_batches: list[Tensor] = []
        self.judged = 0
        self._differences = iter(differences)
        monkeypatch.setattr(self.game, "critic_step", self._critic)
        monkeypatch.setattr(self.game, "judge", self._judge)
        step = self.game.generator_step

        def generator_step(x: Tensor, fake: Tensor | None = None) -> tuple[float, Tensor]:
            self.generator_batches.append(x)
            return step(x, fake)

        monkeypatch.setattr(self.game, "generator_step", generator_step)

    def _critic(self, x: Tensor, y: Tensor, made: Tensor | None = None) -> float:
        self.critic_batches.append(x)
        self.game.schedule.observe(next(self._differences))
        return 0.0

    def _judge(self, x: Tensor, y: Tensor) -> float:
        self.judged += 1
        self.generator_steps_before_judging = len(self.generator_batches)
        self.game.schedule.observe(next(self._differences))
        return 0.0


def test_d_repeats_on_fresh_batches_and_g_steps_once_on_the_current_one(monkeypatch) -> None:
    counting = CountingGame(monkeypatch, [0.01, 0.02, 0.3])
    x, fresh = batch(0), [(batch(n), batch(n)) for n in (1, 2, 3)]
    supply = iter(fresh)
    metrics = counting.game.turn(x, batch(9), lambda: next(supply))
    assert [
        b is e for b, e in zip(counting.critic_batches, [x, fresh[0][0], fresh[1][0]], strict=True)
    ]
    assert len(counting.generator_batches) == 1
    assert counting.generator_batches[0] is x
    assert metrics["D_steps"] == 3
    assert metrics["difference"] == 0.3
    assert counting.judged == 0


def test_a_resting_d_is_only_measured(monkeypatch) -> None:
    counting = CountingGame(monkeypatch, [0.7])
    counting.game.schedule.difference = 0.96
    metrics = counting.game.turn(batch(0), batch(1), lambda: (batch(2), batch(3)))
    assert counting.critic_batches == []
    assert counting.judged == 1
    assert len(counting.generator_batches) == 1
    assert counting.generator_steps_before_judging == 1  # as in the seed
    assert metrics["difference"] == 0.7


def test_wgan_takes_fifty_critic_steps_then_five(monkeypatch) -> None:
    counting = CountingGame(monkeypatch, [0.0] * 200, objective="wgan", diter=5)
    for turn, expected in [(0, 50), (499, 50), (500, 5), (1000, 50)]:
        counting.game.schedule.turn = turn
        before = len(counting.critic_batches)
        metrics = counting.game.turn(batch(0), batch(1), lambda: (batch(2), batch(3)))
        assert metrics["D_steps"] == len(counting.critic_batches) - before == expected


@pytest.mark.parametrize("objective", ["log", "l2", "wgan"])
def test_critic_step_moves_d_alone_and_generator_step_g_alone(objective: str) -> None:
    game = make_game(GanOptions(objective=objective))
    g, d = weights(game.generator), weights(game.discriminator)
    game.critic_step(batch(0), batch(1))
    assert any(changed(game.discriminator, d))
    assert not any(changed(game.generator, g))
    d = weights(game.discriminator)
    game.generator_step(batch(0))
    assert not any(changed(game.discriminator, d))
    assert any(changed(game.generator, g))
    assert all(p.requires_grad for p in game.discriminator.parameters())


@pytest.mark.parametrize("objective", ["log", "l2", "wgan"])
def test_each_player_lowers_its_own_loss(objective: str) -> None:
    game = make_game(GanOptions(objective=objective, glr=1e-2, dlr=1e-3))
    x, y = batch(0), batch(1)
    d_before = game.judge(x, y)
    for _ in range(3):
        game.critic_step(x, y)
    assert game.judge(x, y) < d_before
    g_before, _ = game.generator_step(x)
    for _ in range(5):
        g_after, _ = game.generator_step(x)
    assert g_after < g_before


def test_wgan_clips_after_the_step() -> None:
    game = make_game(GanOptions(objective="wgan", dlr=1.0))
    game.critic_step(batch(0), batch(1))
    largest = max(p.abs().max().item() for p in game.discriminator.parameters())
    assert largest == pytest.approx(0.01)


def test_log_and_least_squares_never_clip() -> None:
    game = make_game()
    game.critic_step(batch(0), batch(1))
    assert max(p.abs().max().item() for p in game.discriminator.parameters()) > 0.05


def test_difference_is_the_true_one_before_the_step() -> None:
    game = make_game()
    x, y = batch(0), batch(1)
    with torch.no_grad():
        real, fake = (game.discriminator(p).sigmoid() for p in (y, game.generator(x)))
        expected = (real - fake).mean().item()
    game.critic_step(x, y)
    assert game.schedule.difference == pytest.approx(expected, abs=1e-6)


def test_extra_loss_is_added_to_the_generators(monkeypatch) -> None:
    plain, more = make_game(), make_game()
    more._extra_loss = lambda fake, x: 3 + 0 * fake.sum()
    assert more.generator_step(batch(0))[0] == pytest.approx(plain.generator_step(batch(0))[0] + 3)


class TestReplay:
    @pytest.fixture
    def game(self, tmp_path: Path):
        game = make_game()
        game.replay = ReplayCache.create(tmp_path / "replay", 40, (1, SIZE, SIZE))
        yield game
        game.replay.close()

    def test_without_enough_cached_pictures_all_fakes_are_fresh(self, game: Game) -> None:
        game.replay.push(torch.full((3, 1, SIZE, SIZE), 0.5), game._rng)  # half a batch, not more
        with torch.no_grad():
            torch.testing.assert_close(game.fakes(batch(0)), game.generator(batch(0)))

    def test_half_fresh_half_replayed(self, game: Game) -> None:
        game.replay.push(torch.full((4, 1, SIZE, SIZE), 0.5), game._rng)
        fakes = game.fakes(batch(0))
        with torch.no_grad():
            torch.testing.assert_close(fakes[:3], game.generator(batch(0)[:3]))
        torch.testing.assert_close(
            fakes[3:], torch.full((3, 1, SIZE, SIZE), 0.5), atol=4e-3, rtol=0
        )

    def test_an_odd_batch_is_allowed(self, game: Game) -> None:
        game.replay.push(torch.zeros(4, 1, SIZE, SIZE), game._rng)
        assert game.fakes(batch(0)[:5]).shape[0] == 5

    def test_each_turn_pushes_the_generators_last_pictures(self, game: Game) -> None:
        with torch.no_grad():
            expected = game.generator(batch(0))
        game.turn(batch(0), batch(1), lambda: (batch(2), batch(3)))
        assert game.replay.count == BATCH
        stored = torch.from_numpy(np.load(game.replay.path, mmap_mode="r")[:BATCH].copy())
        assert (stored.float() / 127.5 - 1 - expected).abs().max() < 5e-3

    def test_generators_own_loss_never_sees_replay(self, game: Game) -> None:
        alone = make_game()
        game.replay.push(torch.full((40, 1, SIZE, SIZE), 0.9), game._rng)
        assert game.generator_step(batch(0))[0] == alone.generator_step(batch(0))[0]


@pytest.mark.parametrize("norm", ["none", "instance", "conv", "batch"])
@pytest.mark.parametrize("critic", ["dense", "patch"])
def test_scores_are_those_of_two_passes_whatever_the_norm(norm: str, critic: str) -> None:
    """Real and made pictures never share the statistics of a batch."""
    game = make_game(GanOptions(critic=critic), norm)
    real, fake = game._scores(batch(0), batch(1))
    torch.testing.assert_close(real, game.discriminator(batch(0)))
    torch.testing.assert_close(fake, game.discriminator(batch(1)))


def dense_norm_loss(critic: nn.Module, pictures: list[Tensor]) -> float:
    """The log loss of D with every layer normalised, from its weights alone, in double."""
    logits = []
    for x in pictures:
        values = x.double()
        for layer in critic.layers:
            kernel, bias = (w.detach().double() for w in (layer.conv.weight, layer.conv.bias))
            padded = nn.functional.pad(values, (1, layer.extra + 1) * 2)
            values = nn.functional.conv2d(padded, kernel, bias, layer.conv.stride)
            mean = values.mean((0, 2, 3), keepdim=True)
            variance = (values - mean).square().mean((0, 2, 3), keepdim=True)
            values = (values - mean) / (variance + 1e-3).sqrt()
            values = values.where(values > 0, 0.01 * values)
        weight, bias = critic.dense.weight.detach().double(), critic.dense.bias.detach().double()
        score = values.flatten(1) @ weight.T + bias
        score = (score - score.mean()) / (score.var(correction=0) + 1e-3).sqrt()
        logits.append(score.numpy())
    real, fake = (1 / (1 + np.exp(-z)) for z in logits)
    return float(-(np.log(real) + np.log(1 - fake)).mean())


def test_with_batch_norm_ds_loss_is_that_of_a_normalised_score() -> None:
    """As in the seed, against sums written out here in double."""
    game = make_game(norm="batch")
    expected = dense_norm_loss(game.discriminator, [batch(1), batch(0)])
    assert game.critic_step(batch(5), batch(1), batch(0)) == pytest.approx(expected, abs=1e-5)
    without = make_game(norm="conv")
    assert without.critic_step(batch(5), batch(1), batch(0)) != pytest.approx(expected, abs=1e-2)
