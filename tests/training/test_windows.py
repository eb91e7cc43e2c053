"""What a run's windows show, against its networks and pictures."""

import copy
import math

import pytest
import torch

from eyescream_py import torch7
from eyescream_py.networks.models_autoencoder import create_autoencoder
from eyescream_py.networks.models_denoiser import create_decoder, create_encoder
from eyescream_py.torch7.random import TorchSource
from eyescream_py.training import c2f, setup
from eyescream_py.training.c2f import PairTask
from eyescream_py.training.face_task import FaceTask
from eyescream_py.training.reconstruction import DenoiserTask
from tests.small_runs import pictures, small_run, use_small_networks


class Seen:
    """Windows that remember what was shown."""

    is_on = True

    def __init__(self):
        self.pictures, self.curves = {}, []

    def images(self, window, pictures, title, columns=10):
        self.pictures[window] = pictures.clone(), title

    def curve(self, window, epoch, values, *words):
        self.curves.append((window, epoch, values))

    def close(self): ...


def shown_by(monkeypatch, kind, folder, script, *flags):
    """The windows, from number 20 on, of a run of one epoch; and its task."""
    use_small_networks(monkeypatch)
    seen, tasks, show = Seen(), [], kind.show
    monkeypatch.setattr(setup, "open_plots", lambda options: seen)
    monkeypatch.setattr(kind, "show", lambda task, epoch: (tasks.append(task), show(task, epoch)))
    data = pictures(folder, script)
    small_run(script, folder, data, "--epochs=1", "--window=20", *flags)
    return seen, tasks[0]


def test_the_windows_of_a_run_of_faces(tmp_path, monkeypatch):
    """A real face among the candidates, and noise; the best and the worst 50 as D ranks them."""
    # a D that tells pictures apart after one epoch
    quick = "--weightsVisFreq=2", "--D_adam_lr=0.03"
    seen, task = shown_by(monkeypatch, FaceTask, tmp_path, "train", *quick)
    shown = {number: pair for number, pair in seen.pictures.items() if isinstance(number, int)}
    assert sorted(shown) == [21, 23, 24, 25]
    assert [title.partition(" (adv")[0] for _, title in shown.values()] == [
        "semi-random generated images (after G)", "best samples (first is best)",
        "worst samples (first is worst)", "original images from training set",
    ]  # fmt: skip
    made, best, worst, real = (shown[number][0] for number in sorted(shown))
    assert (len(made), len(best), len(worst), len(real)) == (100, 50, 50, 12)
    assert torch.equal(made, task.make(task.plot_noise))
    D = task.game.D.network.eval()
    with torch.no_grad():
        liked, disliked = D(best).flatten(), D(worst).flatten()
    assert (liked.diff() <= 0).all()
    assert (disliked.diff() >= 0).all()
    assert liked[0] > liked[-1] >= disliked[-1] > disliked[0]
    candidates = task._candidates()
    assert len(candidates) == 300
    assert torch.equal(candidates[150], real[0])
    assert 0 <= candidates[151].min() < 0.1 < 0.9 < candidates[151].max() <= 1
    titles = [title for number, (_, title) in seen.pictures.items() if number not in shown]
    assert titles
    assert all(title.endswith(" after 4 batches") for title in titles)  # of five
    windows = [(f"adversarial_{name}", 1) for name in ("loss", "accuracy")]
    assert [(window, epoch) for window, epoch, _ in seen.curves] == windows
    assert math.isfinite(seen.curves[0][2]["G"])


def test_a_decoders_pictures_and_denoised_ones_have_windows_of_their_own(tmp_path, monkeypatch):
    noisy = {"AE1_ENCODER": create_encoder(), "AE1_DECODER": create_decoder((1, 8, 8))}
    coded = {"AE": create_autoencoder((1, 8, 8), 4)}
    for name, networks in (("denoiser_1x8x8.net", noisy), ("autoencoder.net", coded)):
        torch7.save(tmp_path / name, {k: torch7.from_module(v) for k, v in networks.items()})
    flags = "--denoise", "--autoencoder=autoencoder.net"
    seen, task = shown_by(monkeypatch, FaceTask, tmp_path, "train", *flags)
    assert sorted(seen.pictures) == [20, 21, 22, 23, 24, 25]
    (decoded, _), (made, _), (denoised, title) = (seen.pictures[n] for n in (20, 21, 22))
    assert title.startswith("images by G, denoised")
    assert not torch.equal(decoded, made)
    with torch.no_grad():
        expected = coded["AE"][6:].eval()(task.plot_noise)
        torch.testing.assert_close(decoded, expected)
        torch.testing.assert_close(denoised, noisy["AE1_DECODER"].eval()(made))


def test_the_window_of_pairs(tmp_path, monkeypatch):
    """Rows of coarse, truth, refined, and both differences in grey."""
    seen, task = shown_by(monkeypatch, PairTask, tmp_path, "train_c2f")
    (((window, (table, title))),) = seen.pictures.items()
    assert window == 20  # --window, as in Lua
    assert title.startswith("Coarse, GT, G img, GT diff, G diff (")
    coarse, truth, refined, wanted, made = (table[column::5] for column in range(5))
    images = task.validation.floats(torch.arange(4))
    torch.testing.assert_close(truth, images)
    torch.testing.assert_close(wanted, (0.5 + images - coarse).clamp(0, 1))
    inside = (made > 0) & (made < 1)  # what is beyond is cut
    assert inside.any()
    refined_by = (coarse + made - 0.5).clamp(0, 1)
    torch.testing.assert_close(refined[inside], refined_by[inside])
    assert not torch.equal(made, wanted)


def test_the_windows_of_the_denoiser(tmp_path, monkeypatch):
    seen, task = shown_by(monkeypatch, DenoiserTask, tmp_path, "train_denoiser")
    seen_in = [title.partition("(")[2] for _, title in seen.pictures.values()]
    words = ("originals", "decoded", "decoded twice")
    assert seen_in == [f"{word} {part})" for part in ("train", "val") for word in words]
    assert sorted(seen.pictures) == list(range(20, 26))
    images = task.validation.floats(torch.arange(2))
    assert torch.equal(seen.pictures[23][0], images)
    once = task.named["AE1_DECODER"].eval()(images)
    torch.testing.assert_close(seen.pictures[24][0], once)
    torch.testing.assert_close(seen.pictures[25][0], task.named["AE2_DECODER"].eval()(once))
    ((window, epoch, values),) = seen.curves
    assert (window, epoch, list(values.values())) == (26, 1, task.smallest)


@pytest.mark.parametrize(
    ("script", "kind", "looks", "flags"),
    [
        ("train", FaceTask, ("end_epoch", "collapse", "show", "save_pictures"),
         ("--G_arch=upsampling", "--evaluate_every=1")),
        ("train_c2f", PairTask, ("collapse", "show", "save_pictures"), ()),  # Lua's score draws
        ("train_denoiser", DenoiserTask, ("end_epoch", "collapse", "show", "save_pictures"), ()),
    ],
)  # fmt: skip
def test_looking_at_a_run_changes_nothing_of_it(script, kind, looks, flags, tmp_path, monkeypatch):
    """Neither a network's statistics nor what its streams of random numbers give next."""
    looked = []

    def watched(name):
        original = getattr(kind, name)

        def look(task, *given):
            before = [copy.deepcopy(net.state_dict()) for net in task.networks().values()]
            drawn = task.source.state()["torch"].clone()
            made = original(task, *given)
            after = [net.state_dict() for net in task.networks().values()]
            for old, new in zip(before, after, strict=True):
                assert all(torch.equal(old[key], new[key]) for key in old), name
            assert torch.equal(drawn, task.source.state()["torch"]), name
            assert all(net.training for net in task.networks().values()), name
            looked.append(name)
            return made

        monkeypatch.setattr(kind, name, look)

    for name in looks:
        watched(name)
    shown_by(monkeypatch, kind, tmp_path, script, *flags)
    assert sorted(looked) == sorted(looks)


def test_curves_of_a_run_that_goes_on_begin_with_its_first_epoch(tmp_path, monkeypatch):
    shown_by(monkeypatch, FaceTask, tmp_path, "train")
    again = ("--epochs=2", "--network=adversarial.net")
    seen, _ = shown_by(monkeypatch, FaceTask, tmp_path, "train", *again)
    losses = [curve for curve in seen.curves if curve[0] == "adversarial_loss"]
    assert [(epoch, set(values)) for _, epoch, values in losses] == [
        (epoch, {"D", "G"}) for epoch in (1, 2)
    ]


def test_scores_and_pictures_of_pairs_are_those_of_the_averaged_G(tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(c2f, "parzen_score", lambda G, *more: scored.append(G) or 1.0)
    seen, task = shown_by(monkeypatch, PairTask, tmp_path, "train_c2f", "--G_ema=0.9")
    assert scored == [task.ema.average]
    ((table, _),) = seen.pictures.values()
    coarse, refined = table[0::5], table[2::5]
    noise = TorchSource(0).uniform_(torch.empty_like(coarse), -1, 1)
    made, latest = (G(noise, coarse) for G in (task.ema.average, task.game.G.network))
    torch.testing.assert_close(refined, (coarse + made).clamp(0, 1))
    assert not torch.allclose(made, latest)


def test_curves_of_two_trainers_in_one_folder_do_not_mix(tmp_path, monkeypatch):
    """They share its page: each would replace the other's curves, twice a second."""
    faces, _ = shown_by(monkeypatch, FaceTask, tmp_path, "train")
    pairs, _ = shown_by(monkeypatch, PairTask, tmp_path, "train_c2f")
    of_faces, of_pairs = ({window for window, *_ in seen.curves} for seen in (faces, pairs))
    assert len(of_faces) == 2
    assert len(of_pairs) == 3
    assert not of_faces & of_pairs
