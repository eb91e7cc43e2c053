"""What checkpoints of earlier versions (`srez-1`) hold, put into the present form."""

from __future__ import annotations

import re

from torch import Tensor

FIRST_MOMENTUM = 0.01  # of srez-1's running statistics, which started at 0 and 1


def upgraded(tensors: dict[str, Tensor], batch: int) -> dict[str, Tensor]:
    """A srez-1 file's tensors under today's names, with today's running statistics."""
    tensors = _with_doubling_stages(tensors)
    for name in [n for n in tensors if n.endswith(".running_mean")]:
        norm = name.removesuffix(".running_mean")
        _debias(tensors, norm, batch)
    return tensors


def _debias(tensors: dict[str, Tensor], norm: str, batch: int) -> None:
    """Take out the share that the start values 0 and 1 still had after `batch` updates.

    The critic's statistics were updated twice or more per batch, but nothing ever reads them.
    """
    start = (1 - FIRST_MOMENTUM) ** batch
    mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
    if batch > 0:
        tensors[f"{norm}.running_mean"] = mean / (1 - start)
        tensors[f"{norm}.running_var"] = ((variance - start) / (1 - start)).clamp_min(0)
    tensors[f"{norm}.seen"] = mean.new_tensor(float(batch))


def _with_doubling_stages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first files kept each convolution behind a doubling with the layer that followed it.

    `stages.0.project` was the first layer, `stages.N.project` now belongs to the doubling before
    it, and `head.0` to the last stage. Files that know no such names stay as they are.
    """
    stage = re.compile(r"(generator/stages)\.(\d+)\.(.+)")
    found = [stage.fullmatch(name) for name in tensors]
    last = max((int(m[2]) for m in found if m), default=-1)
    residual = any(m and m[3].startswith("project.") for m in found)
    if "generator/head.0.weight" not in tensors:
        return dict(tensors)

    def renamed(name: str) -> str:
        head = re.fullmatch(r"generator/head\.(\d)\.(.+)", name)
        if head and head[1] == "0":
            then = "then." if residual else ""
            return f"generator/stages.{last + 1}.{then}{head[2]}"
        if head:
            return f"generator/head.{int(head[1]) - 1}.{head[2]}"
        match = stage.fullmatch(name)
        if not match or not residual:
            return name
        number, rest = int(match[2]), match[3]
        if not rest.startswith("project."):
            return f"{match[1]}.{number + 1}.{rest}"
        then = "then." if number else ""
        return f"{match[1]}.{number}.{then}{rest.removeprefix('project.')}"

    return {renamed(name): tensor for name, tensor in tensors.items()}
