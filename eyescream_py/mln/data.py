"""Training examples: generic images, cropped, flipped, given a random smooth phase, and acquired.

Every example is a function of (seed, its running number), so a run resumes exactly from a counter
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyescream_py.mln.examples import Draws, crops_at_once, phases_at_once, stack_on
from eyescream_py.mln.formats.mat import dense, mat_names, read_mat
from eyescream_py.mln.params import Params
from eyescream_py.mln.phantoms import random_ellipses, shepp_logan
from eyescream_py.mln.protocol import Protocol
from eyescream_py.system.errors import UserError, why
from eyescream_py.system.progress import each
from eyescream_py.system.voice import counted, warn

Floats = NDArray[np.float64]
_PHANTOMS = 64
HDF5 = b"\x89HDF\r\n\x1a\n"  # MATLAB's own files begin with its name


def load_images(path: str, limit: int, side: int, seed: int = 1) -> NDArray[Any]:
    """Generic grey images (count, H, W), H and W at least `side`: from a folder, .mat or HDF5, or
    phantoms.

    An empty path makes random ellipse phantoms and a Shepp-Logan head. A folder's pictures are cut
    to their central square and scaled to max(256, side). Raises UserError naming the file where
    there is nothing to use.
    """
    if not path:
        return _phantoms(max(side, 64), min(limit, _PHANTOMS), seed)
    images = (
        _from_folder(Path(path), limit, max(256, side))
        if Path(path).is_dir()
        else _from_mat(path, limit)
    )
    if min(images.shape[1:]) < side:
        raise UserError(
            f"DatasetMatFN {path}: its images of {images.shape[1]} x {images.shape[2]} are smaller "
            f"than LabelsH {side}"
        )
    return images


def _phantoms(side: int, count: int, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng([seed, 7])
    images = [shepp_logan(side)]
    images += [random_ellipses(side, rng) for _ in range(count - 1)]
    return np.stack(images).astype(np.float32)


def _from_folder(folder: Path, limit: int, side: int) -> NDArray[Any]:
    from PIL import Image, ImageOps

    from eyescream_py.data.pictures import ENDINGS, PictureError, open_picture
    from eyescream_py.data.walk import walk

    try:
        found = walk(folder, ENDINGS)
    except OSError as error:
        raise UserError(f"DatasetMatFN {folder}: cannot be read ({why(error)})") from None
    images, broken = [], []
    files = list(zip(found.paths[:limit], found.names[:limit], strict=True))
    for path, name in each(files, "pictures"):
        try:
            picture = open_picture(path, "L")
        except PictureError as error:
            broken.append((name, str(error)))
            continue
        images.append(np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)))
    line = found.line(broken)
    if line:
        warn(line)
    if not images:
        raise UserError(f"DatasetMatFN {folder}: no readable picture in this folder or below it")
    return np.stack(images)


def _from_mat(path: str, limit: int) -> NDArray[Any]:
    """The dataset HCPData (count, H, W), or the only 3-axis one, of an HDF5 or .mat file."""
    shapes = mat_names(path, "DatasetMatFN")
    stacks = [name for name, shape in shapes.items() if len(shape) == 3]
    if len(shapes.get("HCPData", ())) == 2:  # one image: MATLAB drops last axes of 1
        stacks = ["HCPData"]
    if "HCPData" not in stacks and len(stacks) != 1:
        raise UserError(
            f"DatasetMatFN {path}: needs HCPData or one (count, height, width) array; "
            f"it holds {', '.join(shapes) or 'nothing'}"
        )
    name = "HCPData" if "HCPData" in stacks else stacks[0]
    last = len(shapes[name]) == 2 or _counts_last(path, shapes[name])
    keep = (0, 0) if len(shapes[name]) == 2 else (limit, -1 if last else 0)
    value = read_mat(path, [name], source="DatasetMatFN", keep=keep)[name]
    images = dense(value, name, 3, f"DatasetMatFN {path}")
    images = images.transpose() if last else images
    images = images.astype(np.uint8) if images.dtype.kind == "b" else images
    return images if images.dtype.kind in "iu" else np.abs(images).astype(np.float32)


def _counts_last(path: str, shape: tuple[int, ...]) -> bool:
    """Whether the last of MATLAB's axes (the first as an HDF5 file lies) counts the images, or the
    first does. Where two axes are equal, they are an image's sides. Else HDF5 files that MATLAB did
    not write count by their first, as the published program reads them; MATLAB's may count by
    either, by the one whose size is least like the other two: that is said.
    """
    first, middle, last = (max(size, 1) for size in shape)
    nearer = max(first, middle) * min(middle, last) <= max(middle, last) * min(first, middle)
    if first == middle or middle == last:
        return nearer
    with open(path, "rb") as file:
        if file.read(len(HDF5)) == HDF5:
            return True
    count, sides = (last, (first, middle)) if nearer else (first, (middle, last))
    warn(
        f"DatasetMatFN {path}: taken as {counted(count, 'image')} of {sides[0]} x {sides[1]}; if "
        "that is wrong, save it as HDF5 (count, height, width)"
    )
    return nearer


def training_images(params: Params) -> tuple[NDArray[Any], NDArray[Any]]:
    """(images to train with, images kept for the closing comparison), see `load_images`.

    Of a data set the last eighth, one to 64 images, is kept back; a single image is both. Phantoms
    are made anew from another seed.
    """
    words = (params.images, params.images_to_load, params.image_side)
    images = load_images(*words, params.seed)
    if not params.images:
        return images, load_images(*words, params.seed + 1)
    if len(images) < 2:
        return images, images
    back = min(64, max(1, len(images) // 8))
    return images[:-back], images[-back:]


def random_crop(images: NDArray[Any], side: int, rng: np.random.Generator) -> Floats:
    """One image, flipped, rotated and cropped at random to (side, side), divided by its maximum (>=
    1 for integer images).
    """
    image = images[rng.integers(len(images))]
    flips = rng.random(3) < 0.5
    image = image[:, ::-1] if flips[0] else image
    image = image[::-1] if flips[1] else image
    image = np.rot90(image) if flips[2] else image
    top, left = (rng.integers(size - side + 1) for size in image.shape)
    crop = image[top : top + side, left : left + side].astype(np.float64)
    least = 1.0 if images.dtype.kind in "iu" else 1e-6
    return crop / max(crop.max(), least)


def random_phase(
    side: int,
    rng: np.random.Generator,
    linear: float = 5.0,
    quadratic: float = 0.1,
    scale: float = 2.0,
) -> Floats:
    """A smooth random phase in radians, (side, side); the factors are RandomPhaseLinearFac and its
    siblings.
    """
    u = rng.random(11)
    line = np.linspace(-np.pi, np.pi, side)
    x, y = line[None, :], line[:, None]

    def wave(a: float, b: float, c: float, d: float) -> Floats:
        planes = linear * ((a - 0.5) * x + (b - 0.5) * y)
        return np.sin(planes + quadratic * ((c - 0.5) * x**2 + (d - 0.5) * y**2))

    swing = (u[8] - 0.5) * wave(*u[0:4]) + (u[9] - 0.5) * wave(*u[4:8])
    return swing * 2 * np.pi * scale + 2 * np.pi * u[10] - np.pi


@dataclass
class Batch:
    """signal (B, C, M) and label (B, outputs, N, N), complex64, on the protocol's device."""

    signal: Tensor
    label: Tensor


class Examples:
    """The endless stream of (signal, label) for one protocol, with the original's signal bank.

    With BankSize S and BankK, draw d uses slot d mod S; the first S of every S * BankK draws are
    simulated, the others use the slot again. Slots missing after a resume are simulated when first
    needed.
    """

    def __init__(
        self, params: Params, protocol: Protocol, images: NDArray[Any], seed: int | None = None
    ) -> None:
        self._params, self._protocol, self._images = params, protocol, images
        self._seed = params.seed if seed is None else seed
        self._stack: Tensor | None = None  # the images on a GPU, once they are needed there
        self._bank: dict[int, tuple[int, Tensor, Tensor]] = {}  # slot -> (number, signal, label)

    @property
    def device(self) -> torch.device:
        """Where signals and labels are."""
        return self._protocol.mask.device

    def batch(self, first: int, count: int) -> Batch:
        """Draws `first` .. `first` + `count` - 1 of the stream."""
        draws = range(first, first + count)
        batch = self._banked(draws) if self._params.bank_size else self.simulate(list(draws))
        return Batch(self._noisy(batch.signal, first), batch.label) if self._params.noise else batch

    def simulate(self, numbers: list[int]) -> Batch:
        """Examples by number, freshly simulated, without noise."""
        acquisition, device = self._protocol.acquisition, self.device
        make = self._made_at_once if device.type == "cuda" else self._made
        tensor = make(numbers, device) * self._protocol.mask  # [B,bands,N,N]
        with torch.no_grad():
            signal = acquisition.forward(tensor)
        echoes = self._protocol.echoes
        return Batch(signal, tensor if echoes is None else tensor * echoes)

    def _made(self, numbers: list[int], device: torch.device) -> Tensor:
        """Images (B, bands, N, N) before the mask, by number."""
        images = np.stack([self._image(number) for number in numbers])
        return torch.from_numpy(images).to(device, torch.complex64)

    def _image(self, number: int) -> NDArray[np.complex128]:
        rng = np.random.default_rng([self._seed, number])
        return np.stack([self._band(rng) for _ in range(self._protocol.acquisition.bands)])

    def _band(self, rng: np.random.Generator) -> NDArray[np.complex128]:
        p = self._params
        image = random_crop(self._images, p.image_side, rng)
        phase = random_phase(p.image_side, rng, p.phase_linear, p.phase_quadratic, p.phase_scale)
        return image * np.exp(1j * phase)

    def _made_at_once(self, numbers: list[int], device: torch.device) -> Tensor:
        """`_made` by the same draws, but all images together on the device."""
        p, bands = self._params, self._protocol.acquisition.bands
        if self._stack is None:
            self._stack = stack_on(device, self._images)
        rngs = [np.random.default_rng([self._seed, number]) for number in numbers]
        draws = Draws.of([rng for rng in rngs for _ in range(bands)], self._images, p.image_side)
        crops = crops_at_once(self._stack, p.image_side, draws)
        settings = p.phase_linear, p.phase_quadratic, p.phase_scale
        images = torch.polar(crops, phases_at_once(p.image_side, draws.phase.to(device), *settings))
        return images.to(torch.complex64).unflatten(0, (-1, bands))

    def _banked(self, draws: range) -> Batch:
        size, period = self._params.bank_size, self._params.bank_size * self._params.bank_uses
        wanted = {draw: draw // period * period + draw % size for draw in draws}
        stale = sorted({n for n in wanted.values() if self._bank.get(n % size, (-1,))[0] != n})
        if stale:
            fresh = self.simulate(stale)
            for number, signal, label in zip(stale, fresh.signal, fresh.label, strict=True):
                self._bank[number % size] = (number, signal.clone(), label.clone())
        slots = [self._bank[number % size] for number in wanted.values()]
        return Batch(
            torch.stack([s for _, s, _ in slots]), torch.stack([label for _, _, label in slots])
        )

    def _noisy(self, signal: Tensor, first: int) -> Tensor:
        generator = torch.Generator(signal.device).manual_seed(self._seed * 1_000_003 + first)
        parts = torch.randn(*signal.shape, 2, generator=generator, device=signal.device)
        return signal + torch.view_as_complex(parts * self._params.noise)


class Ahead:
    """The batches of `examples` by number. On a GPU the one after the last taken can be begun while
    the device computes with that: then it is never idle until its next work is drawn.
    """

    def __init__(self, examples: Examples, size: int) -> None:
        self._examples, self._size = examples, size
        self._begun: tuple[int, Batch] | None = None
        self._last = 0

    def take(self, number: int) -> Batch:
        """Batch `number`, counted from 0."""
        begun, self._begun, self._last = self._begun, None, number
        return begun[1] if begun and begun[0] == number else self._made(number)

    def begin_next(self) -> None:
        """Make the batch after the last taken one, where that keeps nobody waiting."""
        if self._examples.device.type == "cuda":
            self._begun = self._last + 1, self._made(self._last + 1)

    def _made(self, number: int) -> Batch:
        return self._examples.batch(number * self._size, self._size)
