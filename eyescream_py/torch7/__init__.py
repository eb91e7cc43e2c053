"""Torch 7 compatibility: its files (.t7, .net), modules, optimizers, random numbers and images.

Names are imported on first use, so that `import eyescream_py.torch7` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import T7Error
    from .files.serialization import load, save
    from .files.values import Limits, LuaFunction, Storage, Table, TorchObject
    from .modules.conversion import from_module, to_module
    from .modules.registry import register, unregister

__all__ = [
    "Limits",
    "LuaFunction",
    "Storage",
    "T7Error",
    "Table",
    "TorchObject",
    "from_module",
    "load",
    "register",
    "save",
    "to_module",
    "unregister",
]

_HOME = {
    "T7Error": "errors",
    "Limits": "files.values",
    "LuaFunction": "files.values",
    "Storage": "files.values",
    "Table": "files.values",
    "TorchObject": "files.values",
    "load": "files.serialization",
    "save": "files.serialization",
    "from_module": "modules.conversion",
    "register": "modules.registry",
    "to_module": "modules.conversion",
    "unregister": "modules.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
