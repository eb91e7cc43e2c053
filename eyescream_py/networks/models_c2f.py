"""The coarse-to-fine networks of `models_c2f.lua`: G draws the detail that a coarse picture lacks,
D judges it.

Both take two pictures of the fine size: `G(noise, coarse)` and `D(diff, coarse)`, or one tuple of
the two.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from eyescream_py.networks.models import Dims
from eyescream_py.system.errors import UserError
from eyescream_py.torch7.layers.shapes import Copy, View
from eyescream_py.torch7.layers.stochastic import Dropout
from eyescream_py.torch7.layers.tables import CAddTable, JoinTable

# (output planes, kernel) of each convolution but the last, then the last one's kernel
_G_LAYERS = {
    "default": (((64, 3), (128, 7)), 5),
    "b": (((64, 3), (64, 3), (256, 5)), 7),
    "c": (((64, 3), (128, 3), (256, 5)), 7),
    "d": (((64, 3), (64, 3), (128, 5), (256, 5)), 7),
}
_D_SECOND_PAIR = {"b": (128, 128), "c": (128, 256)}


class PairSequential(nn.Sequential):
    """An `nn.Sequential` whose first module takes a table: called with two tensors or one tuple."""

    def forward(self, *inputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        value: Any = inputs[0] if len(inputs) == 1 else inputs
        for layer in self:
            value = layer(value)
        return value


def create_G(dims: Dims, architecture: str = "default") -> PairSequential:
    """(noise (N,1,H,W) in [-1,1], coarse (N,C,H,W) in 0..1) -> difference to the fine picture
    (N,C,H,W).
    """
    channels = dims[0]
    layers, last_kernel = _G_LAYERS[architecture]
    modules: list[nn.Module] = [JoinTable(2)]
    planes = channels + 1
    for wider, kernel in layers:
        modules += [nn.Conv2d(planes, wider, kernel, padding=(kernel - 1) // 2), nn.PReLU()]
        planes = wider
    modules.append(nn.Conv2d(planes, channels, last_kernel, padding=(last_kernel - 1) // 2))
    return PairSequential(*modules)


def create_D(dims: Dims, architecture: str = "default") -> PairSequential:
    """(difference, coarse), both (N,C,H,W) -> probability that the difference is real (N,1).

    Raises UserError for a size that the poolings cannot halve.
    """
    channels, height, width = dims
    pairs = [(64, 64)] + ([_D_SECOND_PAIR[architecture]] if architecture != "default" else [])
    shrink = 2 ** len(pairs)
    if height % shrink or width % shrink:
        raise UserError(f"--fineSize={height}: this discriminator needs a multiple of {shrink}")
    modules: list[nn.Module] = [CAddTable()]
    planes = channels
    for first, second in pairs:
        for wider in (first, second):
            modules += [nn.Conv2d(planes, wider, 3, padding=1), nn.PReLU()]
            planes = wider
        modules.append(nn.MaxPool2d(2))
    flat = planes * (height // shrink) * (width // shrink)
    modules += [Dropout(), View(flat), nn.Linear(flat, 512), nn.PReLU(), Dropout()]
    modules += [nn.Linear(512, 1), nn.Sigmoid()]
    return PairSequential(*modules)


def as_lua_saves(network: nn.Module) -> nn.Sequential:
    """The same layers in the tree that the Lua program writes after training on a GPU.

    Its `sample.lua` puts a nn.Copy first in a network that has none, and that cannot take the two
    pictures: so Copy layers stand behind the layer that joins them, and at the end.
    """
    join, *layers = network.children()
    inner = nn.Sequential(*layers)
    saved = nn.Sequential(join, Copy(), inner, Copy())
    for part in (saved, inner):
        part.training = network.training
    return saved
