"""The commands as a person types them; in-process, but for start-up time and a real kill."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from eyescream_py.image_model.__main__ import main
from eyescream_py.image_model.checkpoints import check_settings_agree, read_checkpoint
from eyescream_py.image_model.data import load_pairs
from eyescream_py.image_model.generate import gradient_energy
from eyescream_py.system.errors import UserError

QUICK = ["--max_steps", "2", "--image_size", "16", "--batch_size", "4", "--noplot", "--gpu", "-1"]
QUICK += ["--threads", "1"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def folders(heads: Path) -> list[str]:
    names = {"--synth_dir": "Faces_depth", "--real_dir": "Faces_real", "--nd_dir": "Faces_ND"}
    return [word for flag, name in names.items() for word in (flag, str(heads / name))]


def train(heads: Path, logs: Path, *arguments: object) -> Result:
    return run("train", *folders(heads), *QUICK, "--log_dir", logs, *arguments)


def newest(logs: Path) -> Path:
    return max(logs.rglob("model.ckpt-*.safetensors"), key=lambda p: p.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def checkpoint(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    result = train(heads, logs, "--L1", "--use_nd_L1")
    assert result.exit_code == 0, result.output
    return newest(logs)


def test_train_under_the_readmes_names_then_test_then_evaluate(heads: Path, tmp_path: Path) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    result = run("train", "--synth_directory", heads / "Faces_depth", "--real_directory",
                 heads / "Faces_real", *QUICK, "--log_dir", logs, "--use_recon", "--use_replay",
                 "--cache_size", 8, "--gen_arch", "V", "--L2gan")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"step 2  D \d\.\d+  G \d\.\d+  difference -?0\.\d+  R", result.output)
    saved = newest(logs)
    assert (saved.parent / "replay.npy").is_file()
    result = run("test", "--load", saved, "--test_dir", heads / "Faces_depth_test",
                 "--output_dir", out, "--pair_images", "--gpu", -1, "--threads", 1)  # fmt: skip
    assert result.output.endswith(f"Wrote 8 pictures to {out}\n")
    assert {p.name for p in out.iterdir()} == {
        p.name for p in (heads / "Faces_depth_test").iterdir()
    }
    result = run("evaluate", "--load", saved, "--nd_dir", heads / "Faces_ND_test",
                 "--real_dir", heads / "Faces_real", "--features", "random", "--gpu", -1,
                 "--threads", 1)  # fmt: skip
    assert re.search(
        r"L1 0\.\d{4}  mean photo 0\.\d{4}\nPSNR \d+\.\d\d dB  SSIM -?0\.\d{3}\ngradient energy"
        r".*\nFréchet distance \d+\.\d\d  kernel distance -?\d+\.\d{4} \+- \d+\.\d{4}  \(a RANDOM",
        result.output,
    )


def test_a_run_as_pix2pix_users_know_it(heads: Path, tmp_path: Path, monkeypatch) -> None:
    """Photos to depth maps with all that is off by default, then evaluated that way round."""
    result = train(heads, tmp_path, "--gen_arch", "PIX", "--critic", "patch", "--norm", "instance",
                   "--flip", "--crop", 4, "--decay_steps", 1, "--direction", "BtoA", "--html",
                   "--L1", "--use_nd_L1", "--use_nd_gan", "--optim", "ADAM")  # fmt: skip
    assert result.exit_code == 0, result.output
    saved = newest(tmp_path)
    page = (saved.parent / "index.html").read_text()
    assert page.count("<img") == 4
    assert "step_2/page_3.png" in page
    assert (saved.parent / "step_2/page_3.png").is_file()
    folders = "--nd_dir", heads / "Faces_ND_test", "--real_dir", heads / "Faces_depth"
    shown = run("evaluate", "--load", saved, *folders, "--features", "none", "--gpu", -1)
    pairs = load_pairs(heads / "Faces_ND_test", "--nd_dir", 16, 1, np.random.default_rng(0))
    depth_maps = gradient_energy(pairs.all()[0])
    assert f"true photos {depth_maps:.6f}" in shown.output
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Data").symlink_to(heads)
    plain = run("evaluate", "--load", saved, *folders[:2], "--features", "none", "--gpu", -1)
    assert plain.output == shown.output
    photos = run("test", "--load", saved, "--test_dir", heads / "Faces_real",
                 "--output_dir", tmp_path / "out", "--gpu", -1)  # fmt: skip
    assert photos.output.endswith(f"Wrote 24 pictures to {tmp_path / 'out'}\n")
    unnamed = run("test", "--load", saved, "--gpu", -1)
    assert_one_line(unnamed, f"--test_dir: {saved} reads photos; give a folder of them")
    back = train(heads, tmp_path, "--load", saved, "--gen_arch", "PIX", "--norm", "instance")
    assert_one_line(back, "--optim=RMSP")


def test_decay_may_have_begun_before_a_run_is_loaded(heads, tmp_path, checkpoint) -> None:
    paired = "--L1", "--use_nd_L1", "--load", checkpoint
    assert train(heads, tmp_path, *paired, "--decay_steps", 4).exit_code == 0
    refused = train(heads, tmp_path, *paired, "--decay_steps", 5)
    assert_one_line(refused, "--decay_steps=5: give at most --max_steps (with --load, plus")


def test_a_checkpoint_of_before_there_were_directions(heads, tmp_path, checkpoint) -> None:
    file = read_checkpoint(checkpoint)
    del file.settings["direction"]
    agreed = file.settings | {"direction": "AtoB"}
    check_settings_agree(file, agreed)
    with pytest.raises(UserError, match=r"--direction=BtoA: .* was trained with AtoB"):
        check_settings_agree(file, agreed | {"direction": "BtoA"})


def test_loading_goes_on_at_the_stored_step_in_a_new_folder(heads, tmp_path, checkpoint) -> None:
    before = checkpoint.read_bytes()
    result = train(heads, tmp_path, "--L1", "--use_nd_L1", "--load", checkpoint)
    assert "Training for steps 3 to 4" in result.output
    assert newest(tmp_path).name == "model.ckpt-4.safetensors"
    assert checkpoint.read_bytes() == before


def test_both_semi_supervised_stages_and_their_resume(heads: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first = run("semi-stage1", *folders(heads)[4:], *QUICK, "--log_dir", one, "--routes", "all")
    assert first.exit_code == 0, first.output
    domains = folders(heads)[:4]
    replay = ["--use_replay", "--cache_size", 8]
    second = run("semi-stage2", *domains, *QUICK, "--log_dir", two, "--load_encoder", newest(one),
                 "--alpha", 2, *replay)  # fmt: skip
    assert second.exit_code == 0, second.output
    third = run("semi-stage2", *domains, *QUICK, "--log_dir", two, "--load", newest(two), *replay)
    assert "Training for steps 3 to 4" in third.output
    assert newest(two).name == "model.ckpt-4.safetensors"


def test_a_cache_is_reused_by_name(heads: Path, tmp_path: Path) -> None:
    replay = ["--use_replay", "--cache_path", tmp_path / "cache", "--cache_size", 30]
    assert train(heads, tmp_path / "a", *replay).exit_code == 0
    again = train(heads, tmp_path / "b", *replay)
    assert again.exit_code == 2
    assert "give --reuse_replay" in again.output
    assert train(heads, tmp_path / "c", *replay, "--reuse_replay").exit_code == 0
    assert '"count": 16' in (tmp_path / "cache.npy.json").read_text()


def test_preparation_commands(heads: Path, tmp_path: Path) -> None:
    assert (
        "Wrote 2 depth maps" in run("prepare-depth", heads / "Faces_ply", tmp_path / "d", 16).output
    )
    real = heads / "Faces_real"
    assert "Wrote 24 files" in run("prepare-flatten", real, tmp_path / "flat").output
    result = run("prepare-faces", tmp_path / "flat", tmp_path / "f", 1.5, "--no-detect")
    assert "Wrote 24 faces" in result.output
    result = run("prepare-pairs", tmp_path / "f", tmp_path / "p", 16, "--source", "blur")
    assert "Wrote 24 pairs" in result.output
    assert train(heads, tmp_path / "l", "--nd_dir", tmp_path / "p", "--use_nd_gan").exit_code == 0


def test_make_data_command(tmp_path: Path) -> None:
    result = run("make-data", "--output_dir", tmp_path, "--image_size", 16, "--unpaired", 1,
                 "--pairs", 1, "--tests", 1)  # fmt: skip
    assert result.output == f"Wrote heads to {tmp_path}\n"
    assert len(list(tmp_path.rglob("*.png"))) == 7


def broken_picture(tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    return folder


def twins(tmp_path: Path) -> Path:
    folder = tmp_path / "twins"
    folder.mkdir()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / name)
    return folder


def misnamed_pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "only_D.png")
    return folder


BAD_TRAIN = [
    (["--no_such_flag"], "No such option"),
    (["--synth_dir", "nowhere"], "--synth_dir: nowhere does not exist; name a folder"),
    (["--real_dir", __file__], "test_commands.py is no folder"),
    (["--real_dir", broken_picture], "Error: --real_dir="),  # as its help names it
    (["--real_dir", broken_picture], "a.png: cannot be read as a picture"),
    (["--real_dir", "{tmp}"], "holds no pictures (JPEG"),
    (["--L1", "--use_nd_L1", "--nd_dir", misnamed_pairs], "lacks its _D or its _I"),
    (["--L1", "--use_nd_L1", "--nd_dir", broken_picture], "is named neither"),
    (["--use_nd_L1"], "add --L1"),
    (["--direction", "CtoD"], "--direction"),
    (["--crop", "-1"], "--crop"),
    (["--crop", "17"], "--crop=17: give at most --image_size"),
    (["--decay_steps", "3"], "--decay_steps=3: give at most --max_steps"),
    (["--critic", "pixel"], "--critic"),
    (["--L1"], "--L1 needs pairs, which equal names in two folders do not make"),  # make-data's
    (["--L1", "--pair_list", "{tmp}/none"], "--pair_list: "),
    (["--pair_list", "x"], "names the pairs of --L1"),
    (["--synth_dir", ""], "give a path"),
    (["--synth_dir", "~/no/such/folder"], "/no/such/folder"),
    (["--batch_norm", "--norm", "instance"], "contradict"),
    (["--norm", "instance", "--image_size", "4"], "at least 8"),
    (
        ["--batch_norm", "--batch_size", "1", "--image_size", "4"],
        "--batch_norm (--norm=batch): --batch_size=1 leaves one value",
    ),
    (
        ["--norm", "conv", "--batch_size", "1", "--image_size", "4"],
        "--norm=conv: --batch_size=1 leaves one value",
    ),
    (["--batch_norm", "--batch_size", "2", "--image_size", "4", "--use_replay"], "at least 4"),
    (["--no_gan"], "nothing is left to learn"),
    (["--no_gan", "--L1", "--use_nd_L1", "--use_nd_gan"], "contradict"),
    (["--no_gan", "--self_l1", "1", "--use_replay"], "--no_gan leaves out"),
    (["--L2gan", "--wgan"], "two objectives"),
    (["--diff_low", "0.9", "--diff_high", "0.1"], "--diff_low"),
    (["--diff_low", "2"], "--diff_low"),
    (["--image_size", "30"], "multiple of 4"),
    (["--image_size", "0"], "--image_size"),
    (["--image_size", "1e9"], "--image_size"),
    (["--channels", "2"], "--channels"),
    (["--batch_size", "0"], "--batch_size"),
    (["--max_steps", "0"], "--max_steps"),
    (["--max_steps", "many"], "--max_steps"),
    *[
        ([flag, value], flag)
        for value in ("nan", "inf", "-inf", "1e39", "")
        for flag in (
            "--glr",
            "--dlr",
            "--llr",
            "--rlr",
            "--L1_weight",
            "--self_l1",
            "--diff_low",
            "--diff_high",
        )
    ],
    (["--glr", "0"], "--glr"),
    (["--dlr", "-1"], "--dlr"),
    (["--L1_weight", "-1"], "--L1_weight"),
    (["--optim", "SGD"], "--optim"),
    (["--gen_arch", "W"], "--gen_arch"),
    (["--gen_arch", "NU", "--image_size", "1024"], "at most 512"),
    (["--diter", "0"], "--diter"),
    (["--d_limit", "0"], "--d_limit"),
    (["--use_replay", "--cache_size", "2"], "--cache_size"),
    (["--use_replay", "--cache_size", "1000000000000"], "--cache_size"),
    (["--use_replay", "--cache_dtype", "float64"], "--cache_dtype"),
    (["--use_replay", "--reuse_replay", "--cache_path", "{tmp}/none"], "there is no cache"),
    (["--cache_path", "{tmp}/c"], "need --use_replay"),
    (["--load", "{tmp}/none.safetensors"], "none.safetensors: there is no such checkpoint"),
    (["--load", "{heads}/Faces_ply/00000.ply"], "is no checkpoint of this program"),
    (["--load", "{checkpoint}", "--gen_arch", "V"], "--gen_arch=V"),
    (["--load", "{checkpoint}", "--image_size", "32"], "--image_size=32"),
    (["--load", "{checkpoint}", "--optim", "ADAM"], "--optim=ADAM"),
    (["--log_dir", "{checkpoint}"], "a file stands where a folder is needed"),
    (["--seed", "-1"], "--seed"),
    (["--gpu", "9"], "--gpu=9"),
    (["--threads", "0"], "--threads"),
]


def fill(words: list, tmp_path: Path, heads: Path, checkpoint: Path) -> list[str]:
    places = {"tmp": tmp_path, "heads": heads, "checkpoint": checkpoint}
    return [str(w(tmp_path)) if callable(w) else w.format(**places) for w in words]


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert result.stderr.splitlines()[-1] == errors[0]


@pytest.mark.parametrize(("words", "message"), BAD_TRAIN, ids=lambda v: str(v)[:40])
def test_bad_training_input(heads, tmp_path, checkpoint, words, message) -> None:
    result = train(heads, tmp_path / "logs", *fill(words, tmp_path, heads, checkpoint))
    assert_one_line(result, message)
    assert not list(tmp_path.rglob("model.ckpt-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test"], "--load"),
        (["test", "--load", "{checkpoint}", "--test_dir", "nowhere"], "nowhere does not exist"),
        (["test", "--load", "{checkpoint}", "--gen_arch", "F"], "--gen_arch"),
        (["test", "--load", "{checkpoint}", "--channels", "3"], "--channels"),
        (["test", "--load", "{checkpoint}", "--batch_norm"], "--batch_norm"),
        (["test", "--load", "{checkpoint}", "--image_size", "64"], "--image_size"),
        (["evaluate", "--load", "{checkpoint}", "--nd_dir", "nowhere"], "--nd_dir"),
        (
            [
                "evaluate",
                "--load",
                "{checkpoint}",
                "--nd_dir",
                "{heads}/Faces_ND",
                "--real_dir",
                "{heads}/Faces_real",
                "--features",
                "none.pth",
            ],
            "--features=none.pth",
        ),
        (["semi-stage1", "--nd_dir", "nowhere"], "--nd_dir"),
        (["semi-stage1", "--nd_dir", "{heads}/Faces_ND", "--load", "{checkpoint}"], "this needs"),
        (["semi-stage2"], "--load_encoder"),
        (["semi-stage2", "--load_encoder", "{checkpoint}"], "this needs cross-encoder"),
        (["semi-stage2", "--load", "a", "--load_encoder", "b"], "give --load_encoder"),
        (["make-data", "--output_dir", "{heads}"], "is not empty"),
        (["make-data", "--image_size", "4"], "--image_size"),
        (["prepare-depth", "{tmp}", "{tmp}/o", "16"], "holds no .ply"),
        (["prepare-depth", "{heads}/Faces_ply", "{tmp}/o", "big"], "SIZE"),
        (["prepare-faces", "{tmp}", "{tmp}/o", "1"], "holds no pictures"),
        (["prepare-faces", "{heads}/Faces_real", "{tmp}/o", "0"], "SCALE"),
        (["prepare-faces", "{heads}/Faces_real", "{tmp}/o", "nan"], "SCALE"),
        (["semi-stage2", "--load_encoder", "a", "--alpha", "nan"], "--alpha"),
        (["semi-stage1", "--llr", "inf"], "--llr"),
        (["prepare-faces", twins, "{tmp}/o", "1"], "have one name but for folder and ending"),
        (["prepare-pairs", twins, "{tmp}/o", "16"], "have one name but for folder and ending"),
        (["prepare-flatten", "{tmp}", "{tmp}/o"], "holds no pictures"),
        (["prepare-pairs", broken_picture, "{tmp}/o", "16"], "IN: no pairs could be made of"),
        (["prepare-faces", broken_picture, "{tmp}/o", "1"], "IN: no faces could be made of"),
        (["prepare-nd", "{tmp}", "{tmp}/o", "1"], "holds no .abs"),
        (["prepare-pairs", "{heads}/Faces_real", "{heads}/Faces_ND", "16"], "is not empty"),
        (["no-such-command"], "No such command"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_input_of_the_other_commands(heads, tmp_path, checkpoint, words, message) -> None:
    result = run(*fill(words, tmp_path, heads, checkpoint))
    assert_one_line(result, message)


def test_a_home_folder_is_found(heads: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(heads.parent))
    short = [f"~/{heads.name}/{name}" for name in ("Faces_depth", "Faces_real")]
    result = run("train", "--synth_dir", short[0], "--real_dir", short[1], *QUICK,
                 "--log_dir", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output


def test_meshes_in_capitals_are_found_and_hidden_ones_not(heads: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    mesh = (heads / "Faces_ply" / "00000.ply").read_bytes()
    (folder / "HEAD.PLY").write_bytes(mesh)
    (folder / "._HEAD.PLY").write_bytes(b"Mac")
    (folder / "loop").symlink_to(folder)
    result = run("prepare-depth", folder, tmp_path / "out", 16)
    assert "Wrote 1 depth maps" in result.output
    assert "1 hidden: ._HEAD.PLY" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["HEAD.png"]


def test_names_in_bytes_pass_through_test(heads: Path, tmp_path: Path, checkpoint: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    name = os.fsdecode(b"Jos\xe9.png")
    picture = next((heads / "Faces_depth_test").iterdir()).read_bytes()
    (folder / name).write_bytes(picture)
    result = run("test", "--load", checkpoint, "--test_dir", folder, "--output_dir", out,
                 "--gpu", -1, "--threads", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert os.listdir(out) == [name]
