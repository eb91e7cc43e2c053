"""Reading the numbers in tests/golden that the real Lua Torch 7 made."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def read(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def fill(scale: float, phase: float, *shape: int) -> torch.Tensor:
    """Element i is scale*sin(i+phase), computed in double, as float32."""
    n = int(np.prod(shape))
    return torch.from_numpy((scale * np.sin(np.arange(n) + phase)).astype(np.float32)).view(shape)


def assert_summary(tensor: torch.Tensor, golden: dict, rtol: float, name: str = "") -> None:
    """Compare a tensor with {n, sum, abs, sq, first 8, last 8}, relative to the tensor's scale."""
    flat = tensor.detach().double().reshape(-1)
    assert flat.numel() == golden["n"], name
    np.testing.assert_allclose(float(flat.abs().sum()), golden["abs"], rtol=rtol, err_msg=name)
    np.testing.assert_allclose(float(flat.norm()), golden["sq"] ** 0.5, rtol=rtol, err_msg=name)
    slack = rtol * golden["abs"]  # a sum of mixed signs is small beside what was added up
    np.testing.assert_allclose(float(flat.sum()), golden["sum"], atol=slack, rtol=0, err_msg=name)
    typical = (golden["sq"] / golden["n"]) ** 0.5  # one element's float32 rounding follows this
    for part, expected in ((flat[:8], golden["first"]), (flat[-8:], golden["last"])):
        np.testing.assert_allclose(
            part.numpy(), expected[: len(part)], rtol=rtol, atol=rtol * typical, err_msg=name
        )
