"""Torch 7 compatibility: its files (.t7, .net), modules, optimizers, random numbers and images.

Names are imported on first use, so that `import eyescream_py.torch7` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import T7Error
    from .modules import from_module, to_module
    from .registry import register, unregister
    from .serialization import load, save
    from .values import Limits, LuaFunction, Storage, Table, TorchObject

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
    "Limits": "values",
    "LuaFunction": "values",
    "Storage": "values",
    "Table": "values",
    "TorchObject": "values",
    "load": "serialization",
    "save": "serialization",
    "from_module": "modules",
    "register": "registry",
    "to_module": "modules",
    "unregister": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
