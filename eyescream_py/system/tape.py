"""Work on a processor, written down as the operators it calls and done again by those alone.

A step of a small network spends a tenth of its time in Python, autograd and dispatch: whatever the
step computes, it finds out anew which operators that takes. A recording knows. It calls the same
ones on the same tensors, so that all numbers stay what they were to the bit; what a GPU's graphs
are to `system.recording`. Measured in benchmarks/results/changes.md.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode,
)
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

# what an operator reads from its numbers, or does to a tensor's shape, may be otherwise next time
UNREPEATABLE = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
}
SAME = {torch.ops.aten.detach.default, torch.ops.aten.alias.default}
# those called most, as Python's own functions: the same kernels, found in half the time
QUICK: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.add_.Tensor: Tensor.add_,
    torch.ops.aten.addmm.default: torch.addmm,
    torch.ops.aten.addmm_.default: Tensor.addmm_,
    torch.ops.aten.bmm.default: torch.bmm,
    torch.ops.aten.clamp_.default: Tensor.clamp_,
    torch.ops.aten.clone.default: torch.clone,
    torch.ops.aten.copy_.default: Tensor.copy_,
    torch.ops.aten.mul.Tensor: torch.mul,
    torch.ops.aten.sum.dim_IntList: torch.sum,
}


def as_one(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, which a recording calls again as a whole: for what reads numbers back, or
    keeps some in Python. It returns a tensor or None, and may change tensors.
    """
    recorder = _get_current_dispatch_mode()
    if isinstance(recorder, _Recorder):
        return recorder.one(function, args)
    return function(*args)


def in_replays(function: Callable[..., None], *args: Any) -> None:
    """Call `function(*args)` at this point of each replay, with the tensors that are there then;
    nothing now.
    """
    recorder = _get_current_dispatch_mode()
    if isinstance(recorder, _Recorder):
        recorder.later(function, args)


def record(work: Callable[[], None]) -> Tape | None:
    """Do `work` once, and return what does it again; None where that cannot be known.

    Tensors from before are read and changed where they lie, so that later values count; of random
    numbers each replay draws the next ones. What `work` does in Python only happens now: results
    may only be kept by what `in_replays` calls, and reading numbers by `tolist` or `numpy`, which
    no operator tells of, is for `as_one`. To be called by one thread, on work that computes on its
    own thread.
    """
    recorder = _Recorder()
    with recorder:
        work()
    gc.collect()  # what died meanwhile may wait in a cycle
    return recorder.finish()


@dataclass(frozen=True)
class Tape:
    """`replay` does what was recorded again."""

    replay: Callable[[], None]


@dataclass(frozen=True)
class _Value:
    """Stands for a tensor: one that was there before, or a step's result; and how it lies."""

    number: int
    layout: tuple[Any, ...] = field(compare=False)

    def __repr__(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True)
class _Step:
    """A call; tensors are values in `args` and `kwargs`."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    made: Sequence[_Value | None] = ()  # None: not a new tensor
    several: bool = False  # whether it returns a sequence

    @property
    def taken(self) -> list[_Value]:
        leaves = tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, _Value)]


class _Recorder(TorchDispatchMode):
    """Writes down what is called inside its block.

    Tensors are held weakly: one held by more than its owner would be copied by autograd, and what
    lives on after the work is known by that to have been there before.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it would have to be imported, which takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.refused = False
        self._count = 0
        self._values = WeakTensorKeyDictionary()
        self._given: dict[_Value, TensorWeakRef] = {}
        self._memories: dict[int, _Memory] = {}
        self._handed: set[int] = set()  # memories of what `later` was called with

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "profiler":
            return function(*args, **kwargs)
        self.refused |= _is_unrepeatable(function, args)
        taken = tree_map_only(Tensor, self._value, (args, kwargs))
        made = function(*args, **kwargs)
        if function in SAME:
            self._values[made] = taken[0][0]
        else:
            self._write(function, taken[0], taken[1], made)
        return made

    def one(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        taken = tree_map_only(Tensor, self._value, args)
        with _disable_current_modes():
            made = function(*args)
        self._write(function, taken, {}, made)
        return made

    def later(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        for tensor in tree_leaves(args):
            if isinstance(tensor, Tensor):
                self._handed.add(tensor.untyped_storage()._cdata)
        self.steps.append(_Step(function, tree_map_only(Tensor, self._value, args)))

    def finish(self) -> Tape | None:
        given = {value: there() for value, there in self._given.items()}
        # a tensor that no operator made and that is gone cannot be made again
        if self.refused or any(tensor is None for tensor in given.values()) or self._keeps():
            return None
        return _written(list(_without_known(self.steps, given)), given)

    def _keeps(self) -> bool:
        """Whether a result outlived the work: replays would leave it as it is."""
        return any(
            memory.is_new and not memory.reference.expired()
            for place, memory in self._memories.items()
            if place not in self._handed
        )

    def _write(self, function: Any, args: Sequence[Any], kwargs: Any, made: Any) -> None:
        several = isinstance(made, list | tuple)
        results = made if several else [made]
        self.refused |= not all(result is None or isinstance(result, Tensor) for result in results)
        self.steps.append(
            _Step(function, args, kwargs, [self._result(one) for one in results], several)
        )

    def _new(self, tensor: Tensor) -> _Value:
        value = self._values[tensor] = _Value(self._count, _layout(tensor))
        self._count += 1
        return value

    def _result(self, tensor: Any) -> _Value | None:
        if not isinstance(tensor, Tensor) or tensor in self._values:
            return None
        value = self._new(tensor)
        self._memory_of(tensor, new=True).results.append(value)
        return value

    def _value(self, tensor: Tensor) -> _Value:
        known: _Value | None = self._values.get(tensor)
        return self._unmade(tensor) if known is None else known

    def _unmade(self, tensor: Tensor) -> _Value:
        """Of a tensor that no operator made in sight: it was there before, or autograd hands out a
        result under another name.
        """
        memory = self._memory_of(tensor, new=False)
        for value in memory.results if memory.is_new else ():
            if value.layout == _layout(tensor):
                self._values[tensor] = value
                return value
        self.refused |= memory.is_new
        value = self._new(tensor)
        self._given[value] = TensorWeakRef(tensor)
        return value

    def _memory_of(self, tensor: Tensor, new: bool) -> _Memory:
        """That of a tensor; `new`: whether it is, where it has not been met."""
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None or memory.reference.expired():
            memory = self._memories[storage._cdata] = _Memory(StorageWeakRef(storage), new)
        return memory


@dataclass
class _Memory:
    """What tensors share; `results` that lie in it."""

    reference: StorageWeakRef
    is_new: bool  # since the recording began
    results: list[_Value] = field(default_factory=list)


def _is_unrepeatable(function: Any, args: Sequence[Any]) -> bool:
    if function is torch.ops.aten.index.Tensor:  # whose shape only masks decide
        return any(index is not None and index.dtype != torch.int64 for index in args[1])
    return bool(UNREPEATABLE.intersection(function.tags))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    where = tensor.shape, tensor.stride(), tensor.storage_offset()
    return *where, tensor.dtype, tensor.is_conj(), tensor.is_neg()


def _without_known(steps: Sequence[_Step], given: dict[_Value, Any]) -> Iterator[_Step]:
    """The steps with each view made of the whole tensor at once, in the quickest way that Python
    has, and but once; views of what is `given` are added to it.
    """
    same: dict[_Value, _Value] = {}
    wholes: dict[_Value, _Value] = {}
    views: dict[tuple[_Value, tuple[Any, ...]], _Value] = {}
    for step in steps:
        args, kwargs = tree_map_only(
            _Value, lambda value: same.get(value, value), (step.args, step.kwargs)
        )
        step = _Step(step.function, args, kwargs, step.made, step.several)
        made = None if step.several or not step.made else step.made[0]
        if not made or not getattr(step.function, "is_view", False):
            yield step
        elif all(value in given for value in step.taken):
            tensors = tree_map_only(_Value, given.__getitem__, (args, kwargs))
            given[made] = step.function(*tensors[0], **tensors[1])
        else:
            whole = wholes.get(step.taken[0], step.taken[0])
            place, kind = made.layout[:3], made.layout[3:]
            if kind != whole.layout[3:]:  # numbers of another type, or their conjugates
                yield step
            elif made.layout == whole.layout:
                same[made] = whole
            elif first := views.get((whole, place)):
                same[made] = first
            else:
                views[whole, place], wholes[made] = made, whole
                yield _Step(Tensor.as_strided, (whole, *place), made=[made])


def _written(steps: Sequence[_Step], given: dict[_Value, Any]) -> Tape:
    """The steps as a function of their calls, written as such: taking them from a list would cost
    a good part of what a recording saves. It lets go of each result after its last use.
    """
    names: dict[str, Any] = {repr(value): tensor for value, tensor in given.items()}
    used: set[_Value] = set(given)
    lines = ["    return"]
    for step in reversed(steps):
        if step.function is Tensor.as_strided and step.made[0] not in used:
            continue  # on the way to other views only
        ended = {*step.taken, *filter(None, step.made)} - used
        used |= ended
        if ended:
            lines.append(f"    del {', '.join(map(repr, ended))}")
        lines.append("    " + _line(step, names))
    lines.append("def replay():")
    exec("\n".join(reversed(lines)), names)  # noqa: S102 - the text is ours
    return Tape(torch.inference_mode()(names["replay"]))


def _line(step: _Step, names: dict[str, Any]) -> str:
    """`v7 = f3(v1, c4, [v5, v6], out=c7)`, with what the letters f and c stand for in `names`."""

    def named(kind: str, thing: Any) -> str:
        name = f"{kind}{id(thing)}"
        names[name] = thing
        return name

    def written(arg: Any) -> str:
        if isinstance(arg, _Value):
            return repr(arg)
        if isinstance(arg, list | tuple) and any(isinstance(a, _Value) for a in arg):
            return f"[{', '.join(map(written, arg))}]"
        return named("c", arg)

    args = [written(arg) for arg in step.args]
    args += [f"{name}={written(arg)}" for name, arg in step.kwargs.items()]
    function = QUICK.get(step.function, step.function)
    call = f"{named('f', function)}({', '.join(args)})"
    if not any(step.made):
        return call
    results = ["_" if value is None else repr(value) for value in step.made]
    return f"{', '.join(results)}{',' if step.several else ''} = {call}"
