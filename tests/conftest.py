import gc
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


@pytest.fixture(autouse=True, scope="module")
def imported_modules_are_not_searched() -> None:
    """Trainers collect garbage at each save. Searching every imported module takes longer than a
    tiny network's whole training, and what is imported stays anyway.
    """
    gc.collect()
    gc.freeze()
