"""The text of Python classes with all that they use, so that it runs in a file of its own."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import T7Error

_STANDARD = "torch"  # modules from which a class is imported rather than copied


@dataclass(frozen=True)
class _File:
    """One Python module: its lines, and the statement that makes each of its names."""

    name: str
    lines: tuple[str, ...]
    statements: dict[str, ast.stmt]
    imports: dict[str, ast.Import | ast.ImportFrom]

    def text(self, statement: ast.stmt) -> str:
        """With decorators and without those of mypy's remarks that mean nothing elsewhere."""
        first = min([statement.lineno, *(d.lineno for d in _decorators(statement))])
        lines = self.lines[first - 1 : statement.end_lineno]
        return re.sub(r" *# (?:type: ignore|noqa)\S*(?:, .*)?$", "", "\n".join(lines), flags=re.M)


def _decorators(statement: ast.stmt) -> list[ast.expr]:
    return getattr(statement, "decorator_list", [])


@lru_cache(maxsize=64)
def _file(name: str) -> _File:
    try:
        text = inspect.getsource(importlib.import_module(name))
    except (OSError, TypeError, ImportError) as error:
        raise T7Error(f"the source of the Python module {name} is not there to copy") from error
    statements: dict[str, ast.stmt] = {}
    imports: dict[str, ast.Import | ast.ImportFrom] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                imports[alias.asname or alias.name.partition(".")[0]] = statement
        for made in _names_made(statement):
            statements[made] = statement
    return _File(name, tuple(text.split("\n")), statements, imports)


def _names_made(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


class _Names(ast.NodeVisitor):
    """The names that a statement uses when it runs, and those that only its annotations use."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.annotated: set[str] = set()
        self._annotation = 0

    def visit_Name(self, node: ast.Name) -> None:
        (self.annotated if self._annotation else self.used).add(node.id)

    def _annotations(self, *nodes: ast.expr | None) -> None:
        self._annotation += 1
        for node in nodes:
            if node is not None:
                self.visit(node)
        self._annotation -= 1

    def visit_arg(self, node: ast.arg) -> None:
        self._annotations(node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotations(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._annotations(node.returns)
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)


class ClassSources:
    """The classes asked for so far, what they use, and the imports that all of it needs."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self._texts: list[tuple[str, str]] = []  # (Python module, text), what is used first
        self._names: dict[str, tuple[str, str]] = {}  # name -> (Python module, name in the result)
        self._done: set[tuple[str, str]] = set()
        self._only_typed: set[str] = set()

    def add(self, kind: Any) -> str:
        """Copy a class or function; the name by which the result knows it."""
        module = kind.__module__
        if module.partition(".")[0] == _STANDARD:
            return self._standard(kind)
        self._collect(module, kind.__qualname__)
        return self._renames(module).get(kind.__qualname__, kind.__qualname__)

    def _standard(self, kind: type[Any]) -> str:
        if not kind.__module__.startswith("torch.nn"):
            raise T7Error(f"{kind.__name__} is no layer of torch.nn")
        return f"nn.{kind.__name__}"

    def _collect(self, module: str, name: str) -> None:
        if (module, name) in self._done:
            return
        self._done.add((module, name))
        file = _file(module)
        if name in file.imports:
            self._import(file, name)
        elif name in file.statements:
            self._copy(file, name)

    def _copy(self, file: _File, name: str) -> None:
        statement = file.statements[name]
        self._claim(file.name, name)
        names = _Names()
        names.visit(statement)
        for used in sorted(names.used - {name}):
            self._collect(file.name, used)
        for used in sorted(names.annotated - names.used):
            self._typed(file, used)
        entry = (file.name, file.text(statement))
        if entry not in self._texts:
            self._texts.append(entry)

    def _claim(self, module: str, name: str) -> None:
        """Two modules may each have a helper of one name: the second one gets a number."""
        free, number = name, 1
        while self._names.get(free, (module, name)) != (module, name):
            number += 1
            free = f"{name}_{number}"
        self._names[free] = (module, name)

    def _renames(self, module: str) -> dict[str, str]:
        return {name: free for free, (home, name) in self._names.items() if home == module}

    def _import(self, file: _File, name: str) -> None:
        statement = file.imports[name]
        if isinstance(statement, ast.Import):
            self.imports.add(ast.unparse(statement))
            return
        home = _home(file.name, statement)
        original = next(a.name for a in statement.names if (a.asname or a.name) == name)
        if home.partition(".")[0] != file.name.partition(".")[0]:
            self.imports.add(f"from {home} import {original}{f' as {name}' * (name != original)}")
        elif name != original or original not in (*_file(home).statements, *_file(home).imports):
            raise T7Error(f"{file.name} uses {name} in a way that cannot be copied")
        else:
            self._collect(home, original)
            for free, (module, made) in list(self._names.items()):
                if (module, made) == (home, original) and free != original:
                    self._names[free] = (file.name, original)

    def _typed(self, file: _File, name: str) -> None:
        """A name in annotations, which never run: the package's own classes are not copied."""
        statement = file.imports.get(name)
        if statement is None:
            return
        home = _home(file.name, statement) if isinstance(statement, ast.ImportFrom) else ""
        if home and home.partition(".")[0] == file.name.partition(".")[0]:
            self._only_typed.add(name)
        else:
            self._collect(file.name, name)

    def texts(self) -> Iterator[str]:
        """The copied statements, each after what it uses."""
        for name in sorted(self._only_typed - set(self._names)):
            self.imports.add("from typing import Any")
            yield f"{name} = Any  # named in annotations only"
        for module, text in self._texts:
            for name, free in self._renames(module).items():
                if name != free:
                    text = re.sub(rf"\b{re.escape(name)}\b", free, text)
            yield text


def _home(module: str, statement: ast.ImportFrom) -> str:
    """The full name of the module of a `from ... import`."""
    if not statement.level:
        return statement.module or ""
    package = module.split(".")[: -statement.level]
    return ".".join([*package, *([statement.module] if statement.module else [])])
