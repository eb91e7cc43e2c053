"""A game whose networks' parameters lie in one buffer, as on a GPU: the run is the same."""

import pytest

from eyescream_py import torch7
from eyescream_py.training import setup
from tests.small_runs import (
    FILES,
    assert_same,
    pictures,
    records,
    small_run,
    use_small_networks,
)

# script, whether each of two epochs is flat, flags, relative tolerance: kernels that take several
# numbers at once round Adam's otherwise than one for a last odd number
CASES = {
    "adam": ("train", (False, True), ("--D_L1=1e-4", "--G_L2=1e-4", "--D_spectral=2",
                                      "--D_maxAcc=0.6", "--G_ema_power=4"), 1e-9),
    "others": ("train_c2f", (True, False), ("--G_ema=0.9", "--D_optmethod=sgd",
                                            "--G_optmethod=adagrad"), 0),
    "denoiser": ("train_denoiser", (True, False), ("--AE_clamp=0.01",), 1e-9),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_in_the_other_layout(case, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    script, layouts, flags, rtol = CASES[case]
    data, asked = pictures(tmp_path, script), []

    def run(folder, flat, *more):
        monkeypatch.setattr(setup, "lies_flat", lambda *where: asked.append(where) or flat)
        small_run(script, tmp_path / folder, data, "--precision=fp64", *flags, *more)

    run("listed", False, "--epochs=2")
    run("mixed", layouts[0], "--epochs=1")
    run("mixed", layouts[1], "--epochs=2", f"--network={FILES[script]}")
    assert asked == [(False, False)] * 6  # neither on a GPU nor rounded
    made, expected = tmp_path / "mixed", tmp_path / "listed"
    assert_same(*(torch7.load(run / FILES[script]) for run in (made, expected)), rtol=rtol)
    for name in ("metrics.jsonl", "losses.jsonl"):
        assert_same(records(made / name), records(expected / name), rtol=rtol)
