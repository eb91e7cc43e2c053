"""Steps of a training as CUDA graphs: one launch in place of hundreds.

A step is a function of tensors that returns tensors. Recorded, it must read nothing back from the
device, and draw random numbers from the device's own generator only, which a replay carries on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from eyescream_py.system.errors import UserError, causes, first_line
from eyescream_py.system.voice import warn

WARM_UP = 3  # real steps before a recording, in which libraries and layers set themselves up
WITHOUT = "this run goes on without, slower and otherwise the same"
Step = Callable[..., Any]
S = TypeVar("S", bound=Step)
T = TypeVar("T")


class Recorder:
    """Makes steps on `device` into recordings where that is CUDA and `wanted`, and leaves them as
    they are elsewhere.

    All run on one stream of their own: autograd remembers on which a weight was first used, and
    must not meet another one in a recording. Where one cannot be made, a line on standard error
    says so, and from there on all run as written; `remedy` is what to do where not even that works.
    """

    def __init__(self, device: torch.device, wanted: bool = True, remedy: str = "") -> None:
        self.on = wanted and device.type == "cuda"
        self.device, self.remedy = device, remedy
        self.stream: Any = torch.cuda.Stream(device) if self.on else None

    def step(self, function: S) -> S:
        """`function`, recorded. What it returns is overwritten by the next call."""
        return self.parts(function)[0]

    def parts(self, *functions: S) -> tuple[S, ...]:
        """Parts of one step, to be called in this order with inputs of the same shapes, of which
        later ones use what earlier ones kept in Python, such as the graph of a loss. Other steps
        may run in between.
        """
        if not self.on:
            return functions
        memory = torch.cuda.graph_pool_handle()
        made: list[Recorded] = []
        for part in functions:
            made.append(Recorded(part, self, memory, tuple(made)))
        return tuple(made)  # type: ignore[arg-type]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """A block on the recorder's stream, after all before it and before all behind it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)


class Recorded:
    """A function as a CUDA graph. The first calls run as written, then one is recorded (recording
    does not execute) and from there on replayed. Inputs of other shapes, such as an epoch's last,
    shorter batch, run as written. `before` are the parts of the step that come before it.
    """

    def __init__(
        self, function: Step, recorder: Recorder, memory: Any, before: tuple[Recorded, ...] = ()
    ) -> None:
        self._function, self._recorder, self._memory = function, recorder, memory
        self._before = before
        self._shapes: list[torch.Size] = []
        self._done = 0  # calls with these shapes
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        with torch.cuda.device(self._recorder.device):
            if self._runs_as_written(inputs):
                with self._recorder.beside():
                    return self._function(*inputs)
            if self._graph is not None:
                self._fill(inputs)
            elif not self._is_recorded(inputs):
                return self._instead(inputs)
            self._graph.replay()  # type: ignore[union-attr]
            return self._outputs

    def _runs_as_written(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether to run as written; counts the calls of a warm-up."""
        if not self._recorder.on:
            return True
        shapes = [given.shape for given in inputs]
        if self._graph is not None:
            return shapes != self._shapes
        self._done = self._done + 1 if shapes == self._shapes else 1
        self._shapes = shapes
        return self._done <= WARM_UP

    def _fill(self, inputs: tuple[Tensor, ...]) -> None:
        """Put a call's inputs where the recording reads them: not before its first replay, as a
        later part that is recorded then would find changed what the graph of a loss has kept.
        """
        for place, given in zip(self._inputs, inputs, strict=True):
            place.copy_(given)

    def _is_recorded(self, inputs: tuple[Tensor, ...]) -> bool:
        """Record the function; False, and nothing is recorded from here on, where that fails."""
        try:
            self._record(inputs)
        except UnrecordedError as error:
            self._recorder.on = False
            warn(f"{error}: {WITHOUT}.")
        return self._recorder.on

    def _instead(self, inputs: tuple[Tensor, ...]) -> Any:
        """The function as written, after a recording of it failed half-way."""
        with self._recorder.beside():
            for part in self._before:  # what they had kept in Python may be used up
                part._function(*part._inputs)
            return self._function(*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(given.detach().clone() for given in inputs)
        self._graph, self._outputs = recorded(
            lambda: self._function(*self._inputs), self._recorder.stream, "the step",
            self._recorder.remedy, self._memory,
        )  # fmt: skip


class UnrecordedError(Exception):
    """Work cannot be recorded, in words. None of it was done, and the GPU is as it was before."""


def recorded(
    work: Callable[[], T], stream: Any, what: str, remedy: str, memory: Any = None,
    generator: torch.Generator | None = None,
) -> tuple[torch.cuda.CUDAGraph, T]:  # fmt: skip
    """What `work` asks of the GPU as a graph on `stream`, none of it executed, and what it
    returned; `generator`, if it draws from one other than torch's own.

    Raises UnrecordedError where `what` cannot be recorded, and UserError where the GPU is then left
    in the middle of a recording, so that nothing can go on from there.
    """
    graph, memory = torch.cuda.CUDAGraph(), memory or torch.cuda.graph_pool_handle()
    before = torch.cuda.current_stream(stream.device)
    try:
        with _recording(graph, stream, memory, generator):
            return graph, work()
    except RuntimeError as error:
        # the end of a recording fails where something in it did
        for cause in causes(error):
            if isinstance(cause, UserError):
                raise cause from None
        reason = f"{what} cannot be recorded on this GPU ({first_line(causes(error)[-1])})"
        torch.cuda.set_stream(before)  # a recording whose end fails stays on its own
        if not _in_order(stream, memory, generator):
            raise UserError(f"{reason}: {remedy}") from error
        raise UnrecordedError(reason) from error


@contextmanager
def _recording(
    graph: torch.cuda.CUDAGraph, stream: Any, memory: Any, generator: torch.Generator | None
) -> Iterator[None]:
    """A block whose work on the GPU becomes the graph."""
    if generator is not None:
        graph.register_generator_state(generator)
    # By the mode "global" any thread that allocates or asks an event would end the recording:
    # one that pins the next batch's memory, or watches over NCCL. None of ours touches this
    # stream; what may never be recorded, such as waiting for it, fails in every mode.
    with torch.cuda.graph(graph, memory, stream, capture_error_mode="thread_local"):
        yield
    # torch begins a recording by setting the offset of its random numbers to 0, by a kernel on
    # this stream; a replay on another sets it anew, which must come after that
    torch.cuda.current_stream(stream.device).wait_stream(stream)


def _in_order(stream: Any, memory: Any, generator: torch.Generator | None) -> bool:
    """Put right what a recording that failed has left behind; whether the GPU works as before it.

    Random numbers that took part wait for the recording's end for ever ("Offset increment outside
    graph capture"): they go on where they were when a later recording with them ends well.
    """
    device = stream.device
    with suppress(RuntimeError):  # which says that the recording's end has done it
        torch._C._cuda_endAllocateToPool(device.index, memory)
        torch._C._cuda_releasePool(device.index, memory)
    try:
        number, graph = torch.zeros(1, device=device), torch.cuda.CUDAGraph()
        with _recording(graph, stream, torch.cuda.graph_pool_handle(), generator):
            number.add_(1)
        graph.replay()
        for numbers in (torch.cuda.default_generators[device.index], generator):
            if numbers is not None:
                state = numbers.get_state()
                number.add_(torch.rand(1, device=device, generator=numbers) >= 0)
                numbers.set_state(state)
        return float(number) == (2 if generator is None else 3)
    except RuntimeError:
        return False


def rate_for(parameter: Tensor, rate: float) -> float | Tensor:
    """A learning rate as an optimizer of `parameter` takes it: on CUDA a tensor, whose changes a
    recorded step sees.
    """
    return torch.tensor(rate, device=parameter.device) if parameter.is_cuda else rate


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set every group's rate; one that a recording reads is changed in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
