"""The house keeps its shape: who may import whom, how much an import loads, how long things are."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.commands import ROOT

PACKAGE = ROOT / "eyescream_py"
GROUND = {"torch7", "system"}  # they import nothing of the package but, torch7, nothing at all
STORES = {"data", "networks"} | GROUND
SHARED = {"plots", "data", "features"} | GROUND  # what siblings may use
MAY_IMPORT = {
    "cli": {"training", "game", "plots", "results"} | STORES,
    "training": {"game", "plots", "results"} | STORES,
    "results": {"features"} | STORES,
    "game": STORES,
    "plots": STORES,
    "data": GROUND,
    "networks": GROUND,
    "features": {"data"} | GROUND,
    "system": set(),
    "torch7": set(),
    **dict.fromkeys(("srez", "image_model", "ganless_hd", "mln"), SHARED),
    "__init__": {"results"},
    "__main__": {"cli", "system"},
}
LONGEST_FUNCTION = 40
LONGEST_FILE = 400
MODULES_OF_A_D_STEP = 10
ROOMS = 16
FILES_OF_A_FOLDER = 40


@cache
def files():
    return sorted(PACKAGE.rglob("*.py"))


@cache
def name_of(path: Path) -> str:
    """eyescream_py/data/dataset.py -> data.dataset, eyescream_py/data/__init__.py -> data"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["eyescream_py", *path.relative_to(PACKAGE).parts[:-1]]
            above = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{home}.{alias.name}" for alias in node.names} | {home}
    names = {name.removeprefix("eyescream_py.") for name in found if "eyescream_py." in name}
    return names & {name_of(p) for p in files()} - {name_of(path)}


def room(name: str) -> str:
    return name.partition(".")[0]


def test_every_room_is_on_the_plan():
    assert {room(name_of(path)) for path in files()} == set(MAY_IMPORT)
    assert len(MAY_IMPORT) <= ROOMS
    assert len(list(PACKAGE.glob("*.py"))) <= 3


def test_files_are_short():
    """Those of tests, scripts and benchmarks too: over this length a file is two rooms."""
    folders = "eyescream_py", "tests", "scripts", "benchmarks", "fuzz", "dataset"
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert len(lengths) > 500
    assert not {path: n for path, n in lengths.items() if n > LONGEST_FILE}


def test_no_folder_is_a_hall():
    counts = Counter(path.parent.relative_to(PACKAGE) for path in files())
    assert not {str(folder): n for folder, n in counts.items() if n > FILES_OF_A_FOLDER}


@pytest.mark.parametrize("home", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(home):
    allowed = MAY_IMPORT[home] | {home}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        if room(name_of(path)) == home
        for name in imported(path)
        if room(name) not in allowed
    ]
    assert not wrong


def test_the_plan_itself_has_floors():
    TopologicalSorter(MAY_IMPORT).prepare()


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions count: what needs them to run at all is in the wrong room."""
    graph = defaultdict(set)
    for path in files():
        name = name_of(path)
        # a package's face hands on names of its own files, which is no circle
        graph[name] = {other for other in imported(path) if not name.startswith(f"{other}.")}
    TopologicalSorter(graph).prepare()


def test_a_step_of_D_loads_little():
    code = (
        "import sys, eyescream_py.game.adversarial\n"
        "print(*sorted(name for name in sys.modules if name.startswith('eyescream_py')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "eyescream_py.game.adversarial" in loaded
    assert len(loaded) <= MODULES_OF_A_D_STEP, loaded


def test_a_function_can_be_taken_in_at_a_glance():
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    beside = [path for name in ("benchmarks", "scripts") for path in (ROOT / name).glob("*.py")]
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in [*files(), *beside]
        for node in ast.walk(tree(path))
        if isinstance(node, functions) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_the_plan_names_every_room():
    plan = (ROOT / "docs" / "design.md").read_text()
    for name in MAY_IMPORT:
        assert f"`{name}/`" in plan or name.startswith("__"), name
    assert len(plan.split()) <= 900
