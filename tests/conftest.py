import gc
import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Commands that run inside a test set the number of threads for all that come after it; more
    than one make tiny networks slow.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
