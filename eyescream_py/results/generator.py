"""A trained G as a library object, and the files in which it travels.

`load_generator` opens a trainer's `.net` and what `export` wrote as `.safetensors` (layers as JSON
in the header). `.pt` (TorchScript) and `.onnx` files are for other runtimes: a TorchScript file is
a program, which opening it would run.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import operator
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyescream_py.networks import checkpoints
from eyescream_py.networks.modes import run_on_shapes
from eyescream_py.results.generator_layers import build, describe
from eyescream_py.results.sampling import generate, judge
from eyescream_py.system.device import memory_in_words
from eyescream_py.system.errors import UserError, first_line, why
from eyescream_py.system.files import atomic_write
from eyescream_py.system.folders import make_folder
from eyescream_py.system.safe_tensors import TensorsError, load_module, read_header
from eyescream_py.system.voice import counted
from eyescream_py.torch7 import Table
from eyescream_py.torch7.random import TorchSource

FORMAT = "eyescream_py generator 1"
EXPORTED = ".safetensors"
HEADER = "eyescream.json"  # name of the header inside a TorchScript archive
MAX_LAYERS = 1000
MAX_VALUES = 1 << 27  # of one layer, for two pictures: 64 planes of 1024x1024 each
# What numbers and layers that make no sense come to, while a network is built or tried.
_MISFITS = (
    RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Generator:
    """Noise [N,noise_dim] in [-1,1] -> pictures [N,C,H,W] in 0..1; dims is (C,H,W)."""

    network: nn.Module
    noise_dim: int
    dims: tuple[int, int, int]
    device: torch.device

    @property
    def size_in_words(self) -> str:
        """Width and height of the pictures."""
        return f"{self.dims[2]}x{self.dims[1]}"

    def demand_squares(self, name: str) -> None:
        """Raise UserError that begins with `name` where its pictures are none, as real ones are."""
        if self.dims[1] != self.dims[2]:
            raise UserError(
                f"{name}: its G draws {self.size_in_words} pictures, and those of a data set are "
                "cut square: they cannot be compared"
            )

    def noise(self, n: int, seed: int = 1) -> Tensor:
        """[n,noise_dim] in [-1,1], float32 on G's device; the first rows do not depend on n."""
        noise = torch.empty(n, self.noise_dim, dtype=torch.float32, device=self.device)
        return TorchSource(seed, self.device).uniform_(noise, -1, 1)

    def sample(self, n: int, seed: int = 1) -> Tensor:
        """`n` pictures as float32 [n,C,H,W] in 0..1: the first ones of `sample.py --seed`, also
        where the caller is under an autocast.

        Raises ValueError for n below 1, TypeError for what is no whole number, UserError where the
        pictures do not fit into memory.
        """
        n, seed = operator.index(n), operator.index(seed)  # NumPy's integers, but no 2.5
        if n < 1:
            raise ValueError(f"{n} pictures cannot be made")
        in_full = torch.autocast(self.device.type, enabled=False)
        with memory_in_words("ask for fewer pictures at once"), in_full:
            return generate(self.network, self.noise(n, seed)).clamp(0, 1)


def load_generator(
    path: str | Path, device: torch.device | str = "cpu", ema: bool = True
) -> Generator:
    """Open G of a .net (its averaged one with `ema`, its decoder before it) or .safetensors.

    Raises UserError where the file holds no G that makes pictures of noise.
    """
    device = usable_device(device)
    if str(path).startswith(checkpoints.PRETRAINED):
        path = checkpoints.find(str(path), Path(), "FILE")
    path = checkpoints.given(path, "FILE")
    if path.suffix.lower() == EXPORTED:
        try:
            network = _read_safetensors(path)
        except (TensorsError, OSError, *_MISFITS) as error:
            raise UserError(f"{path}: holds no exported generator: {first_line(error)}") from error
    elif path.suffix.lower() in (".pt", ".pth", ".onnx"):
        raise UserError(
            f"{path}: TorchScript and ONNX files are for other runtimes (and may be programs); "
            "export .safetensors"
        )
    else:
        network = _read_net(path, ema)
    return described(network.float().eval().to(device), str(path))


def usable_device(device: torch.device | str) -> torch.device:
    """The device of that name; UserError where this machine has none."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).tolist()
    except (RuntimeError, TypeError, AssertionError) as error:  # the last: a torch without CUDA
        raise UserError(f"device={device}: there is no such device here; give cpu") from error
    return found


def _read_net(path: Path, ema: bool) -> nn.Module:
    return G_of(checkpoints.read(path, "FILE"), path, "FILE", ema)


def G_of(content: Table, path: Path, option: str, ema: bool) -> nn.Module:
    """The G in a file's table: with `ema` the averaged one, where there is one, and behind the
    decoder that it was trained with. Raises UserError that names `option` and `path`.
    """
    key = "G_ema" if ema and "G_ema" in content else "G"
    G = checkpoints.module(content, key, path, option)
    if "AE_decoder" not in content:
        return G
    return nn.Sequential(checkpoints.module(content, "AE_decoder", path, option), G)


def D_of(content: Table, path: Path, option: str, G: Generator) -> nn.Module:
    """The D in a file's table, on G's device. Raises UserError that names `option` and `path` where
    it does not judge G's pictures one by one.
    """
    D = checkpoints.module(content, "D", path, option).to(G.device)
    try:
        judge(D, torch.zeros(2, *G.dims, dtype=torch.float32, device=G.device))
    except _MISFITS as error:
        raise UserError(
            f"{option}={path}: G and D do not fit together: {first_line(error)}"
        ) from error
    return D


def own_D(content: Table, path: Path, option: str, G: Generator, without: str) -> nn.Module | None:
    """The D in the file of G; where there is none, or none that fits, a line says what is done
    `without`. For what can be done without.
    """
    try:
        if "D" in content:
            return D_of(content, path, option, G)
        lack = f"{path} holds no D"
    except UserError as error:
        lack = error.message
    print(f"{lack}: {without}.")
    return None


def described(network: nn.Module, name: str) -> Generator:
    """Find the noise's length and the pictures' shape by trying the network once.

    Raises UserError that begins with `name` where it makes no pictures of noise.
    """
    weights = dict(network.named_parameters())
    first = next(iter(weights.values()), None)
    if first is None or first.ndim != 2:
        raise UserError(f"{name}: its G does not begin with a Linear layer on noise")
    noise_dim = first.shape[1]
    try:
        _try_shapes(network, noise_dim)
        picture = generate(
            network, torch.zeros(2, noise_dim, dtype=first.dtype, device=first.device)
        )
    except _MISFITS as error:
        raise UserError(
            f"{name}: G takes no {counted(noise_dim, 'number')}: {first_line(error)}"
        ) from error
    if picture.ndim != 4 or picture.shape[1] not in (1, 3):
        raise UserError(f"{name}: G makes {tuple(picture.shape[1:])}, not pictures")
    if not picture.isfinite().all():  # of a variance below 0, for example
        raise UserError(f"{name}: G makes numbers that are not finite, not pictures")
    dims = (picture.shape[1], picture.shape[2], picture.shape[3])
    return Generator(network, noise_dim, dims, first.device)


def _try_shapes(network: nn.Module, noise_dim: int) -> None:
    """Run the network on shapes without memory: a file's own numbers (an upsampling by 100,000)
    must not decide what is allocated. ValueError for what is too large."""

    def judge(layer: nn.Module, given: Any, made: Any) -> None:
        if isinstance(made, Tensor) and made.numel() > MAX_VALUES:
            raise ValueError(f"its {type(layer).__name__} makes {made.numel()} values of two rows")

    hooks = [layer.register_forward_hook(judge) for layer in network.modules()]
    try:
        run_on_shapes(network, torch.empty(2, noise_dim, dtype=torch.float32, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()


def export(G: Generator, path: Path, overwrite: bool = False) -> None:
    """Write G in the format that the name's end says.

    Raises UserError for another end, a layer that the format lacks, a missing package, or a file
    that is there without `overwrite`.
    """
    writers: dict[str, Callable[[Generator], bytes]] = {
        EXPORTED: _safetensors_bytes, ".pt": _torchscript_bytes, ".onnx": _onnx_bytes,
    }  # fmt: skip
    if path.suffix.lower() not in writers:
        raise UserError(f"--export={path}: the name must end in {', '.join(writers)}")
    if path.is_file() and not overwrite:
        raise UserError(f"--export={path}: is there already; give --overwrite or another name")
    content = writers[path.suffix.lower()](G)
    try:
        make_folder(path.parent)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--export={path}: cannot write: {why(error)}") from error


def _header(G: Generator) -> dict[str, Any]:
    return {"format": FORMAT, "noise_dim": G.noise_dim, "dims": list(G.dims)}


def _safetensors_bytes(G: Generator) -> bytes:
    from safetensors.torch import save

    header = {name: json.dumps(value) for name, value in _header(G).items()}
    header["layers"] = json.dumps(describe(G.network))
    tensors = {n: t.detach().cpu().contiguous() for n, t in G.network.state_dict().items()}
    return save(tensors, header)


def _read_safetensors(path: Path) -> nn.Module:
    header = read_header(path)
    layers = header.metadata.get("layers")
    if layers is None:
        raise ValueError("its header describes no layers")
    if layers.count("{") > MAX_LAYERS:
        raise ValueError(f"its header describes more than {MAX_LAYERS} layers")
    description = json.loads(layers)
    return load_module(header, lambda: build(description).float())


def _torchscript_bytes(G: Generator) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # views look at shapes: the batch stays free all the same
        traced = torch.jit.trace(*_on_cpu(G))
    return traced.save_to_buffer(_extra_files={HEADER: json.dumps(_header(G))})


def _onnx_bytes(G: Generator) -> bytes:
    """Opset 17; input "noise" [n,noise_dim], output "pictures" [n,C,H,W]."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--export: ONNX files need a further package: pip install onnx")
    free = {"noise": {0: "n"}, "pictures": {0: "n"}}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        file = Path(folder) / "g.onnx"
        torch.onnx.export(
            *_on_cpu(G), str(file), dynamo=False, opset_version=17,
            input_names=["noise"], output_names=["pictures"], dynamic_axes=free,
        )  # fmt: skip
        return file.read_bytes()


def _on_cpu(G: Generator) -> tuple[nn.Module, tuple[Tensor]]:
    """A copy of the network and example inputs, for tracing: `G` itself stays where it is."""
    return copy.deepcopy(G.network).cpu(), (G.noise(2).cpu(),)
