"""Every public function, class and method says what it is for."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "eyescream_py"
# What click, torch and tornado call; what files, dictionaries and arrays have.
HOOKS = {
    "convert", "extra_repr", "find_handler", "format_commands", "forward", "get_command", "invoke",
    "list_commands", "main", "make_context",
}  # fmt: skip
LIKE_PYTHONS = {"copy", "flush", "get", "pop", "setdefault", "tolist"}


def definitions():
    """(place, name, node) of each public function and class, of each method of a public class."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "modules":
            continue  # pairs of read_X and write_X; the class is in the table that names both
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                yield place, node.name, node
                for part in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(part, ast.FunctionDef) and part.name[0] != "_":
                        yield f"{place} {node.name}", part.name, part


def _is_clear(place, name, node, explained):
    """A command's text is its decorator's; an overload's is the function's."""
    is_method = " " in place
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
    return name in explained if is_method or name == "main" else "overload" in decorators


def test_public_definitions_have_docstrings():
    """A method is documented where any class documents its name: most implement a protocol."""
    found = list(definitions())
    assert len(found) > 1000
    explained = {name for _, name, node in found if ast.get_docstring(node)}
    explained |= HOOKS | LIKE_PYTHONS
    lacking = [
        f"{place} {name}" for place, name, node in found
        if not ast.get_docstring(node) and not _is_clear(place, name, node, explained)
    ]  # fmt: skip
    assert lacking == []
