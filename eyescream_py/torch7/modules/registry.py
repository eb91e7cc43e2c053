"""Classes of other programs: tell the reader how to build their layers.

Three lines are enough for a layer of your own::

    from eyescream_py.torch7 import register
    register("nn.ShaveImage", lambda layer: Shave(layer.count("size")))
    network = to_module(load("old.t7"))

``layer`` is a `Node`: ``layer.number("strength")``, ``.integer``, ``.count`` (at least 1),
``.boolean(name, default)``, ``.sizes``, ``.tensor``, ``.parameter`` and ``.children()`` give the
object's fields, checked, and raise a T7Error that says where in the network one is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .codec import Codec, Node, Writer

Build = Callable[[Node], nn.Module]
Fields = Callable[[Any, Writer], dict[str, Any]]


class Registry:
    """The classes that were registered, by their full names, such as "nn.ShaveImage"."""

    def __init__(self) -> None:
        self._codecs: dict[str, Codec] = {}

    def add(self, typename: str, codec: Codec) -> None:
        self._codecs[typename] = codec

    def get(self, typename: str) -> Codec | None:
        """How the class is read and written; None where it is not registered."""
        return self._codecs.get(typename)

    def remove(self, typename: str) -> None:
        """Forget the class, if it is registered."""
        self._codecs.pop(typename, None)

    def __iter__(self) -> Iterator[Codec]:
        return iter(self._codecs.values())


REGISTRY = Registry()


def register(
    typename: str,
    build: Build,
    python: type[nn.Module] | None = None,
    fields: Fields = lambda module, writer: {},
) -> None:
    """Make ``build`` the reader of the Lua class ``typename``; a later one replaces an earlier.

    ``typename`` is the class's full name, as an error message shows it. ``build`` takes the object
    of the file and returns the torch module. For the way back give ``python``, the module's class,
    and ``fields``, which takes the module and a `Writer` and returns the object's fields, if any.

    Raises ValueError for a name that no Lua class can have, TypeError for what cannot be called.
    """
    if not callable(build) or not callable(fields):
        raise TypeError(f"register({typename!r}, build, ...): build and fields are functions")
    if not typename or not all(part.isidentifier() for part in typename.split(".")):
        raise ValueError(f"{typename!r} is no name of a Lua class, such as nn.ShaveImage")
    REGISTRY.add(typename, Codec((), python, build, fields, written=typename))


def unregister(typename: str) -> None:
    """Forget a registered class; one that is not registered is passed over."""
    REGISTRY.remove(typename)
