import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from eyescream_py.training import setup

# the same examples each time: what others would find is for the fuzzing scripts
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("fixed")

# More than one makes tiny networks slow. OMP_NUM_THREADS=2 shows that no verdict hangs on it.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands that run inside a test set the number of threads for all that come after it."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def freed_memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run inside a test would let the process keep all that later tests free."""
    monkeypatch.setattr(setup, "keep_memory", lambda: False)


@pytest.fixture(scope="session")
def searched() -> dict[str, int]:
    """How many modules were imported when they were last set aside."""
    return {"modules": 0}


@pytest.fixture(autouse=True)
def imported_modules_are_set_aside(searched: dict[str, int]) -> None:
    """Trainers collect garbage at each save. Searching every imported module takes longer than a
    tiny network's whole training, and what is imported stays anyway.
    """
    if len(sys.modules) > searched["modules"]:
        gc.collect()
        gc.freeze()
        searched["modules"] = len(sys.modules)


@pytest.fixture(scope="session")
def sibling_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the siblings' small trainings learn from."""
    from tests.siblings import make_all

    return make_all(tmp_path_factory.mktemp("siblings"))


@pytest.fixture(scope="session")
def sibling_runs(sibling_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The newest checkpoint of each sibling's small training."""
    from tests.siblings import checkpoints_of_all

    return checkpoints_of_all(sibling_data, tmp_path_factory.mktemp("runs"))
