"""Options that were typed in vain are said, of every program; those that count are not."""

import importlib

import click
import pytest
from click.testing import CliRunner

from eyescream_py.system.idle import say_idle
from tests.siblings import SIBLINGS, train
from tests.small_runs import pictures, small_run, use_small_networks

NOWHERE = "--dataset=nowhere"  # every command ends before its work
PICTURES = ("--synth_dir=nowhere", "--real_dir=nowhere", "--gpu=-1")
HD = ("train", "--dataroota=nowhere", "--gpu=-1", "--threads=1")


SMALL = ("--out=x", "--side=16", "--coils=1", "--samples=64", "--segments=2")


def run(module, *words):
    main = importlib.import_module(f"eyescream_py.{module}").main
    done = CliRunner().invoke(main, [*words])
    assert done.exit_code, done.output  # of the missing folder
    return [line for line in done.stdout.splitlines() if line.startswith("Not used ")]


@click.command()
@click.option("-l", "--loud")
@click.option("--times", "count", type=int, default=1)
def command(loud, count):
    say_idle((count == 1, "with --times=1", ("loud",)), (not loud, "in silence", ("count",)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ""),
        (("-l", "x"), "Not used with --times=1: --loud.\n"),
        (("--times=2",), "Not used in silence: --times.\n"),
        (("--times=2", "-l", "x"), ""),
    ],
)
def test_what_was_typed_in_vain_is_said_once(words, said, monkeypatch):
    assert CliRunner().invoke(command, words).stdout == said
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert CliRunner().invoke(command, words).stdout == ""


def test_without_a_command_nothing_is_said(capsys):
    say_idle((True, "ever", ("gpu",)))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("cli.train", ("--D_SGD_lr=1", "--G_SGD_momentum=0.5"),
         ["with --D_optmethod=adam: --D_SGD_lr.", "with --G_optmethod=adam: --G_SGD_momentum."]),
        ("cli.train", ("--D_optmethod=sgd", "--D_SGD_lr=1", "--D_adam_lr=1"),
         ["with --D_optmethod=sgd: --D_adam_lr."]),
        ("cli.train", ("--D_optmethod=sgd", "--G_optmethod=adagrad", "--adam_beta1=0.5"),
         ["without Adam: --adam_beta1."]),
        ("cli.train", ("--D_r1_every=2", "--G_ema=0.9", "--G_ema_power=3", "--aws"),
         ["without --D_r1: --D_r1_every.", "with --G_ema_power: --G_ema.",
          "with --dataset: --aws."]),
        ("cli.train", ("--D_r1_every=2", "--D_r1=1", "--no_fuse", "--fast", "--window=7"),
         ["where no windows are shown: --window.", "on a processor: --fast."]),
        ("cli.train_c2f", ("--G_sgd_lr=0.1", "--no_capture", "--no_fuse", "--rng=lua"),
         ["with --G_optmethod=adam: --G_sgd_lr.",
          "on a processor with --rng=lua: --no_capture, --no_fuse."]),
        ("cli.train_autoencoder", ("--learningRate=1", "--K=3", "--visdom_env=x"),
         ["with --optmethod=adam: --learningRate.", "by this program: --K.",
          "where no windows are shown: --visdom_env."]),
        ("cli.train_autoencoder", ("--optmethod=sgd", "--learningRate=1", "--momentum=0"), []),
        ("cli.train_denoiser", ("--no_fuse", "--strict"), ["on a processor: --strict."]),
    ],
)  # fmt: skip
def test_of_the_trainers(module, words, said, tmp_path):
    plots = () if "auto" in module else ("--noplot",)
    place = (NOWHERE, f"--save={tmp_path}", "--gpu=-1", "--threads=1", "--precision=fp32", *plots)
    assert run(module, *place, *words) == [f"Not used {line}" for line in said]


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("srez.__main__", ("--run=train", NOWHERE, "--port=1", "--noise_dimension=4",
                           "--optimizer=rmsprop", "--epsilon=1", "--features=none"),
         ["by --run=train: --features.", "without --plot: --port.",
          "with --optimizer=rmsprop: --epsilon.", "without --input=noise: --noise_dimension."]),
        ("srez.__main__", ("--run=train", NOWHERE, "--input=noise", "--noise_dimension=4",
                           "--train_noise=0", "--max_batches=9", "--learning_rate_half_life=9"),
         ["with --input=noise: --train_noise.",
          "in so few --max_batches: --learning_rate_half_life."]),
        ("srez.__main__", ("--run=demo", "--train_dir=nowhere", "--max_batches=3", "--gpu=-1"),
         ["by --run=demo: --max_batches, --gpu."]),
        ("srez.__main__", ("--run=upscale", "--max_batches=3", "--out_dir=x", "nowhere.png"),
         ["by --run=upscale: --max_batches."]),
        ("srez.__main__", ("--run=evaluate", "--crop=lfw", "--bn=batch", "--checkpoint_dir=no"),
         ["by --run=evaluate: --crop."]),
        ("image_model.__main__",
         ("train", *PICTURES, "--llr=0.1", "--rlr=0.1", "--diter=2", "--cache_size=99",
          "--L1_weight=2", "--features=none", "--no_capture"),
         ["without --wgan: --diter.", "without --use_replay: --cache_size.",
          "without --L1: --L1_weight.", "without --L1 or --self_l1: --llr.",
          "without --features_loss: --features.", "without --use_recon: --rlr."]),
        ("image_model.__main__",
         ("train", *PICTURES, "--self_l1=1", "--llr=0.1", "--wgan", "--diter=2", "--d_limit=2"),
         ["with --wgan: --d_limit."]),
        ("ganless_hd.__main__",
         (*HD, "--noplot", "--port=1", "--ema-decay=0.9", "--cache-gb=0", "--cache=x"),
         ["with --noplot: --port.", "with --cache-gb=0: --cache.",
          "without --averaging=ema: --ema-decay."]),
        ("ganless_hd.__main__", (*HD, "--averaging=ema", "--ema-decay=0.9"), []),
        ("mln.__main__", ("import", "nowhere.h5", "--out=x", "--maps=m", "--coil-method=joint"),
         ["with an ISMRMRD file: --maps.", "with --maps: --coil-method."]),
        ("mln.__main__", ("estimate-coils", "--scan=x", "--out=x", "--AcqTime=9", "--nTraj=64"),
         ["by estimate-coils: --AcqTime."]),
        ("mln.__main__", ("estimate-b0", "--scan=x", "--out=x", "--AcqTime=9", "--UseB0=1"),
         ["by estimate-b0: --UseB0."]),
        ("mln.__main__", ("reconstruct", "--method=cg", "--prefix=x", "--out=x", "--gpu=-1",
                          "--cg-steps=3", "--tv-weight=1", "--half",
                          "--LoadAndRunOnData_Prefix=y"),
         ["with --method=cg: --tv-weight.", "with --method=cg: --half.",
          "with --prefix: --LoadAndRunOnData_Prefix."]),
    ],
)  # fmt: skip
def test_of_the_siblings(module, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(module, *words)
    capture = "Not used on a processor: --no_capture."  # where this machine has no GPU
    assert [line for line in found if line != capture] == [f"Not used {line}" for line in said]


def test_of_a_protocol_and_a_training_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("eyescream_py.mln.__main__").main
    made = CliRunner().invoke(main, ["simulate", *SMALL, "--acceleration=2"])
    assert made.exit_code == 0, made.output
    assert "with --kind=spiral: --acceleration.\nNot used without --b0: --segments." in made.stdout
    words = ["train", "--params=x/Params.txt", "--gpu=-1", "--no-capture", "--plot-port=1",
             "--test-images=0", "--wavelet", "--resume=nowhere", "--out=x",
             "--InitSweeps=2", "--Init=random"]  # fmt: skip
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert [line for line in done.stdout.splitlines() if "Not used" in line] == [
        "Not used with --resume, which began before: --Init, --InitSweeps.",
        "Not used on a processor: --no-capture.",
        "Not used without --plots: --plot-port.",
        "Not used with --test-images=0: --wavelet.",
        "Not used with --resume, whose folder goes on: --out.",
    ]


def test_what_lua_never_used_is_said_once(tmp_path):
    main = importlib.import_module("eyescream_py.cli.train_autoencoder").main
    words = [NOWHERE, f"--save={tmp_path}", "--gpu=-1", "--threads=1", "--K=3", "--hidden_D=4"]
    assert CliRunner().invoke(main, words).stdout.count("--K") == 1


def test_the_seed_of_a_run_that_goes_on(tmp_path, sibling_data, sibling_runs, monkeypatch):
    use_small_networks(monkeypatch)
    faces = pictures(tmp_path, "train")
    small_run("train", tmp_path / "run", faces, "--epochs=1")
    more = ("--network=adversarial.net", "--epochs=2")
    said = small_run("train", tmp_path / "run", faces, *more, "--seed=5")
    line = "Not used with --network, whose random numbers go on: --seed.\n"
    assert said.count(line) == 1
    assert "Not used" not in small_run("train", tmp_path / "run", faces, *more)
    more = SIBLINGS["image_model"].goes_on(sibling_runs["image_model"])
    said = train("image_model", sibling_data, tmp_path / "x", *more, "--seed=5").stdout
    assert "Not used with --load, whose random numbers go on: --seed.\n" in said


def test_a_start_that_is_random_needs_no_examples(tmp_path, sibling_data):
    said = train("mln", sibling_data, tmp_path, "--InitExamples=9", "--batches=1").stdout
    assert "Not used with --Init=random: --InitExamples.\n" in said
