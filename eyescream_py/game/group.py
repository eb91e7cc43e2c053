"""Sharing one batch among the processes of a run: `Alone`, or one of a `Group`.

Every process holds the whole model and the whole state of the run. It draws the random numbers of
the full batch and keeps every K-th row of them, from its rank on, so that K processes compute what
one process computes. Gradients, losses and batch statistics are averaged, D's predictions are
gathered; a batch that K processes cannot share evenly (an epoch's last, shorter one) is computed
whole by each. A loop is handed `Alone` or `Group` and never knows which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyescream_py.networks.modes import Forward

if TYPE_CHECKING:
    from eyescream_py.torch7.random import RandomSource

T = TypeVar("T")


class Alone:
    """One process: the whole batch is its share, and there is nobody to average with.

    `leads` is true in the one process that writes.
    """

    size = 1
    leads = True

    @contextlib.contextmanager
    def sharing(self, n: int) -> Iterator[int]:
        """A block that works on a batch of n pictures; yields how many of them are ours."""
        yield n

    def rows(self, whole: Tensor) -> Tensor:
        """Our rows of the batch. [n,...] -> [n/K,...]"""
        return whole

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def gather(self, ours: Tensor) -> Tensor:
        """The rows of all processes, in no particular order. [n/K,...] -> [n,...]"""
        return ours

    def source(self, source: RandomSource) -> RandomSource:
        """A source of which each process keeps its rows while a batch is shared."""
        return source

    def share_statistics(self, network: nn.Module) -> None:
        """Make the batch normalisation layers of `network` use the whole batch's statistics."""

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work`, done by rank 0 first: the others find what it has cached."""
        return work()

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` returns in rank 0, which alone does it."""
        return work()

    def all_say(self, ours: bool) -> bool:
        """Whether every process says yes."""
        return ours


class Group(Alone):
    """K processes joined by torch.distributed, of which this is number `rank`."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0
        self._shared = False

    @contextlib.contextmanager
    def sharing(self, n: int) -> Iterator[int]:
        self._shared = n % (2 * self.size) == 0  # both halves of D's batch have to split
        try:
            yield n // self.size if self._shared else n
        finally:
            self._shared = False

    def rows(self, whole: Tensor) -> Tensor:
        return whole[self.rank :: self.size] if self._shared else whole

    def average_(self, tensors: Sequence[Tensor]) -> None:
        if not self._shared:
            return
        if len(tensors) == 1 and tensors[0].is_contiguous():  # flat gradients: nothing to gather
            dist.all_reduce(tensors[0])
            tensors[0].div_(self.size)
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, ours: Tensor) -> Tensor:
        if not self._shared:
            return ours
        parts = [torch.empty_like(ours) for _ in range(self.size)]
        dist.all_gather(parts, ours.contiguous())
        return torch.cat(parts)

    def source(self, source: RandomSource) -> RandomSource:
        return SharedSource(source, self)

    def draw(self, tensor: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
        """Fill `tensor` with our rows of what `fill` draws for the whole batch."""
        if not self._shared:
            return fill(tensor)
        whole = torch.empty(
            (len(tensor) * self.size, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device
        )
        return tensor.copy_(self.rows(fill(whole)))

    def share_statistics(self, network: nn.Module) -> None:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                _SharedNorm(layer, self).install()

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, with gradients; the value itself where nothing is shared."""
        return _Sum.apply(value) if self._shared else value

    @property
    def shares(self) -> int:
        """Into how many parts the batch under way is split."""
        return self.size if self._shared else 1

    def in_turn(self, work: Callable[[], T]) -> T:
        first = work() if self.rank == 0 else None
        dist.all_reduce(torch.zeros(()))  # on the processor: a GPU would spin while it waits
        return work() if first is None else first

    def agreed(self, work: Callable[[], T]) -> T:
        box = [work() if self.rank == 0 else None]
        dist.broadcast_object_list(box)
        return cast(T, box[0])

    def all_say(self, ours: bool) -> bool:
        against = torch.tensor(float(not ours))  # on the processor, as whoever compiles takes long
        dist.all_reduce(against)
        return not against


class SharedSource:
    """A `RandomSource` that draws for the whole batch and keeps our rows while one is shared."""

    def __init__(self, whole: RandomSource, group: Group) -> None:
        self.whole, self.group = whole, group

    @property
    def generator(self) -> Any:
        return getattr(self.whole, "generator", None)

    def uniform_(self, tensor: Tensor, low: float, high: float) -> Tensor:
        return self.group.draw(tensor, lambda t: self.whole.uniform_(t, low, high))

    def normal_(self, tensor: Tensor, mean: float, std: float) -> Tensor:
        return self.group.draw(tensor, lambda t: self.whole.normal_(t, mean, std))

    def bernoulli_(self, tensor: Tensor, p: float) -> Tensor:
        return self.group.draw(tensor, lambda t: self.whole.bernoulli_(t, p))

    def indices_(self, tensor: Tensor, n: int) -> Tensor:
        return self.group.draw(tensor, lambda t: self.whole.indices_(t, n))

    def permutation(self, n: int) -> Tensor:
        return self.whole.permutation(n)

    def state(self) -> dict[str, Any]:
        return self.whole.state()

    def set_state(self, state: dict[str, Any]) -> bool:
        return self.whole.set_state(state)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


class _SharedNorm(Forward):
    """Batch normalisation by the whole batch's statistics (torch's SyncBatchNorm refuses CPUs)."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, group: Group) -> None:
        super().__init__(layer)
        self.group = group

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            return type(layer).forward(layer, x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // x.shape[1] * self.group.shares
        mean = self.group.sum(x.sum(axes, keepdim=True)) / count
        variance = self.group.sum((x - mean).square().sum(axes, keepdim=True)) / count
        self._remember(mean.detach().flatten(), variance.detach().flatten() * count / (count - 1))
        normal = (x - mean) * torch.rsqrt(variance + layer.eps)
        shape = mean.shape
        return normal * layer.weight.view(shape) + layer.bias.view(shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        layer = self.layer
        assert layer.running_mean is not None  # noqa: S101
        assert layer.running_var is not None  # noqa: S101
        assert layer.num_batches_tracked is not None  # noqa: S101
        layer.num_batches_tracked += 1
        # None is the plain mean over all batches, as in torch's own layers
        share = layer.momentum
        momentum = 1 / int(layer.num_batches_tracked) if share is None else share
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), momentum)
