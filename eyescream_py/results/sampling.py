"""Generated pictures: making, ranking, comparing and laying them out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from eyescream_py.networks.modes import evaluating
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.voice import counted
from eyescream_py.torch7 import image


def generate(G: nn.Module, noise: Tensor, batch: int = 1024) -> Tensor:
    """Pictures of G in evaluation mode, for noise of any length. [N,Z] -> [N,C,H,W]"""
    with evaluating(G):
        return torch.cat([G(part) for part in noise.split(batch)])


def judge(D: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """D's probability of each picture being real, in evaluation mode. [N,C,H,W] -> [N]

    Raises ValueError where D takes pictures of another size for several, or parts of one.
    """
    with evaluating(D):
        said = torch.cat([D(part).reshape(-1) for part in images.split(batch)])
    if len(said) != len(images):
        raise ValueError(
            f"it says {counted(len(said), 'number')} of {counted(len(images), 'picture')}"
        )
    return said


def ranking(D: nn.Module, images: Tensor) -> Tensor:
    """Indices of the pictures from the one that D likes best to the one it likes least."""
    return judge(D, images).argsort(descending=True, stable=True)


def nearest(images: Tensor, candidates: Tensor, batch: int = 65536) -> Tensor:
    """For each picture the index of the candidate with the smallest 2-norm to it, as a matrix
    product.

    images: float [N,C,H,W]; candidates: [M,C,H,W], uint8 or float 0..1, may be much larger.
    """
    wanted = images.reshape(len(images), -1).float()  # [N,P]
    best = torch.full((len(images),), torch.inf, device=images.device)
    index = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for start in range(0, len(candidates), batch):
        # a data set larger than the device's memory stays on the host and comes part by part
        part = candidates[start : start + batch].to(images.device).reshape(-1, wanted.shape[1])
        part = part.float() / 255 if part.dtype == torch.uint8 else part.float()
        distance = part.square().sum(1) - 2 * wanted @ part.T  # [N,batch], less |image|^2
        values, positions = distance.min(1)
        closer = values < best
        best = torch.where(closer, values, best)
        index = torch.where(closer, positions + start, index)
    return index


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write pictures (0..1) as one grid in Lua's layout; the suffix of `path` says the format.

    Raises OSError where the file cannot be written.
    """
    from PIL import Image

    grid = image.toDisplayTensor(images.detach().cpu().float(), columns, min=0, max=1)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy() if pixels.ndim == 3 else pixels.numpy()
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    make_folder(path.parent)
    with atomic_write(path) as file:
        Image.fromarray(array).save(file, kind, quality=95)
