"""A run told in pictures: curves, contact sheets, films; curves that survive a resume."""

import json
import os
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from eyescream_py.plots.windows import Plots
from eyescream_py.results import films, story
from eyescream_py.results.sampling import save_grid
from eyescream_py.system.errors import UserError
from tests.commands import run
from tests.small_runs import pictures, records, small_run, use_small_networks

TIMES = ("seconds", "images_per_second")


@pytest.fixture
def save(tmp_path):
    """A run of three saves of faces and two of c2f."""
    for series, epochs in (("", (2, 10, 4)), ("c2f_", (1, 2))):
        for epoch in epochs:
            grid = torch.full((4, 1, 8, 8), epoch / 10)
            save_grid(tmp_path / "pictures" / f"{series}epoch_{epoch:06d}.png", grid, 2)
    lines = [
        {"trainer": "t", "epoch": e, "D_loss": 1 / e, "G_loss": e, "D_accuracy": 0.5}
        for e in (1, 2, 3)
    ]
    lines[1]["swd"] = 80.0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return tmp_path


def test_everything_is_made_of_what_a_run_wrote(save):
    names = {path.name for path in story.tell(save)}
    assert names == {"curves_t.png", "sheet.png", "film.gif", "c2f_sheet.png", "c2f_film.gif"}
    film = Image.open(save / "pictures" / "film.gif")
    means = []
    for frame in range(film.n_frames):
        film.seek(frame)
        means.append(np.asarray(film.convert("L"))[20:].mean() / 255)
    assert np.allclose(means, [0.2, 0.4, 1.0], atol=0.02)
    sheet = np.asarray(Image.open(save / "pictures" / "sheet.png").convert("L"))
    assert sheet.shape == (2 * (512 + 14 + 4), 2 * (512 + 4))
    assert sheet[150, 100] / 255 == pytest.approx(0.2, abs=0.01)


def size_of_mp4(path):
    return next(imageio_ffmpeg.read_frames(str(path)))["size"]


def test_films_as_mp4(save):
    done = run("-m", "eyescream_py", "movie", save, "--mp4")
    assert done.stderr == ""
    film = save / "pictures" / "film.mp4"
    assert film.read_bytes()[4:8] == b"ftyp"
    assert size_of_mp4(film) == (512, 526)  # as the sheet's grids: nothing is stretched


def test_an_mp4_of_odd_sides_loses_no_pixel(tmp_path):
    films.write_pictures(tmp_path / "odd.mp4", [Image.new("RGB", (101, 99), "red")] * 3)
    assert size_of_mp4(tmp_path / "odd.mp4") == (102, 100)


def test_a_file_in_place_of_a_run_s_folder(tmp_path):
    (tmp_path / "adversarial.net").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file; give the folder"):
        story.tell(tmp_path / "adversarial.net")


def test_a_second_telling_takes_no_sheet_for_a_grid(save):
    first = story.tell(save)
    assert story.tell(save) == first


def test_single_points_make_no_curve(save):
    panels = story._panels(records(save / "metrics.jsonl"))
    assert panels == {
        "loss": {"D_loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)], "G_loss": [(1, 1), (2, 2), (3, 3)]},
        "accuracy of D": {"D_accuracy": [(1, 0.5), (2, 0.5), (3, 0.5)]},
    }


def test_losses_of_two_stages_are_two_curves():
    lines = [{"epoch": e, "validation": [e, 2 * e]} for e in (1, 2)]
    assert story._panels(lines) == {
        "loss": {"validation 1": [(1, 1), (2, 2)], "validation 2": [(1, 2), (2, 4)]}
    }


def test_a_name_in_a_log_is_no_path(tmp_path):
    """A log from elsewhere: its trainers are told only where their names are names."""
    names = ["x/../../../evil", "../../evil", [1], 5, None, {}, "a" * 65, "mine"]
    lines = [{"trainer": name, "epoch": n, "D_loss": n} for name in names for n in (1, 2)]
    log = tmp_path / "a" / "run" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert story.tell(log.parent) == [log.parent / "pictures" / "curves_mine.png"]
    made = [path for path in tmp_path.rglob("*") if path.is_file() and path != log]
    assert made == [log.parent / "pictures" / "curves_mine.png"]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="train first"):
        story.tell(tmp_path)


def test_what_cannot_be_read_is_named_once(tmp_path):
    log = tmp_path / "metrics.jsonl"
    os.mkfifo(log)
    with pytest.raises(UserError, match=f"^{log}: a pipe that nobody writes to$"):
        story.tell(tmp_path)


def test_many_grids_are_thinned_out_evenly():
    assert story.evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("script", ["train", "train_c2f", "train_denoiser"])
def test_a_resumed_run_shows_its_whole_curves(script, tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    data = pictures(tmp_path, script)
    shown = []
    monkeypatch.setattr(
        Plots, "curve", lambda self, window, x, values, *texts: shown.append((window, x, values))
    )
    save = tmp_path / "run"
    small_run(script, save, data, "--epochs=2", "--saveFreq=1")
    before = list(shown)
    shown.clear()
    name = next(save.glob("*.net")).name
    small_run(script, save, data, "--epochs=3", "--saveFreq=1", f"--network={name}")
    assert before
    assert shown[: len(before)] == before
    assert {x for _, x, _ in shown} == {1, 2, 3}
    curves = f"curves_{Path(name).stem}.png"
    assert (save / "pictures" / curves).is_file()
    assert curves in {p.name for p in story.tell(save)}


def test_trainers_share_a_folder_without_losing_each_others_lines(tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    save = tmp_path / "run"
    small_run("train", save, pictures(tmp_path, "train"), "--epochs=2")
    small_run("train_denoiser", save, pictures(tmp_path, "train_denoiser"), "--epochs=1")
    small_run("train", save, pictures(tmp_path, "train"), "--epochs=3", "--network=adversarial.net")
    lines = [(r["trainer"], r["epoch"]) for r in records(save / "metrics.jsonl")]
    assert sorted(lines)[:3] == [("adversarial", 1), ("adversarial", 2), ("adversarial", 3)]
    assert len(lines) == 4


def test_evaluating_changes_nothing_of_a_run(tmp_path, monkeypatch):
    use_small_networks(monkeypatch, curves=True)
    data = pictures(tmp_path, "train")
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    small_run("train", plain, data, "--epochs=3")
    output = small_run("train", measured, data, "--epochs=3", "--evaluate_every=2")
    assert output.count("distance to real pictures") == 1
    assert records(plain / "losses.jsonl") == records(measured / "losses.jsonl")
    lines = records(measured / "metrics.jsonl")
    assert [r["epoch"] for r in lines if "swd" in r] == [2]
    assert lines[1]["swd"] > 0
    rest = [{k: v for k, v in r.items() if k not in (*TIMES, "swd")} for r in lines]
    assert rest == [
        {k: v for k, v in r.items() if k not in TIMES} for r in records(plain / "metrics.jsonl")
    ]
