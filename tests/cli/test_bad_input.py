"""Over sixty bad inputs: one clear line, exit code 2, no traceback, every file as it was."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eyescream_py import torch7
from eyescream_py.training import setup
from tests.commands import run
from tests.golden_data import GOLDEN
from tests.picture_files import write_faces
from tests.small_runs import FILES, SCRIPTS, invoke, pictures, small_run, use_small_networks

MINI = GOLDEN / "adversarial_mini.net"

# script, arguments, what the line must name; {x} stands for a thing that `things` makes
TRAIN = [
    ("--batchSize=5", "--batchSize=5"),
    ("--batchSize=2", "--batchSize=2"),
    ("--batchSize=0", "--batchSize=0"),
    ("--batchSize=-4", "--batchSize=-4"),
    ("--batchSize=many", "many"),
    ("--batchSize=4.5", "4.5"),
    ("--scale=7", "--scale=7"),
    ("--scale=0", "--scale"),
    ("--scale=-16", "--scale"),
    ("--scale=100000", "--scale=100000"),
    ("--scale=99999999999999999999", "--scale"),
    ("--noiseDim=0", "--noiseDim"),
    ("--noiseDim=100000000000", "--noiseDim=100000000000"),
    ("--D_optmethod=rmsprop", "rmsprop"),
    ("--G_optmethod=", "G_optmethod"),
    ("--D_adam_lr=nan", "nan"),
    ("--G_adam_lr=-0.5", "'--G_adam_lr': -0.5"),
    ("--D_SGD_lr=-1", "--D_SGD_lr"),
    ("--D_SGD_momentum=1.5", "1.5"),
    ("--D_L2=inf", "inf"),
    ("--D_L1=-1", "--D_L1"),
    ("--D_clamp=-1", "--D_clamp"),
    ("--D_maxAcc=1e99", "1e99"),
    ("--D_iterations=0", "--D_iterations"),
    ("--N_epoch=0", "--N_epoch=0"),
    ("--N_epoch=3", "--N_epoch=3"),
    ("--N_epoch=-2", "--N_epoch=-2"),
    ("--saveFreq=0", "--saveFreq"),
    ("--epochs=-1", "--epochs"),
    ("--log_every=-1", "--log_every"),
    ("--seed=-1", "--seed"),
    ("--seed=99999999999999999999", "--seed"),
    ("--threads=0", "--threads=0"),
    ("--threads=1000000", "--threads=1000000"),
    ("--gpu=77", "--gpu=77"),
    ("--precision=fp8", "fp8"),
    ("--on_nan=ignore", "ignore"),
    ("--rng=lua --gpu=0", "--rng=lua"),
    ("--G_ema=1", "--G_ema"),
    ("--D_smooth=0.6", "--D_smooth"),
    ("--D_augment=mirror,zoom", "'zoom'"),
    ("--D_r1=-1", "--D_r1"),
    ("--D_spectral=-0.5", "--D_spectral"),
    ("--G_arch=vit", "vit"),
    ("--G_planes=9", "--G_planes=9"),
    ("--G_arch=conv --D_planes=9", "--D_planes=9"),
    ("--D_arch=deep --D_planes=-1", "--D_planes"),
    ("--D_arch=b", "--scale=8"),
    ("--visdom_port=0", "--visdom_port"),
    ("--no_such_flag", "--no_such_flag"),
    ("--dataset={missing}", "missing"),
    ("--dataset={empty}", "empty"),
    ("--dataset={text}", "text"),
    ("--dataset={broken_pictures}", "broken"),
    ("--dataset={text_t7}", "text.t7"),
    ("--dataset={cut_t7}", "cut.t7"),
    ("--dataset={ints_t7}", "ints.t7"),
    ("--dataset={other_size_t7}", "change --scale or --grayscale, or"),
    ("--dataset={out_of_range_t7}", "0..1"),
    ("--dataset={three_t7} --N_epoch=-1", "shorter than a batch"),
    ("--network=nowhere.net", "nowhere.net"),
    ("--network={text}", "not a Torch 7 file"),
    ("--network={empty_file}", "empty_file"),
    ("--network={cut_net}", "cut.net"),
    ("--network={zip_net}", "zip"),
    ("--network={pickle_net}", "pickle"),
    ("--network={number_net}", "number.net"),
    ("--network={mini_net}", "adversarial_mini.net"),
    ("--network={other_class_net}", "other_class.net"),
    ("--network={no_G_net}", "no network G"),
    ("--network={nan_net}", "not finite"),
    ("--network={mad_resume_net}", "makes no sense"),
    ("--network={mad_position_net}", "makes no sense"),
    ("--network={own_net} --D_optmethod=sgd --D_SGD_momentum=0.5", "--D_optmethod"),
    ("--network={own_net} --rng=lua", "--rng"),
    ("--network={own_net} --noiseDim=5", "(2048, 5)"),
    ("--autoencoder=nowhere.net", "nowhere.net"),
    ("--autoencoder={own_net}", "no network AE"),
    ("--denoise", "train_denoiser.py"),
    ("--save={text}", "text"),
    ("--save={text}/below", "cannot write"),
    ("--save={net_is_folder}", "adversarial.net is a folder"),
]
OTHERS = [
    ("train_c2f", "--coarseSize=4 --fineSize=4", "--coarseSize=4"),
    ("train_c2f", "--fineSize=7", "--fineSize=7"),
    ("train_c2f", "--fineSize=1000000", "--fineSize=1000000"),
    ("train_c2f", "--dataset={other_size_t7}", "change --fineSize or --grayscale, or"),
    ("train_autoencoder", "--dataset={other_size_t7}", "change --scale, or"),
    ("train_denoiser", "--dataset={other_size_t7}", "change --scale or --grayscale, or"),
    ("sample", "--neighbours --dataset={other_size_t7}", "give a file that has them"),
    ("train_c2f", "--validation=0", "--validation"),
    ("train_c2f", "--validation=20", "20"),
    ("train_c2f", "--parzenImages=0", "--parzenImages"),
    ("train_c2f", "--parzenImages=99999999999", "--parzenImages=99999999999: 4 pictures"),
    ("train_c2f", "--parzenImages=201", "--parzenImages=201"),
    ("train_c2f", "--validation=99999999999", "--validation=99999999999"),
    ("train_c2f", "--noiseDim=99999999999", "--noiseDim=99999999999"),
    ("train_c2f", "--batchSize=99999999998", "--batchSize=99999999998: a batch takes"),
    ("train_c2f", "--batchSize=99999999998 --N_epoch=-1", "--batchSize=99999999998"),
    ("train", "--batchSize=99999999998 --N_epoch=99999999999", "--batchSize=99999999998: a batch"),
    ("train_c2f", "--batchSize=3", "--batchSize=3"),
    ("train_c2f", "--D_sgd_lr=x", "x"),
    ("train_c2f", "--network={own_net}", "own.net"),
    ("train_c2f", "--G_arch=z", "z"),
    ("train_autoencoder", "--batchSize=1", "--batchSize=1"),
    ("train_autoencoder", "--noiseDim=0", "--noiseDim=0"),
    ("train_autoencoder", "--noiseDim=999999999999", "--noiseDim"),
    ("train_autoencoder", "--momentum=2", "2"),
    ("train_autoencoder", "--learningRate=nan", "nan"),
    ("train_autoencoder", "--coefL1=-3", "--coefL1"),
    ("train_autoencoder", "--network={own_net}", "no network AE"),
    ("train_autoencoder", "--dataset={one_t7_4}", "too few"),
    ("train_autoencoder", "--optmethod=lbfgs", "lbfgs"),
    ("train_denoiser", "--scale=3", "--scale=3"),
    ("train_denoiser", "--AE_clamp=-1", "--AE_clamp"),
    ("train_denoiser", "--coefL2=1e39", "1e39"),
    ("train_denoiser", "--batchSize=1", "--batchSize=1"),
    *(
        (script, f"--batchSize={size} --precision=auto", f"--batchSize={size}")
        for script in ("train_c2f", "train_autoencoder", "train_denoiser")
        for size in (1, 0, -3)
    ),
    ("train_denoiser", "--network={text}", "not a Torch 7 file"),
    ("sample", "--G_base=nowhere.net", "nowhere.net"),
    ("sample", "--save_base={empty}", "adversarial.net"),
    ("sample", "--G_base={text}", "not a Torch 7 file"),
    ("sample", "--G_base={cut_net}", "cut.net"),
    ("sample", "--G_base={no_G_net}", "no network G"),
    ("sample", "--G_base={nan_net}", "nan.net: network G holds numbers that are not finite"),
    ("sample", "--G_base={swapped_net}", "swapped.net"),
    ("sample", "--D_base=nowhere.net", "nowhere.net"),
    ("sample", "--scale=64", "--scale"),
    ("sample", "--noiseDim=3", "--noiseDim"),
    ("sample", "--runs=0", "--runs"),
    ("sample", "--batchSize=0", "--batchSize"),
    ("sample", "--gpu=99", "--gpu=99"),
    ("sample", "--threads=-1", "--threads=-1"),
    ("sample", "--seed=-2", "--seed"),
    ("sample", "--interpolate=-1", "--interpolate"),
    ("sample", "--interpolate=2147483647", "--interpolate"),
    ("sample", "--writeto={text}", "text"),
    ("sample", "--neighbours --dataset={missing}", "missing"),
    ("sample", "--G_c2f32={text} --D_c2f32={text}", "not a Torch 7 file"),
    ("sample", "--G_c2f32={missing}", "--G_c2f32"),
    ("sample", "--G_c2f32={text} --D_c2f32={missing}", "--D_c2f32"),
    ("generate_dataset", "", "--path"),
    ("generate_dataset", "--path={missing}", "missing"),
    ("generate_dataset", "--path={text}", "text"),
    ("generate_dataset", "--path={empty}", "empty"),
    ("generate_dataset", "--path={broken_pictures}", "2.png (damaged, or cut short"),
    ("generate_dataset", "--path={wrong_size}", "wrong_size"),
    ("generate_dataset", "--path={wrong_size} --jobs=0", "--jobs"),
    ("generate_dataset", "--path={wrong_size} --seed=x", "x"),
    ("generate_dataset", "--path={wrong_size} --out={text}", "cannot write"),
]


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Every bad file that the tables name."""
    home = tmp_path_factory.mktemp("things")
    monkeypatch = pytest.MonkeyPatch()
    use_small_networks(monkeypatch)
    small_run("train", home / "trained", pictures(home, "train"), "--epochs=1")
    monkeypatch.undo()
    own = (home / "trained" / FILES["train"]).read_bytes()
    named = {"missing": home / "missing", "own_net": home / "own.net"}

    def put(name, data):
        path = home / name
        path.write_bytes(data)
        named[name.replace(".", "_")] = path

    def save(name, value):
        torch7.save(home / name, value)
        named[name.replace(".", "_")] = home / name

    put("own.net", own)
    put("text", b"not what you think\n")
    put("text.t7", b"not what you think\n")
    put("empty_file", b"")
    put("cut.net", own[: len(own) // 2])
    put("zip.net", b"PK\x03\x04" + bytes(100))
    put("pickle.net", b"\x80\x02}q\x00." + bytes(100))
    shutil.copy(MINI, home / MINI.name)
    named["mini_net"] = home / MINI.name
    save("ints.t7", torch.full((4, 1, 8, 8), 256))
    save("other_size.t7", torch.zeros(4, 1, 9, 9))
    save("out_of_range.t7", torch.full((4, 1, 8, 8), 1.5))
    save("three.t7", torch.zeros(3, 1, 8, 8))
    save("one_4.t7", torch.zeros(1, 1, 4, 4))
    named["one_t7_4"] = home / "one_4.t7"
    put("cut.t7", (home / "three.t7").read_bytes()[:200])
    save("number.net", 3.0)
    table = torch7.load(home / "own.net")
    save("no_G.net", {"D": table["D"], "epoch": 1})
    save("other_class.net", {**table, "D": torch7.TorchObject("my.Own", {"weight": 1})})
    save("swapped.net", {**table, "D": table["G"], "G": table["D"]})
    save("nan.net", {**table, "G": torch7.from_module(_not_a_number(table["G"]))})
    resume = {**table["resume"], "state": {**table["resume"]["state"], "feed": 3}}
    save("mad_resume.net", {**table, "resume": resume})
    position = {"epoch": "many", "iteration": -1, "seconds": 0.0}
    save("mad_position.net", {**table, "resume": {**table["resume"], "position": position}})
    for name in ("empty", "net_is_folder/adversarial.net", "broken_pictures", "wrong_size"):
        (home / name).mkdir(parents=True)
        named[name.split("/")[0]] = home / name.split("/")[0]
    for i in range(4):
        (home / "broken_pictures" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
        gray = Image.fromarray(np.full((20, 30), 40 * i, np.uint8))
        gray.save(home / "wrong_size" / f"{i}.jpg")
    write_faces(home / "faces", 20)
    named["faces"] = home / "faces"
    return named


def _not_a_number(stored):
    network = torch7.to_module(stored)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Linear))
    first.weight.data[0, 0] = torch.nan
    return network


def snapshot(folder: Path):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in folder.rglob("*") if ".cache" not in p.parts}  # fmt: skip


def arguments(script, text, things, tmp_path):
    """The small run's arguments with the bad ones after them (the last one of a flag counts)."""
    bad = text.format(**things).split()
    home = things["text"].parent
    if script == "generate_dataset":
        return [f"--out={tmp_path / 'out'}", *bad]
    if script == "sample":
        fixed = [f"--save_base={home / 'trained'}", f"--save_c2f32={home}", "--gpu=-1",
                 f"--writeto={tmp_path / 'samples'}", "--runs=1", "--threads=1"]  # fmt: skip
        return [*fixed, *bad]
    data = pictures(tmp_path, script)
    return [*SCRIPTS[script], f"--save={tmp_path / 'save'}", f"--dataset={data}", "--epochs=1",
            *bad]  # fmt: skip


def assert_one_clear_line(stderr, names):
    lines = stderr.strip().splitlines()
    assert "Traceback" not in stderr
    if lines[0].startswith("Usage:"):
        lines = [line for line in lines[2:] if line]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("Error: ")
    assert names in lines[0]
    assert len(lines[0]) < 600


CASES = [("train", *case) for case in TRAIN] + OTHERS


def test_the_table_is_long_enough():
    assert len(CASES) >= 60
    assert len(set(CASES)) == len(CASES)


@pytest.mark.parametrize(("script", "text", "names"), CASES)
def test_bad_input(script, text, names, things, tmp_path, monkeypatch):
    use_small_networks_except_for_checks(monkeypatch, text)
    if (
        "--batchSize" in text and len(text) < 40
    ):  # no pass is tried, by which --precision=auto would choose
        monkeypatch.setattr(setup, "settled", None)
    home = things["text"].parent
    args = arguments(script, text, things, tmp_path)
    before = snapshot(home)
    done = invoke(script, *args)
    assert done.exit_code == 2, (done.output, done.exception)
    assert_one_clear_line(done.stderr, names)
    assert snapshot(home) == before
    assert not list(tmp_path.rglob("*.net"))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("script", "bad"),
    [
        ("train", "--N_epoch=3"),
        ("train", "--G_adam_lr=-0.5"),
        ("train", "--save={text}"),
        ("train_denoiser", "--save={text}"),
        ("train_c2f", "--N_epoch=-2"),
        ("train_c2f", "--parzenImages=201"),
    ],
)
def test_what_no_pictures_could_mend_is_told_before_they_are_read(
    script, bad, things, tmp_path, monkeypatch
):
    use_small_networks(monkeypatch)
    done = invoke(script, *arguments(script, bad, things, tmp_path))
    assert done.exit_code == 2
    assert "Loading new training data" not in done.output


def use_small_networks_except_for_checks(monkeypatch, text):
    """The real discriminator judges sizes; everything else meets the small one."""
    if "--scale" not in text and "--D_arch" not in text:
        use_small_networks(monkeypatch)


@pytest.mark.parametrize(
    ("script", "args", "names"),
    [
        ("train.py", ("--batchSize=5",), "--batchSize=5"),
        ("train_c2f.py", ("--fineSize=7",), "--fineSize=7"),
        ("sample.py", ("--G_base=no.net", "--gpu=-1"), "no.net"),
        ("dataset/generate_dataset.py", ("--path=no_such_folder",), "no_such_folder"),
    ],
)
def test_the_scripts_themselves(script, args, names):
    done = run(script, *args, check=False)
    assert done.returncode == 2
    assert_one_clear_line(done.stderr, names)


def test_a_few_broken_pictures_are_left_out_and_named(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    folder = tmp_path / "faces"
    write_faces(folder, 40)
    (folder / "zero.png").write_bytes(b"")
    args = [*SCRIPTS["train"], f"--save={tmp_path / 'save'}", f"--dataset={folder}", "--epochs=1"]
    done = invoke("train", *args)
    assert done.exit_code == 0, done.output
    assert "1 broken: zero.png (an empty file)" in done.output


def test_an_epoch_larger_than_the_folder_keeps_its_length(tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    said = small_run(
        "train", tmp_path / "save", pictures(tmp_path, "train"), "--epochs=1", "--N_epoch=28"
    )
    assert "--N_epoch=28 is more than there are (20 pictures)" in said
    lines = (tmp_path / "save/losses.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 13
