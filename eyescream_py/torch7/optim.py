"""The optimizers of Lua Torch's `optim` package with its arithmetic, and its confusion matrix.

They differ from torch.optim in small ways that a replayed run can see: Adam adds epsilon before the
bias correction of the step size, SGD's dampening defaults to its momentum, Adagrad's accumulator
starts at 0 with epsilon 1e-10.

`step(gate)` takes an optional 0-dim tensor of 1 or 0: with 0 nothing changes, the step counter
included. With `capturable` the counters live on the device and no value is read back, so a step can
be captured in a CUDA graph.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .flat import Flat

ENDLESS = 1e9  # steps after which b^t is 0 for any decay b of a moment


class LuaOptimizer(torch.optim.Optimizer):
    """Steps over one list of parameters; keeps `t` and flat-exportable moment buffers named as Lua
    names them.

    Of `Flat` parameters gradients and moments lie flat, too, and a step is one pass over all.
    """

    buffers: tuple[str, ...] = ()
    joined: Any = None  # `game.joined_adam`, where that takes the steps of an Adam

    def __init__(
        self, params: Iterable[Tensor] | Flat, lr: float, capturable: bool = False
    ) -> None:
        self.flat = None if isinstance(params, Iterable) else params
        singly = params if isinstance(params, Iterable) else params.parameters
        super().__init__(singly, {"lr": lr})
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        first = self.parameters[0]
        self.t: float | Tensor = 0
        self._factor = 1.0
        self._rate: Tensor | None = None
        if capturable:
            self.t = torch.zeros((), dtype=torch.float64, device=first.device)
            self._rate = torch.full_like(self.t, lr)
        self._whole: dict[str, Tensor] = {}  # of `Flat` parameters: gradients and each moment
        if self.flat:
            self._one = self.flat.weights.new_ones(())
            self._whole = {name: self.flat.zeros() for name in ("gradient", *self.buffers)}
            parts = self.flat.views(self._whole["gradient"])
            for p, part in zip(self.parameters, parts, strict=True):
                p.grad = part
        self.moments = {name: self._parts(name) for name in self.buffers}

    def _parts(self, name: str) -> list[Tensor]:
        """A moment that starts at 0, a tensor for each parameter."""
        if self.flat:
            return self.flat.views(self._whole[name])
        return [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self.parameters]

    @property
    def weights(self) -> list[Tensor]:
        """What a step changes: the parameters, or all of them as one tensor."""
        return [self.flat.weights] if self.flat else self.parameters

    @property
    def gradients(self) -> list[Tensor]:
        """What a step goes by, of the shapes of `weights`."""
        if self.flat:
            return [self._whole["gradient"]]
        return [p.grad for p in self.parameters if p.grad is not None]

    def held(self, name: str) -> list[Tensor]:
        """A moment, in the shapes of `weights`."""
        return [self._whole[name]] if self.flat else self.moments[name]

    def differentiate(
        self,
        loss: Tensor,
        leaves: list[Tensor] | None = None,
        reading: Callable[..., AbstractContextManager[None]] = lambda *slopes: nullcontext(),
        without: Collection[int] = (),
    ) -> None:
        """Make `loss`'s slopes the `gradients`; by `leaves` where those stand in for the parameters
        in it (of `Flat` ones only). Every parameter has to take part in the loss. Slopes are read
        in a block `reading(*slopes)`; those of numbers `without` are gradients by then.
        """
        if self.flat:
            # torch would fill a 1 of its own each time
            one = self._one.to(loss.dtype)
            slopes = torch.autograd.grad(loss, leaves or self.parameters, one)
            with reading(*slopes):
                self.flat.gather(slopes, self._whole["gradient"], without)
        else:
            self.zero_grad(set_to_none=True)
            loss.backward(inputs=self.parameters)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.param_groups[0]["lr"]) * self.factor

    @property
    def rate(self) -> float | Tensor:
        """`lr` as a step multiplies by it: on the device where steps are captured, so that a graph
        need not be made anew for another rate.
        """
        return self.lr if self._rate is None else self._rate

    @property
    def factor(self) -> float:
        """Of the learning rate, for rates that fall."""
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        self._factor = value
        self._tell_device()

    def halve(self) -> None:
        """Learn at half the rate from here on."""
        self.param_groups[0]["lr"] /= 2
        self._tell_device()

    def _tell_device(self) -> None:
        if self._rate is not None:
            self._rate.fill_(self.lr)

    @torch.no_grad()
    def step(self, gate: Tensor | None = None) -> None:  # type: ignore[override]
        """Use each parameter's `.grad`: all have one. ValueError where elements share memory."""
        if any(map(_overlaps, self.weights)):
            raise ValueError("elements of a parameter share memory, as after expand(): clone() it")
        on_device = isinstance(self.t, Tensor)
        if gate is not None and not on_device:
            if not bool(gate):
                return
            gate = None
        self._update(self.gradients, gate)

    @abc.abstractmethod
    def _update(self, gradients: list[Tensor], gate: Tensor | None) -> None:
        """Count the step and change the parameters."""

    def count(self, gate: Tensor | None) -> Any:
        """Count a step, where `gate` is not 0; the new count."""
        self.t += 1 if gate is None else gate
        return self.t

    def _scaled(self, value: Any, gate: Tensor | None) -> Any:
        """`value` as a factor for foreach operations: 0 where the gate is closed, in the
        parameters' type.
        """
        if gate is not None:
            value = value * gate.double()
        if isinstance(value, Tensor):
            return value.to(self.parameters[0].dtype)
        return value

    def is_finite(self) -> bool:
        """Whether every parameter and every moment is a finite number. Waits for the device."""
        held = [weights.detach() for weights in self.weights]
        held += [tensor for name in self.moments for tensor in self.held(name)]
        # extremes are NaN where any number is; on a CPU a norm would take twelve times as long
        return bool(torch.stack([v for t in held for v in torch.aminmax(t)]).isfinite().all())

    def export_state(self) -> dict[str, Any]:
        """{"t": steps taken, and each moment buffer as one flat tensor in getParameters order}."""
        state: dict[str, Any] = {"t": int(self.t)}
        for name, tensors in self.moments.items():
            state[name] = torch.cat([tensor.reshape(-1) for tensor in tensors])
        return state

    def import_state(self, state: dict[str, Any]) -> None:
        """Continue from `export_state`, or from the state table of Lua's optim where its names are
        the same.

        Raises ValueError where a buffer is missing or has another length, or the count of steps is
        none.
        """
        for name, tensors in self.moments.items():
            flat = state.get(name)
            sizes = [tensor.numel() for tensor in tensors]
            if flat is None or flat.numel() != sum(sizes):
                found = "no" if flat is None else f"{flat.numel()} values of"
                raise ValueError(f"optimizer state has {found} '{name}', {sum(sizes)} are needed")
            for tensor, part in zip(tensors, flat.reshape(-1).split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))
        if isinstance(self.t, Tensor):
            self.t.fill_(_steps(state["t"]))
        else:
            self.t = _steps(state["t"])


def _steps(value: Any) -> int:
    """A count of steps that doubles hold exactly; of -2^31 the first correction is a division by
    zero."""
    if not 0 <= value < 2**53 or int(value) != value:
        raise ValueError(f"optimizer state has taken {value!r} steps")
    return int(value)


class Adam(LuaOptimizer):
    """`optim.adam`: step lr*sqrt(1-b2^t)/(1-b1^t) * m/(sqrt(v)+eps) (Kingma and Ba 2014, end of
    section 2).
    """

    buffers = ("m", "v")

    def __init__(
        self, params: Iterable[Tensor] | Flat, lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, capturable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, capturable)
        self.betas, self.eps = betas, eps
        # torch's kernel corrects moments by its own count, in another order than Lua: a count so
        # large that this does nothing leaves the correction to the step size
        self._counts = [torch.full((), ENDLESS, device=w.device) for w in self.weights]
        if self._rate is not None:
            self._betas = self._rate.new_tensor(betas)
            self._size = torch.zeros_like(self._rate, dtype=self.weights[0].dtype)

    def _step_size(self, t: float | Tensor) -> float | Tensor:
        """lr * sqrt(1-beta2^t) / (1-beta1^t); where steps are captured in as few kernels as can be,
        and of no meaning at t = 0, when the gate is closed.
        """
        if isinstance(t, Tensor):
            first, second = 1 - self._betas**t
            # the kernel wants it in the weights' type
            return torch.div(self.rate * second.sqrt(), first, out=self._size)
        return self.lr * math.sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t)

    def _update(self, gradients: list[Tensor], gate: Tensor | None) -> None:
        size = self._step_size(self.count(gate))
        # the kernel would write into what lies between the elements of a part of a larger tensor
        dense = [w if _is_dense(w) else w.clone() for w in self.weights]
        if not self.flat:
            for name in self.buffers:  # weights may have been laid otherwise since
                self.moments[name] = list(map(_laid_as, self.moments[name], dense))
        if self.joined and not self.flat:  # which changes gradients, too
            gradients = list(map(_laid_as, gradients, dense))
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = gradient
        held = (dense, gradients, self.held("m"), self.held("v"))
        weights, slopes, m, v = zip(*map(_as_they_lie, *held), strict=True)
        if self.joined:
            self.joined([weights, slopes, m, v], float(size), self.betas, self.eps)
        else:
            torch._fused_adam_(
                weights, slopes, m, v, [], self._counts,
                lr=size, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps,
                amsgrad=False, maximize=False,
                found_inf=None if gate is None else (1 - gate).float(),  # 1: it does nothing
            )  # fmt: skip
        for own, stepped in zip(self.weights, dense, strict=True):
            if stepped is not own:
                own.copy_(stepped)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill one piece of memory, in whichever order."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense.default(tensor))


def _overlaps(tensor: Tensor) -> bool:
    """Whether one number in memory may be two of its elements, as after `expand`."""
    reach = 0  # from the first to the last element by the axes of smaller steps
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and step <= reach:
            return True
        reach += (size - 1) * step
    return False


def _laid_as(tensor: Tensor, weights: Tensor) -> Tensor:
    """The tensor, or a copy of it with the weights' strides."""
    alike = tensor.stride() == weights.stride()
    return tensor if alike else torch.empty_like(weights).copy_(tensor)


def _as_they_lie(weights: Tensor, slope: Tensor, *moments: Tensor) -> list[Tensor]:
    """Tensors of one shape, as vectors where they are not contiguous, in the weights' order;
    weights are dense, and moments have their strides.

    torch's kernel for the CPU goes by memory alone, and copies a gradient that is not contiguous
    for nothing: 10 ms of an iteration at 16 px.
    """
    if weights.is_contiguous() and slope.stride() == weights.stride():
        return [weights, slope, *moments]
    alike = weights, _laid_as(slope, weights), *moments
    return [t.as_strided((t.numel(),), (1,)) for t in alike]


class Adagrad(LuaOptimizer):
    """`optim.adagrad` (Duchi et al. 2011): step lr*g/(sqrt(sum of g^2)+1e-10)."""

    buffers = ("paramVariance",)

    def __init__(
        self, params: Iterable[Tensor] | Flat, lr: float = 1e-3, capturable: bool = False
    ) -> None:
        super().__init__(params, lr, capturable)

    def _update(self, gradients: list[Tensor], gate: Tensor | None) -> None:
        self.count(gate)
        squares = torch._foreach_mul(gradients, gradients)
        if gate is not None:
            torch._foreach_mul_(squares, self._scaled(1.0, gate))
        torch._foreach_add_(self.held("paramVariance"), squares)
        denominator = torch._foreach_sqrt(self.held("paramVariance"))
        torch._foreach_add_(denominator, 1e-10)
        step = torch._foreach_div(gradients, denominator)
        torch._foreach_mul_(step, self._scaled(self.rate, gate))
        torch._foreach_sub_(self.weights, step)


class SGD(LuaOptimizer):
    """`optim.sgd`: velocity v starts as the first g, then momentum*v + (1-momentum)*g."""

    def __init__(
        self, params: Iterable[Tensor] | Flat, lr: float, momentum: float = 0.0,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        self.momentum = momentum
        if momentum:
            self.buffers = ("dfdx",)
        super().__init__(params, lr, capturable)

    def _update(self, gradients: list[Tensor], gate: Tensor | None) -> None:
        t = self.count(gate)
        direction = gradients
        if self.momentum:
            direction = self.held("dfdx")
            self._blend(direction, gradients, t, gate)
        step = torch._foreach_mul(direction, self._scaled(self.rate, gate))
        torch._foreach_sub_(self.weights, step)

    def _blend(
        self, velocity: list[Tensor], gradients: list[Tensor], t: Any, gate: Tensor | None
    ) -> None:
        first = t == 1 if not isinstance(t, Tensor) else (t == 1).to(t.dtype)
        # the share of the new gradient: all of it in the first step
        fresh = 1 - self.momentum * (1 - first)
        change = torch._foreach_sub(gradients, velocity)
        torch._foreach_mul_(change, self._scaled(fresh, gate))
        torch._foreach_add_(velocity, change)


def positive(values: Tensor) -> Tensor:
    """Whether numbers in [0,1] exceed 0.5; booleans say so themselves."""
    return values if values.dtype == torch.bool else values > 0.5


class ConfusionMatrix:
    """`optim.ConfusionMatrix` of two classes, counted on the device without waiting for it.

    Rows are the targets (0 = generated, 1 = real), columns the predictions of D at threshold 0.5.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)
        self._cells = torch.arange(4, dtype=torch.uint8, device=device)

    def add(self, predictions: Tensor, targets: Tensor) -> None:
        """Predictions in (0,1), or whether they exceed 0.5, and targets of 0 or 1; N of each."""
        rows, columns = (positive(v.detach().reshape(-1)) for v in (targets, predictions))
        cells = torch.add(columns.view(torch.uint8), rows.view(torch.uint8), alpha=2)
        # compared with each cell's number: fewer kernels of a GPU than a repeatable scatter
        self.counts += (cells.unsqueeze(1) == self._cells).sum(0)

    def zero(self) -> None:
        self.counts.zero_()

    def __str__(self) -> str:
        """The text that Lua's `print(confusion)` writes."""
        (a, b), (c, d) = self.counts.view(2, 2).tolist()
        total = a + b + c + d
        rows = [_share(a, a + b), _share(d, c + d)]
        unions = [_share(a, a + b + c), _share(d, d + b + c)]
        lines = [
            "ConfusionMatrix:",
            f"[[{a:8d}{b:8d}]  {100 * rows[0]:7.3f}% \t[class: 0]",
            f" [{c:8d}{d:8d}]] {100 * rows[1]:7.3f}% \t[class: 1]",
            f" + average row correct: {50 * sum(rows):.12f}% ",
            f" + average rowUcol correct (VOC measure): {50 * sum(unions):.12f}% ",
            f" + global correct: {100 * (a + d) / total if total else math.nan:.12f}%",
        ]
        return "\n".join(lines)


def _share(part: int, whole: int) -> float:
    """A class's share as Lua keeps it: in a FloatTensor."""
    return float(torch.tensor(part / whole if whole else math.nan, dtype=torch.float32))
