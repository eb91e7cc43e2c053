"""Half precision is a GPU's; a pretended one asks for it."""

import pytest
import torch

from eyescream_py.mln import checkpoints, command_reconstruct, fast
from tests.fake_cuda import CUDA


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_half_precision_is_for_a_gpu(device, half, monkeypatch):
    class Network:
        def to(self, device):
            return self

    work = object.__new__(command_reconstruct._Work)
    work.network, work._method, work._half = "a checkpoint", "mln", half
    monkeypatch.setattr(checkpoints, "restore_network", lambda checkpoint: Network())
    monkeypatch.setattr(fast, "FastNetwork", lambda network, half: half)
    assert work.methods(device) == {"mln": half and device == CUDA}
