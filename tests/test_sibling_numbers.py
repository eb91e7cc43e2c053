"""Numbers that no machine could serve, for every number option of the siblings' commands: refused
in a line that names the flag before anything is made, but for those that say when or how often.
"""

import importlib

import click
import pytest
from click.testing import CliRunner

from tests.siblings import CPU, SIBLINGS, train

HUGE = {"integer": str(2**31 - 1), "float": "3e38"}
# How long a training lasts: a large number is what people mean by "until I stop it".
LENGTH = {"--max_batches", "--max_steps", "--max-steps", "--epochs", "--batches", "--itersPerEpoch"}
# What is done seldom, at most, or not at all with a huge number.
HARMLESS = {
    "srez": {
        "--train_images", "--noise_dimension", "--learning_rate_half_life", "--train_time",
        "--summary_period", "--checkpoint_period", "--outscale", "--output_image", "--random_seed",
    },
    "image_model": {
        "--display_freq", "--gen_print_freq", "--ckpt_freq", "--gen_num", "--seed",
    },
    "ganless_hd": {
        "--print-every", "--sheet-every", "--save-every", "--seed", "--encoderStep", "--levels",
    },
    "mln": {
        "--learning_rate_half_life", "--train_time", "--summary_period", "--checkpoint_period",
        "--QuickFailureTimeM", "--QuickFailureThresh", "--BankSize", "--BankK", "--nToLoad",
        "--Seed",
    },
}  # fmt: skip
# Other commands, with arguments that let them come as far as the numbers.
OTHERS = {
    ("image_model", "make-data"): ("--output_dir=x",),
    ("image_model", "semi-stage1"): (),
    ("image_model", "semi-stage2"): ("--load_encoder=x",),
    ("ganless_hd", "sample"): ("x.png",),
    ("ganless_hd", "make-data"): ("x",),
    ("mln", "simulate"): ("--out=x",),
    ("mln", "import"): ("x.h5", "--out=x"),
    ("mln", "demo"): ("x",),
    ("mln", "reconstruct"): ("--prefix=x", "--out=x", "--method=cg"),
    ("mln", "estimate-coils"): ("--scan=x", "--out=x"),
}
# Compared with files, or read only once a file was found that is not here.
LATER = {
    "--max_steps", "--display_freq", "--gen_print_freq", "--gen_num", "--ckpt_freq", "--seed",
    "--tile", "--RealDatancc", "--nTraj", "--nccInData", "--nccToUse", "--DataH", "--threads",
    "--gpu", "--decay_steps", "--cache_size", "--test_vectors",
}  # fmt: skip


def command_of(name, word="train"):
    main = importlib.import_module(f"eyescream_py.{name}.__main__").main
    return main.commands[word] if isinstance(main, click.Group) else main


def huge_flags(command):
    """`--flag` -> `--flag=number`, of all number options."""
    found = {}
    for option in command.params:
        kind = option.type.name.split()[0]
        if isinstance(option, click.Option) and kind in HUGE:
            most = getattr(option.type, "max", None)
            least_wrong = most + 1 if most is not None and most < 2**31 - 1 else HUGE[kind]
            found[option.opts[0]] = f"{option.opts[0]}={least_wrong}"
    return found


def assert_refused(done, flag):
    assert done.exit_code == 2, (flag, done.output, done.exception)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("Error: "), (flag, done.stderr)
    assert flag.lstrip("-") in line, (flag, line)


@pytest.mark.parametrize("name", SIBLINGS)
def test_no_training_begins(name, sibling_data, tmp_path):
    flags = huge_flags(command_of(name))
    assert set(flags) > HARMLESS[name]
    for flag in flags.keys() - HARMLESS[name] - LENGTH:
        run = tmp_path / "run"
        assert_refused(train(name, sibling_data, run, flags[flag]), flag)
        assert not run.exists() or not list(run.rglob("*.safetensors"))


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_training_with_all_others_runs(name, sibling_data, tmp_path):
    flags = huge_flags(command_of(name))
    words = [flags[flag] for flag in sorted(HARMLESS[name]) if "eed" not in flag]
    done = train(name, sibling_data, tmp_path / "run", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert list((tmp_path / "run").glob(SIBLINGS[name].checkpoint))


@pytest.mark.parametrize(("name", "word"), OTHERS)
def test_no_other_command_begins(name, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = command_of(name, word)
    for flag, typed in huge_flags(command).items():
        if flag not in LATER:
            done = CliRunner().invoke(command, [*OTHERS[name, word], typed])
            assert_refused(done, flag)
    assert not list(tmp_path.iterdir())


def test_srez_has_programs_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unread = HARMLESS["srez"] | LENGTH | LATER | {"--minutes", "--batch_size"}
    for module, args in (("make_data", ()), ("bench", ("--dataset=x",))):
        command = importlib.import_module(f"eyescream_py.srez.{module}").main
        for flag, typed in huge_flags(command).items():
            if flag not in unread:
                done = CliRunner().invoke(command, [*args, typed, *(CPU if args else ())])
                assert_refused(done, flag)
    assert not list(tmp_path.iterdir())
