"""Shared small things: a folder of procedural faces, options of a run that takes moments."""

import dataclasses

import pytest

from eyescream_py.srez.make_data import render_face
from eyescream_py.srez.options import Options


@pytest.fixture(scope="session")
def faces_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    for i in range(20):
        render_face(i).save(folder / f"{i + 1:06d}.jpg", quality=92)
    return folder


@pytest.fixture
def tiny(faces_folder, tmp_path):
    """Options of a run in tmp_path with a few thousand parameters at 32 pixels."""
    return dataclasses.replace(
        Options(),
        dataset=str(faces_folder),
        checkpoint_dir=str(tmp_path / "checkpoint"),
        train_dir=str(tmp_path / "train"),
        summary_dir=str(tmp_path / "summary"),
        cache_dir="",
        sample_size=32,
        width=1 / 16,
        batch_size=4,
        test_vectors=4,
        summary_period=1000,
        max_batches=4,
    )
