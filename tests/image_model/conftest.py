"""A small set of synthetic heads, made once for all tests of this room."""

from pathlib import Path

import pytest

from eyescream_py.image_model.make_data import make_data


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of make-data: 24 unpaired, 40 pairs, 8 test pairs, 2 meshes, all at 32 px."""
    folder = tmp_path_factory.mktemp("heads")
    make_data(folder, size=32, unpaired=24, pairs=40, tests=8, meshes=2, seed=0)
    return folder
