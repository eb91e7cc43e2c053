"""Every number of a command line arrives where it acts: with the right player, for what it is."""

from types import SimpleNamespace

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.data.dataset import Dataset
from eyescream_py.game import precision, trial
from eyescream_py.game.adversarial import FaultyPenalty, Penalty
from eyescream_py.game.adversarial_c2f import PairFeed, StalePairFeed
from eyescream_py.game.answers import Logits, Probabilities, bce_loss
from eyescream_py.networks.cpu_layers import speed_up
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.torch7.optim import SGD, Adagrad, Adam
from eyescream_py.training import c2f, faces, players, reconstruct
from eyescream_py.training.game import LAST_RATE
from eyescream_py.training.reconstruct import absolute_error
from tests.small_runs import SCRIPTS, invoke, pictures, small_run, use_small_networks
from tests.system.test_compiled import needs_compiler

OWNERS = {"train": faces, "train_c2f": c2f}  # of `Run`; the other two are built in one file


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The task that a command line builds, which is not trained."""
    use_small_networks(monkeypatch)
    made = []

    def run(task, *given):
        made.append(task)
        return SimpleNamespace(go=lambda: None)

    def build(script, *flags):
        monkeypatch.setattr(OWNERS.get(script, reconstruct), "Run", run)
        small_run(script, tmp_path, pictures(tmp_path, script), *flags)
        return made[-1]

    return build


@needs_compiler
@pytest.mark.parametrize("flag", ["", "--no_fuse"])
def test_kernels_in_c_are_taken_unless_asked_not_to(flag, built, monkeypatch):
    asked, chosen = [], trial.chosen

    def told(net, rounded, compiled):
        asked.append(compiled)
        speed_up(net, rounded, compiled)

    def tried(*given, compiled):
        asked.append(compiled)
        return chosen(*given, compiled=compiled)

    monkeypatch.setattr(players, "speed_up", told)
    monkeypatch.setattr(trial, "chosen", tried)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    game = built("train", "--precision=auto", *filter(None, [flag])).game
    assert asked == 3 * [not flag]
    assert [bool(player.optimizer.joined) for player in (game.D, game.G)] == 2 * [not flag]


def test_rates_and_penalties_of_either_player(built):
    game = built(
        "train", "--D_optmethod=sgd", "--D_SGD_lr=0.11", "--D_SGD_momentum=0.12",
        "--G_SGD_lr=0.9", "--D_adam_lr=0.9", "--G_adam_lr=0.13", "--adam_beta1=0.4",
        "--adam_beta2=0.95", "--D_L1=0.001", "--D_L2=0.002", "--G_L1=0.003", "--G_L2=0.004",
        "--D_clamp=0.5", "--G_clamp=0.6", "--D_iterations=2", "--G_iterations=3",
    ).game  # fmt: skip
    D, G = game.D.optimizer, game.G.optimizer
    assert (type(D), D.lr, D.momentum) == (SGD, 0.11, 0.12)
    assert (type(G), G.lr, G.betas) == (Adam, 0.13, (0.4, 0.95))
    assert (game.D.penalty, game.G.penalty) == (Penalty(0.001, 0.002), Penalty(0.003, 0.004))
    assert (game.D.clamp, game.G.clamp) == (0.5, 0.6)
    assert (game.D_iterations, game.G_iterations) == (2, 3)
    assert isinstance(game.answers, Logits)


def test_the_other_players_rates(built):
    game = built(
        "train", "--D_optmethod=adagrad", "--D_adam_lr=0.9", "--G_optmethod=sgd",
        "--G_SGD_lr=0.21", "--G_SGD_momentum=0.22", "--D_SGD_momentum=0.9", "--G_adam_lr=0.9",
    ).game  # fmt: skip
    D, G = game.D.optimizer, game.G.optimizer
    assert (type(D), D.lr) == (Adagrad, 1e-3)
    assert (type(G), G.lr, G.momentum) == (SGD, 0.21, 0.22)


def test_what_is_beyond_the_lua_program(built):
    task = built(
        "train", "--D_maxAcc=0.7", "--D_smooth=0.2", "--D_r1=1.5", "--D_r1_every=5",
        "--D_spectral=0.9", "--D_augment=cutout,mirror", "--shared_pictures", "--G_ema=0.8",
        "--evaluate_every=7", "--window=9",
    )  # fmt: skip
    game, taming = task.game, task.game.taming
    assert game.gate.bound == 0.7
    assert (taming.slope.weight, taming.slope.every, taming.bound.bound) == (1.5, 5, 0.9)
    assert taming.bound.weights[0] is game.D.network[0].weight
    assert taming.augment.kinds == ("cutout", "mirror")
    assert taming.augment.source is game.feed.source is task.source
    assert game.feed.real_target == 0.8
    assert game.feed.shared
    assert (game.ema.decay, game.ema.power) == (0.8, 0)
    assert (task.evaluate_every, task.window) == (7, 9)
    power = built("train", "--G_ema_power=4").game
    assert power.ema.power == 4
    assert power.ema.network is power.G.network
    assert power.gate.bound == 1.01  # never closed


def test_a_replay_has_luas_answers_penalty_and_buffers(built):
    game = built("train_c2f", "--rng=lua", "--G_L2=0.1").game
    assert isinstance(game.answers, Probabilities)
    assert (type(game.G.penalty), type(game.D.penalty)) == (FaultyPenalty, Penalty)
    assert type(game.feed) is StalePairFeed


def test_pairs(built):
    rates = ("--D_sgd_lr=0.11", "--D_sgd_momentum=0.12", "--G_sgd_lr=0.21", "--G_sgd_momentum=0.22")
    task = built("train_c2f", "--D_optmethod=sgd", "--G_optmethod=sgd", "--parzenImages=3", *rates)
    D, G = task.game.D.optimizer, task.game.G.optimizer
    assert (D.lr, D.momentum, G.lr, G.momentum) == (0.11, 0.12, 0.21, 0.22)
    assert type(task.feed) is PairFeed
    assert (task.feed.coarse_size, task.parzen_images, task.tries) == (2, 3, 4)
    trained, held = (
        {bytes(image.numpy()) for image in data.images}
        for data in (task.feed.dataset, task.validation)
    )
    assert (len(trained), len(held), trained & held) == (16, 4, set())
    rates = [built("train_c2f", "--D_optmethod=adagrad", "--G_optmethod=adagrad").game]
    assert [(g.D.optimizer.lr, g.G.optimizer.lr) for g in rates] == [(1e-3, 3e-3)]


def test_both_players_follow_a_rate_that_falls_and_one_that_is_halved(built):
    task = built("train", "--epochs=10", "--lr_fall=0.5", "--G_adam_lr=0.25", "--D_adam_lr=0.5")
    optimizers = task.game.D.optimizer, task.game.G.optimizer
    task.learn_at(10)
    assert [o.lr for o in optimizers] == pytest.approx([0.5 * LAST_RATE, 0.25 * LAST_RATE])
    task.learn_at(5)
    task.halve_learning_rate()
    assert [o.lr for o in optimizers] == [0.25, 0.125]


def test_the_autoencoder(built):
    flags = ("--learningRate=0.11", "--momentum=0.12", "--coefL1=0.001", "--coefL2=0.002")
    task = built("train_autoencoder", "--optmethod=sgd", *flags)
    (stage,) = task.model.stages
    assert (stage.optimizer.lr, stage.optimizer.momentum) == (0.11, 0.12)
    assert (stage.penalty, stage.clamp) == (Penalty(0.001, 0.002), 0)
    assert task.model.criterion is absolute_error
    assert task.model.with_penalty
    assert (len(task.train), len(task.validation)) == (18, 2)
    task.halve_learning_rate()
    assert stage.optimizer.lr == 0.055
    orders = []
    for _ in range(2):
        task.begin_epoch()
        orders.append(task.order.tolist())
        assert sorted(orders[-1]) == list(range(18))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("borders", "cut"), [(None, 36), ((0, 20, 36), 36), ((0, 20, 37), 20), ((0, 36, 37), 36)]
)
def test_copies_of_a_picture_train_or_validate(borders, cut):
    rows = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    train, rest = reconstruct.split(Dataset(rows, "copies", borders), 9)
    assert train.images.flatten().tolist() == list(range(cut))
    assert rest.images.flatten().tolist() == list(range(cut, cut + 4))  # a tenth at most


@pytest.mark.parametrize("rng", ["torch", "lua"])
def test_the_denoisers_stages_start_alike(rng, built):
    task = built(
        "train_denoiser", "--AE_clamp=0.3", "--coefL1=0.001", "--coefL2=0.002", f"--rng={rng}"
    )
    first, second = task.model.stages
    for p, q in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p is not q
    for stage in (first, second):
        assert (stage.penalty, stage.clamp) == (Penalty(0.001, 0.002), 0.3)
        assert type(stage.optimizer) is Adam
    assert task.model.criterion is bce_loss
    assert task.model.as_lua == (rng == "lua")
    task.halve_learning_rate()
    assert [stage.optimizer.lr for stage in (first, second)] == [0.0005, 0.0005]


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (create_autoencoder((1, 8, 8), 4)[:10], "is no autoencoder of train_autoencoder.py"),
        (create_autoencoder((1, 8, 8), 5), "has a code of 5 numbers; give --noiseDim=5"),
        (
            create_autoencoder((1, 6, 6), 4),
            "36 values, --scale=8 with 1 channel needs 64",
        ),
    ],
)
def test_decoders_that_do_not_fit_are_refused(whole, words, tmp_path):
    torch7.save(tmp_path / "other.net", {"AE": torch7.from_module(whole)})
    given = f"--dataset={pictures(tmp_path, 'train')}", f"--autoencoder={tmp_path / 'other.net'}"
    done = invoke("train", *SCRIPTS["train"], f"--save={tmp_path}", *given)
    assert done.exit_code == 2
    assert words in done.output


def test_a_decoder_stands_before_G_and_never_learns(built, tmp_path):
    whole = create_autoencoder((1, 8, 8), 4)
    torch7.save(tmp_path / "autoencoder.net", {"AE": torch7.from_module(whole)})
    task = built("train", f"--autoencoder={tmp_path / 'autoencoder.net'}")
    decoder, G = task.game.feed.generate
    assert G is task.game.G.network
    assert decoder is task.decoder is task.networks()["AE_decoder"]
    assert torch.equal(decoder[0].weight, whole[6].weight)
    assert not any(p.requires_grad for p in decoder.parameters())
    assert not decoder.training
    noise = torch.rand(3, 4)
    with torch.no_grad():
        assert torch.equal(task.make(noise), G(decoder(noise)))


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_a_decoder_computes_in_the_run_s_precision(precision, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    whole = create_autoencoder((1, 8, 8), 4)
    torch7.save(tmp_path / "autoencoder.net", {"AE": torch7.from_module(whole)})
    given = f"--autoencoder={tmp_path / 'autoencoder.net'}", f"--precision={precision}"
    small_run("train", tmp_path, pictures(tmp_path, "train"), *given, "--epochs=1")
    made = torch7.load(tmp_path / "adversarial.net")
    assert torch.equal(torch7.to_module(made["AE_decoder"])[0].weight, whole[6].weight)
