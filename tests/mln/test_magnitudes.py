"""Numbers of any unit, within what single precision can work with, and paths through k-space."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eyescream_py.mln.__main__ import main
from eyescream_py.mln.baselines import cg_sense
from eyescream_py.mln.coil_estimation import estimated_maps
from eyescream_py.mln.formats.mat import read_mat, write_mat
from eyescream_py.mln.protocol import load_protocol
from eyescream_py.system.errors import UserError
from tests.mln.small import SIDE, phantoms, small_params, spiral_protocol, write_protocol_files


@pytest.mark.parametrize("factor", [1e-11, 1e11])
def test_every_unit_that_is_taken_gives_the_same_maps_and_image(factor: float) -> None:
    protocol = spiral_protocol()
    image = torch.from_numpy(phantoms(1, SIDE)[:, None, 2:-2, 2:-2]).to(torch.complex64)
    signal = protocol.acquisition.forward(image)
    ours, scaled = (
        cg_sense(protocol.acquisition, signal * unit / signal.abs().max(), 12) / unit
        for unit in (1, factor)
    )
    torch.testing.assert_close(scaled, ours, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))
    trajectory, one = protocol.trajectory, signal[0] / signal.abs().max()
    for method in ("espirit", "joint"):
        maps = [estimated_maps(trajectory, one * unit, SIDE, method, 16)[0] for unit in (1, factor)]
        torch.testing.assert_close(maps[1], maps[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k: k.T, "Trajm2 is 320 x 2, not 2 x samples"),
        (lambda k: np.concatenate([k, k[:1]]), "Trajm2 is 3 x 320, not 2 x samples"),
        (lambda k: 0 * k, "all samples lie at k = 0"),
        (lambda k: 1e30 * k, r"max\|k\| is 7\.9e\+30; give Trajm2 in 1/FOV"),
    ],
)
def test_what_is_no_path_through_k_space_is_refused_by_every_command(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    write_protocol_files(tmp_path)
    file = tmp_path / "TrajForNUFT.mat"
    write_mat(file, {"Trajm2": change(read_mat(file, ["Trajm2"])["Trajm2"])})
    with pytest.raises(UserError, match=words):
        load_protocol(replace(small_params(), trajectory_folder=str(tmp_path)))
    told = CliRunner().invoke(main, [
        "estimate-coils", f"--BaseNUFTDataP={tmp_path}", f"--LabelsH={SIDE}", f"--LabelsW={SIDE}",
        "--RealDatancc=3", f"--scan={tmp_path / 'scan01.mat'}", f"--out={tmp_path / 'S.mat'}",
    ])  # fmt: skip
    assert told.exit_code == 2
    assert re.search(words, told.stderr)
