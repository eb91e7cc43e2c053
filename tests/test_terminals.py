"""Every command where nothing that it prints can be written and no name can be shown: an ASCII
locale, standard output on a full disk, folders whose names hold bytes that are no UTF-8, an emoji
and a terminal's escape. The work is done all the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eyescream_py.image_model.make_data import make_data
from eyescream_py.srez.make_data import render_face
from tests.commands import ROOT
from tests.picture_files import write_faces, write_photos
from tests.small_runs import SCRIPTS

# In one process, as starting torch takes longer than all of them together.
PROGRAM = """
import importlib, json, os, sys, traceback
from eyescream_py.networks import models
from tests.small_runs import small_D
models.create_D = small_D
home, said = sys.argv[1], {}
with open(os.path.join(home, "commands.json"), "rb") as file:
    commands = json.load(file)
for name, (module, words) in commands.items():
    main = importlib.import_module("eyescream_py." + module).main
    try:
        main([word.replace("HOME", home) for word in words])
    except SystemExit as end:
        said[name] = end.code
    except BaseException:
        said[name] = traceback.format_exc()
with open(os.path.join(home, "said.json"), "w") as file:
    json.dump(said, file)
"""
NAME = b"Jos\xe9 \xf0\x9f\x98\x80 \x1b[2J"
CPU = ["--gpu", "-1", "--threads", "1"]
HEADS = ["--synth_dir", "HOME/heads/Faces_depth", "--real_dir", "HOME/heads/Faces_real",
         "--nd_dir", "HOME/heads/Faces_ND"]  # fmt: skip
QUICK = ["--max_steps", "1", "--image_size", "16", "--batch_size", "4", "--noplot", *CPU]
PLACES = ["--checkpoint_dir=HOME/srez/c", "--train_dir=HOME/srez/t", "--summary_dir=HOME/srez/s"]


def faces(script: str) -> tuple[str, list[str]]:
    flags = [*SCRIPTS[script], f"--save=HOME/{script}", "--dataset=HOME/faces", "--epochs=2"]
    return f"cli.{script}", flags


# name -> module, arguments and a file that must be there
COMMANDS = {
    "train": (*faces("train"), "train/pictures/curves_adversarial.png"),
    "train_c2f": (*faces("train_c2f"), "train_c2f/adversarial_c2f_2_to_4.net"),
    "train_autoencoder": (*faces("train_autoencoder"), "train_autoencoder/autoencoder.net"),
    "train_denoiser": (*faces("train_denoiser"), "train_denoiser/denoiser_1x6x6.net"),
    "sample": ("cli.sample", ["--save_base=HOME/train", "--writeto=HOME/samples", "--runs=1", *CPU,
               "--neighbours", "--dataset=HOME/faces"], "samples/sheet_0001.png"),
    "export": ("cli.sample", ["--save_base=HOME/train", "--export=HOME/G.safetensors", *CPU],
               "G.safetensors"),
    "movie": ("cli.movie", ["HOME/train"], "train/pictures/film.gif"),
    "generate_dataset": ("cli.generate_dataset", ["--path=HOME/lfw", "--out=HOME/cut",
                         "--jobs=1"], "cut/out_aug_64x64/000000_019.jpg"),
    "torch7 show": ("torch7.__main__", ["show", "HOME/train/adversarial.net"], None),
    "torch7 convert": ("torch7.__main__", ["convert", "HOME/train/adversarial.net", "HOME/a.t7",
                       "--ascii"], "a.t7"),
    "srez train": ("srez.__main__", ["--run=train", *PLACES, "--dataset=HOME/small",
                   "--cache_dir=HOME/cache", *CPU, "--sample_size=32", "--width=0.0625",
                   "--batch_size=4", "--test_vectors=4", "--max_batches=2",
                   "--summary_period=1"], "srez/s/metrics.jsonl"),
    "srez evaluate": ("srez.__main__", ["--run=evaluate", *PLACES, "--dataset=HOME/small",
                      *CPU], None),
    "srez upscale": ("srez.__main__", ["--run=upscale", *PLACES, *CPU, "--out_dir=HOME/large",
                     "HOME/small/000001.jpg"], "large/000001_x4.png"),
    "srez demo": ("srez.__main__", ["--run=demo", *PLACES], None),
    "image-model train": ("image_model.__main__", ["train", *HEADS, *QUICK, "--L1", "--use_nd_L1",
                          "--html", "--log_dir=HOME/im"], None),
    "image-model prepare": ("image_model.__main__", ["prepare-depth", "HOME/heads/Faces_ply",
                            "HOME/depth", "16"], "depth/00000.png"),
    "ganless-hd make-data": ("ganless_hd.__main__", ["make-data", "HOME/scenes", "--count=6",
                             "--size=80"], "scenes/scene_00000.jpg"),
    "ganless-hd train": ("ganless_hd.__main__", ["train", "--dataroota=HOME/scenes",
                         "--out=HOME/paint", "--nthread=0", "--loadSize=72", "--imgSize=64",
                         "--batchSize=2", "--itersPerEpoch=1", "--epochs=1", "--width=0.0625",
                         "--features=random", "--features-width=0.0625", "--noplot", *CPU],
                         "paint/metrics.jsonl"),
    "ganless-hd sample": ("ganless_hd.__main__", ["sample", "HOME/scenes/scene_00000.jpg",
                          "--out=HOME/painted", "--gpu=-1"], "painted/scene_00000-sheet.png"),
    "mln simulate": ("mln.__main__", ["simulate", "--out=HOME/scan", "--side=16", "--coils=2",
                     "--samples=200", "--turns=5"], "scan/Params.txt"),
    "mln train": ("mln.__main__", ["train", "--params=HOME/scan/Params.txt", "--out=HOME/mln",
                  "--batches=1", "--InitExamples=30", "--nToLoad=2", "--test-images=1",
                  "--DatasetMatFN=HOME/small", *CPU], None),
    "mln reconstruct": ("mln.__main__", ["reconstruct", "--params=HOME/scan/Params.txt",
                        "--out=HOME/images", "--method=cg", *CPU], "images/report.md"),
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """The folder, what each command ended with, and all that came to standard error."""
    home = tmp_path_factory.mktemp("terminals") / os.fsdecode(NAME)
    write_faces(home / "faces", 20)
    for name in (b"faces/Jos\xe9.png", b"faces/\xf0\x9f\x98\x80.png"):
        shutil.copy(home / "faces" / "face_000.png", os.path.join(os.fsencode(home), name))
    write_photos(home / "lfw", 1)
    make_data(home / "heads", size=16, unpaired=4, pairs=8, tests=4, meshes=1, seed=0)
    (home / "small").mkdir()
    for i in range(9):
        render_face(i).save(home / "small" / f"{i + 1:06d}.jpg")
    commands = {name: words[:2] for name, words in COMMANDS.items()}
    (home / "commands.json").write_text(json.dumps(commands))
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, home], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
            env={**os.environ, **ascii_only, "OMP_NUM_THREADS": "1"}, timeout=900,
        )  # fmt: skip
    errors = ended.stderr.decode("ascii")  # all of it can be shown
    assert ended.returncode == 0, errors
    return home, json.loads((home / "said.json").read_text()), errors


@pytest.mark.parametrize("name", COMMANDS)
def test_the_work_is_done(name: str, done: tuple[Path, dict, str]) -> None:
    home, said, errors = done
    assert said[name] == 0, errors
    made = COMMANDS[name][2]
    assert made is None or (home / made).stat().st_size > 0


def test_what_is_lost_is_told_once(done: tuple[Path, dict, str]) -> None:
    _, _, errors = done
    assert errors.count("standard output cannot be written (No space left on device)") == 1
    assert "Traceback" not in errors
    assert "\x1b" not in errors
