import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyescream_py.srez.checkpoints import checkpoint_path, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, *arguments):
    environment = os.environ | {"PYTHON": sys.executable, "SREZ_ROOT": str(tmp_path)}
    command = ["sh", "scripts/run_srez.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_run_has_folders_of_its_own_and_flags_override(tmp_path, faces_folder):
    flags = ["--dataset", str(faces_folder), "--gpu", "-1", "--threads", "1", "--sample_size", "32",
             "--width", "0.0625", "--batch_size", "2", "--test_vectors", "2", "--max_batches", "1",
             "--train_noise", "0"]  # fmt: skip
    done = run(tmp_path, "gp1", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train" / "gp1" / "gen_batch000001_out_s.png").is_file()
    assert (tmp_path / "summary" / "gp1" / "metrics.jsonl").is_file()
    options = read_checkpoint(checkpoint_path(tmp_path / "checkpoint" / "gp1")).options
    assert (options.gene_l1_factor, options.train_time, options.train_noise) == (0, 400, 0)
    assert options.input == "noise"  # f = 0 with small pictures as input would tie to nothing
    again = run(tmp_path, "gp1", *flags)
    assert again.returncode == 2
    assert "would be overwritten" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("arguments", [[], ["--resume"], ["a/b"], [".."]])
def test_the_name_of_the_run_is_needed(tmp_path, arguments):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "run_srez.sh" in done.stderr
    assert list(tmp_path.iterdir()) == []
