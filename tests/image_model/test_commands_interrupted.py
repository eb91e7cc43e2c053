"""Commands after kills, of earlier versions, without rights, memory or torch."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from eyescream_py.image_model.training import ImageModel
from tests.image_model.test_commands import assert_one_line, run, train


def test_what_killed_runs_left_half_written_is_removed(heads: Path, tmp_path: Path) -> None:
    old = tmp_path / "123" / "step_4"
    old.mkdir(parents=True)
    (old / ".0.png.999999999.tmp").write_bytes(b"half")
    (old.parent / ".model.ckpt-4.safetensors.999999999.tmp").write_bytes(b"half")
    (old / "0.png").write_bytes(b"whole")
    assert train(heads, tmp_path).exit_code == 0
    assert not list(tmp_path.rglob("*.tmp"))
    assert (old / "0.png").read_bytes() == b"whole"


def test_a_checkpoint_of_version_one_still_serves(heads: Path, tmp_path: Path) -> None:
    """Made by `train --no_gan --L1 --use_nd_L1 --batch_norm --gen_arch F --image_size 16`, when
    checkpoints bore no number."""
    old = Path(__file__).parent / "checkpoints" / "version-1.safetensors"
    result = run("test", "--load", old, "--test_dir", heads / "Faces_depth_test",
                 "--output_dir", tmp_path / "out", "--gpu", -1, "--threads", 1)  # fmt: skip
    assert "Wrote 8 pictures" in result.output
    wanted = ["--no_gan", "--L1", "--use_nd_L1", "--gen_arch", "F", "--load", str(old)]
    assert_one_line(train(heads, tmp_path, *wanted, "--batch_norm"), "was trained with conv")
    result = train(heads, tmp_path, *wanted, "--norm", "conv")
    assert "Training for steps 3 to 4" in result.output, result.output


def test_a_folder_without_rights_is_one_line(heads: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = train(heads, tmp_path / "logs")
    assert_one_line(result, "Permission denied")


def test_too_little_memory_is_one_line(heads: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(self: ImageModel) -> None:
        torch.empty(1 << 55, dtype=torch.uint8)

    monkeypatch.setattr(ImageModel, "step", refuse)
    result = train(heads, tmp_path / "logs")
    assert_one_line(result, "not enough memory: give a smaller --batch_size")


def test_help_needs_no_torch() -> None:
    code = "import sys; from eyescream_py.image_model.__main__ import main\n"
    code += "main(['train', '--help'], standalone_mode=False); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert "--use_nd_L1" in done.stdout
