"""Several processes train one model: `torchrun --nproc_per_node=K train.py ...`.

Every process holds the whole model and the whole state of the run. It draws the random numbers of
the full batch and keeps every K-th row of them, from its rank on, so that K processes compute what
one process computes. Gradients, losses and batch statistics are averaged, D's predictions are
gathered; a batch that K processes cannot share evenly (an epoch's last, shorter one) is computed
whole by each. A loop is handed `Alone` or `Group` and never knows which. Rank 0 alone writes,
prints and plots; as no state depends on K, a run can be resumed with another K.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyescream_py.errors import UserError
from eyescream_py.processes import usable_cores
from eyescream_py.runtime import StopSignal
from eyescream_py.torch7.random import RandomSource
from eyescream_py.training import Run, RunOptions, Task

T = TypeVar("T")


class Alone:
    """One process: the whole batch is its share, and there is nobody to average with.

    `leads` is true in the one process that writes.
    """

    size = 1
    leads = True

    @contextlib.contextmanager
    def sharing(self, n: int) -> Iterator[int]:
        """A block that works on a batch of n pictures; gives how many of them are ours."""
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

    def run(self, task: Task, options: RunOptions, stop: StopSignal) -> Run:
        return Run(task, options, stop)


class Group(Alone):
    """K processes joined by torch.distributed, of which this is number `rank`."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
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
                # in place of another class, so that the layer stays a BatchNorm for whoever saves
                layer.forward = _SharedNorm(layer, self)  # type: ignore[method-assign,assignment]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, with gradients; the value itself where nothing is shared."""
        return _Sum.apply(value) if self._shared else value

    @property
    def shares(self) -> int:
        """Into how many parts the batch under way is split."""
        return self.size if self._shared else 1

    def in_turn(self, work: Callable[[], T]) -> T:
        first = work() if self.rank == 0 else None
        dist.barrier()
        return work() if first is None else first

    def run(self, task: Task, options: RunOptions, stop: StopSignal) -> Run:
        return _SharedRun(task, options, SharedStop(stop), self.leads)


@contextlib.contextmanager
def joined(options: Any) -> Iterator[tuple[Alone, Any]]:
    """The processes that torchrun started, and a trainer's options as this process has to use them.

    Started without torchrun, the process is alone and its options are the given ones. Raises
    UserError where the batch cannot be split or the numbers are Lua's.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Alone(), options
        return
    options = _options(options, size, int(os.environ["LOCAL_RANK"]))
    cuda = options.gpu >= 0 and torch.cuda.is_available()
    device = torch.device("cuda", options.gpu) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # signals to stop are agreed upon by the CPUs: no process waits for its GPU to hear of them
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with _silence(dist.get_rank() > 0):
            yield Group(device), options
    finally:
        dist.destroy_process_group()


def _options(options: Any, size: int, local_rank: int) -> Any:
    if options.batch_size % (2 * size):
        raise UserError(
            f"--batchSize={options.batch_size}: {size} processes cannot share it evenly; "
            f"give a multiple of {2 * size}"
        )
    if getattr(options, "rng", "torch") == "lua":
        raise UserError(
            "--rng=lua follows the Lua program in one process: start it without torchrun"
        )
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    changes: dict[str, Any] = {"noplot": options.noplot or int(os.environ["RANK"]) > 0}
    if "threads" not in options.typed:
        changes["threads"] = max(1, usable_cores() // local_size)
    if options.gpu >= 0 and torch.cuda.is_available():
        changes["gpu"] = local_rank
    return dataclasses.replace(options, **changes)


@contextlib.contextmanager
def _silence(silent: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if silent:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        sys.stdout.flush()


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

    def set_state(self, state: dict[str, Any]) -> None:
        self.whole.set_state(state)


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


class _SharedNorm:
    """Batch normalisation by the whole batch's statistics (torch's SyncBatchNorm refuses CPUs)."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, group: Group) -> None:
        self.layer, self.group = layer, group

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedNorm:
        return _SharedNorm(memo[id(self.layer)], self.group)

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
        momentum = 0.1 if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), momentum)
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), momentum)


class SharedStop(StopSignal):
    """A signal to one process stops all, after the same iteration: they ask one another."""

    def __init__(self, ours: StopSignal) -> None:
        self._ours, self._agreed, self._asking = ours, False, True

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        """A block that one process may run alone: nobody is asked in it."""
        self._asking = False
        try:
            yield
        finally:
            self._asking = True

    @property
    def requested(self) -> bool:  # type: ignore[override]
        if self._asking and not self._agreed:
            flag = torch.tensor(int(self._ours.requested))
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            self._agreed = bool(flag)
        return self._agreed

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._ours.name or "a signal to another process"

    @property
    def at_once(self) -> str:
        return self._ours.at_once

    @at_once.setter
    def at_once(self, words: str) -> None:
        self._ours.at_once = words


class _NoLines:
    """Takes the lines of a process that writes nothing."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _SharedRun(Run):
    """A run in step with those of the other processes, of which one (`leads`) writes."""

    def __init__(self, task: Task, options: RunOptions, stop: SharedStop, leads: bool) -> None:
        self.leads, self.shared_stop = leads, stop
        super().__init__(task, options, stop)

    def _shows_progress(self) -> bool:
        return self.leads and super()._shows_progress()

    def _open_logs(self, keep: bool) -> None:
        if self.leads:
            super()._open_logs(keep)
        else:
            self.metrics = _NoLines()  # type: ignore[assignment]
            self.losses = _NoLines() if self.options.log_every else None  # type: ignore[assignment]

    def _save(self) -> None:
        if self.leads:
            with self.shared_stop.settled():
                super()._save()
        else:
            self._good, self._unsaved = self.path, False

    def _save_pictures(self, epoch: int) -> None:
        if self.leads:
            super()._save_pictures(epoch)
