"""--network: what shapes the networks and nobody typed is taken from the file, in every trainer."""

import pytest
import torch

from eyescream_py import torch7
from tests.small_runs import (
    FILES,
    SCRIPTS,
    invoke,
    pictures,
    records,
    small_run,
    use_small_networks,
)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_the_file_says_what_shapes_its_networks(script, tmp_path, monkeypatch):
    """The only flags typed here are those that a run of another place has to type anyway."""
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    shaping = {"--scale", "--grayscale", "--noiseDim", "--coarseSize", "--fineSize"}
    rest = [flag for flag in SCRIPTS[script] if flag.partition("=")[0] not in shaping]
    small_run(script, tmp_path / "whole", data, "--epochs=2")
    small_run(script, tmp_path / "cut", data, "--epochs=1")
    again = (f"--network={FILES[script]}", "--epochs=2", f"--dataset={data}", *rest)
    done = invoke(script, f"--save={tmp_path / 'cut'}", *again)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Taken from ")
    assert records(tmp_path / "cut/metrics.jsonl") == records(tmp_path / "whole/metrics.jsonl")
    whole, cut = (torch7.load(tmp_path / run / FILES[script])["opt"] for run in ("whole", "cut"))
    assert {name for name in whole if whole[name] != cut[name]} <= {"save", "network"}


@pytest.mark.parametrize(
    ("made_by", "given_to", "words"),
    [("train", "train_c2f", "holds no upscaler"), ("train_c2f", "train", "holds an upscaler")],
)
def test_the_file_of_another_trainer_is_called_so(made_by, given_to, words, tmp_path):
    name = str(tmp_path / FILES[made_by])
    small_run(made_by, tmp_path, pictures(tmp_path, made_by), "--epochs=1")
    done = invoke(given_to, *SCRIPTS[given_to], f"--network={name}", f"--save={tmp_path / 'new'}")
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        2, next(line for line in done.output.splitlines() if f"--network={name} {words}" in line),
    )  # fmt: skip


@pytest.mark.parametrize("script", sorted(SCRIPTS))
@pytest.mark.parametrize("opt", [None, {"scale": 16, "noiseDim": 9, "fineSize": 6}])
def test_networks_say_it_where_the_options_do_not(script, opt, tmp_path, monkeypatch):
    """Files of other dates keep no options, and some that are not those of their networks."""
    use_small_networks(monkeypatch)
    data = pictures(tmp_path, script)
    shaping = {"--scale", "--grayscale", "--noiseDim", "--coarseSize", "--fineSize"}
    rest = [flag for flag in SCRIPTS[script] if flag.partition("=")[0] not in shaping]
    small_run(script, tmp_path, data, "--epochs=1")
    content = torch7.load(tmp_path / FILES[script])
    content.pop("opt", None)
    torch7.save(tmp_path / FILES[script], {**content, **({"opt": opt} if opt else {})})
    again = (f"--network={FILES[script]}", "--epochs=2", f"--dataset={data}", *rest)
    done = invoke(script, f"--save={tmp_path}", *again)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Taken from ")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Makes a small run of one epoch whose file's options are changed; the flags to continue it
    but for those that shape its networks."""

    def make(**opt):
        use_small_networks(monkeypatch)
        data = pictures(tmp_path, "train")
        small_run("train", tmp_path, data, "--epochs=1")
        content = torch7.load(tmp_path / "adversarial.net")
        content["opt"].update(opt)
        torch7.save(tmp_path / "adversarial.net", content)
        more = ("--noplot", "--batchSize=4", "--N_epoch=12", "--gpu=-1", "--threads=1")
        at = (f"--save={tmp_path}", f"--dataset={data}", "--epochs=2", "--precision=fp32")
        return (*at, *more, "--network=adversarial.net")

    return make


def opt_of(folder):
    return torch7.load(folder / "adversarial.net")["opt"]


OF_ANOTHER_PLACE = {
    "saveFreq": 9, "noplot": False, "plot": True, "threads": 3, "gpu": 7, "window": 5, "aws": True,
    "dataset": "faces", "log_every": 9, "visdom_server": "there", "visdom_port": 9, "seed": 9,
    "visdom_env": "x", "precision": "fp64", "strict": True, "fast": True, "no_capture": True,
    "no_fuse": True, "on_nan": "rollback", "recipe": "best", "denoise": True, "weightsVisFreq": 9,
    "evaluate_every": 9, "K": 9, "hidden_G": 9, "hidden_D": 9, "save": "x", "network": "x.net",
}  # fmt: skip


def test_other_options_are_a_hint_only(kept, tmp_path):
    flags = kept(D_L2=0, D_clamp=0.5, D_smooth="x", **OF_ANOTHER_PLACE)
    own = [flag for flag in flags if not flag.startswith(("--threads", "--gpu", "--precision"))]
    done = invoke("train", *own, "--D_clamp=0.25")
    assert done.exit_code == 0, done.output
    hint = next(line for line in done.output.splitlines() if line.startswith("Type these"))
    assert hint == f"Type these to go on as {tmp_path / 'adversarial.net'} did: --D_L2=0"
    assert (opt_of(tmp_path)["D_L2"], opt_of(tmp_path)["D_clamp"]) == (1e-4, 0.25)


def test_a_typed_recipe_wins_but_for_the_networks(kept, tmp_path):
    done = invoke("train", *kept(D_arch="b", D_L2=0.5), "--recipe=large")
    assert done.exit_code == 0, done.output
    assert (opt_of(tmp_path)["D_L2"], opt_of(tmp_path)["D_arch"]) == (0, "b")
    assert "Taken from" in done.output
    assert "--D_arch=b" in done.output
    assert "--D_L2=0.5" in done.output


def test_an_autoencoder_that_is_gone_is_not_asked_for(kept, tmp_path):
    done = invoke("train", *kept(autoencoder=str(tmp_path / "gone.net")))
    assert done.exit_code == 0, done.output
    assert "gone.net" not in done.output.splitlines()[0]


def test_an_autoencoder_is_found_in_save_and_missed_where_its_decoder_was_used(tmp_path):
    """--autoencoder=NAME means that file in --save, also when the run goes on."""
    data = pictures(tmp_path, "train")
    small = ("--scale=8", "--noiseDim=4", "--batchSize=4", "--threads=1", "--precision=fp32")
    small_run("train_autoencoder", tmp_path, data, *small, "--epochs=1")
    given = ("--N_epoch=12", "--noplot", "--gpu=-1", f"--save={tmp_path}", f"--dataset={data}")
    again = (*given, "--batchSize=4", "--network=adversarial.net")
    new = (*small, *given, "--grayscale", "--autoencoder=autoencoder.net", "--epochs=1")
    assert invoke("train", *new).exit_code == 0
    done = invoke("train", *again, "--epochs=2")
    assert done.exit_code == 0, done.output
    assert "--autoencoder=autoencoder.net" in done.output.splitlines()[0]
    (tmp_path / "autoencoder.net").rename(tmp_path / "moved.net")
    done = invoke("train", *again, "--epochs=3")
    assert done.exit_code == 2
    assert "was trained with --autoencoder=autoencoder.net, which is no file" in done.stderr
    done = invoke("train", *again, "--epochs=3", "--autoencoder=moved.net")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("typed", [False, True])
def test_the_run_of_a_recipe_with_an_autoencoder_goes_on(typed, tmp_path):
    """Files of earlier versions name the G that their recipe would have had."""
    autoencoder = tmp_path / "autoencoder.net"
    flags = ("--scale=8", "--noiseDim=4", "--batchSize=4", "--threads=1", "--precision=fp32")
    data = pictures(tmp_path, "train")
    small_run("train_autoencoder", tmp_path, data, *flags, "--epochs=1")
    more = [f"--autoencoder={autoencoder}"]
    small_run("train", tmp_path, data, *more, "--recipe=best", "--epochs=1", "--evaluate_every=0")
    content = torch7.load(tmp_path / "adversarial.net")
    content["opt"]["G_arch"] = "conv"
    torch7.save(tmp_path / "adversarial.net", content)
    again = (f"--save={tmp_path}", f"--dataset={data}", "--network=adversarial.net", "--epochs=2")
    place = ("--noplot", "--batchSize=4", "--N_epoch=12", "--gpu=-1")
    done = invoke("train", *again, *place, *(more if typed else []))
    assert done.exit_code == 0, done.output
    assert opt_of(tmp_path)["G_arch"] == "mlp"


@pytest.mark.parametrize(
    "opt",
    [
        {"scale": -4}, {"scale": "x"}, {"scale": float("nan")}, {"scale": True},
        {"scale": torch.ones(3)}, {"noiseDim": 2**60}, {"G_arch": "magic"}, {"grayscale": 7},
    ],
)  # fmt: skip
def test_nonsense_in_a_file_is_named(opt, kept):
    done = invoke("train", *kept(**opt))
    assert done.exit_code == 2, done.output
    assert f"its option {next(iter(opt))} makes no sense" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("opt", [None, 7, "text", torch.ones(2)])
def test_a_file_without_options_is_continued_by_flags(opt, kept, tmp_path):
    flags = kept()
    content = torch7.load(tmp_path / "adversarial.net")
    content["opt"] = opt
    torch7.save(tmp_path / "adversarial.net", content)
    done = invoke("train", *flags, "--scale=8", "--grayscale", "--noiseDim=4")
    assert done.exit_code == 0, done.output


def test_networks_of_other_planes_go_on(tmp_path):
    data = pictures(tmp_path, "train")
    wide = ("--G_arch=conv", "--D_arch=small", "--G_planes=24", "--D_planes=16")
    small_run("train", tmp_path, data, *wide, "--epochs=1")
    place = ("--noplot", "--batchSize=4", "--N_epoch=12", "--gpu=-1", "--threads=1", "--epochs=2")
    again = (f"--save={tmp_path}", f"--dataset={data}", "--network=adversarial.net", *place)
    done = invoke("train", *again, "--precision=fp32")
    assert done.exit_code == 0, done.output
    assert (opt_of(tmp_path)["G_planes"], opt_of(tmp_path)["D_planes"]) == (24, 16)


def test_the_faces_of_the_package_learn_on(tmp_path):
    """Fine-tuning: the file of another size, architecture and recipe, by its name alone."""
    places = (f"--save={tmp_path}", "--dataset=embedded", "--noplot", "--gpu=-1", "--threads=1")
    few = ("--batchSize=4", "--N_epoch=4", "--epochs=221", "--precision=fp32")
    done = invoke("train", "--network=pretrained:faces16", *places, *few)
    assert done.exit_code == 0, done.output
    assert "--scale=16" in done.output
    assert "--G_ema_power=13" in done.output
    assert (opt_of(tmp_path)["scale"], opt_of(tmp_path)["G_arch"]) == (16, "conv")
