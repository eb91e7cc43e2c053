"""Which weights and statistics of a network lie over one memory in the file, and so in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn

from ..files.memory import meeting, reach, used
from ..layers.ties import MemoryView, tie
from .codec import Reader

Place = tuple[Tensor, MemoryView]  # a memory, and where in it


def tie_shared(network: nn.Module, reader: Reader) -> None:
    """Make one parameter of each memory that several tensors of the network use, and views of the
    others; buffers that several layers have stay one.
    """
    # torch's kernels take statistics for contiguous, whatever they are
    buffers = [(source, own) for source, own in reader.buffers if source.is_contiguous()]
    places = {**_places(reader, reader.parameters), **_places(reader, buffers)}
    layers = list(network.modules())
    met = Counter(id(buffer) for layer in layers for buffer in layer._buffers.values())
    met.update(id(memory) for memory, _ in places.values())
    several = {id(own) for _, own in reader.buffers if met[id(own)] > 1 and id(own) not in places}
    for layer in layers:
        named = [*layer._parameters.items(), *layer._buffers.items()]
        mine = {name: places[id(t)] for name, t in named if id(t) in places}
        views = {name: view for name, (_, view) in mine.items()}
        memories = {name: memory for name, (memory, _) in mine.items()}
        common = [f"{name}_memory" for name in views if name in layer._buffers]
        common += [name for name, buffer in layer._buffers.items() if id(buffer) in several]
        if views or common:
            tie(layer, views, memories, tuple(common))


def _places(reader: Reader, made: Sequence[tuple[Tensor, Tensor]]) -> dict[int, Place]:
    """By the identities of the tensors that become views."""
    places: dict[int, Place] = {}
    sources = [source for source, _ in made]
    for numbers in meeting(sources):
        if len(numbers) == 1 and sources[numbers[0]].is_contiguous():
            continue
        group = [made[number] for number in numbers]
        marks = used([source for source, _ in group])
        if int(marks.sum()) == sum(source.numel() for source, _ in group):
            continue  # side by side, as columns of a matrix are
        first = min(reach(source)[0] for source, _ in group)
        memory = _owner(group, len(marks))
        if memory is None:
            memory = _new_memory(group, first, marks, reader)
        for source, own in group:
            if own is not memory:
                offset = int(source.storage_offset()) - first
                view = MemoryView((*source.shape,), source.stride(), offset, (*own.shape,))
                places[id(own)] = memory, view
    return places


def _owner(group: Sequence[tuple[Tensor, Tensor]], elements: int) -> Tensor | None:
    """The first that is all of the memory, in its order."""
    whole = (own for source, own in group if source.is_contiguous() and own.numel() == elements)
    return next(whole, None)


def _new_memory(
    group: Sequence[tuple[Tensor, Tensor]], first: int, marks: Tensor, reader: Reader
) -> Tensor:
    """The memory as a row; 0 where none of them has an element."""
    source, own = group[0]
    row = reader.copy(source.as_strided((len(marks),), (1,), first), None)
    row[~marks] = 0
    return nn.Parameter(row) if isinstance(own, nn.Parameter) else row
