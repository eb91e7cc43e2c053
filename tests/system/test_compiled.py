"""Loops in C, compiled by this machine's compiler; a compiler that is none stands in elsewhere."""

import ctypes
import functools
import gc
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eyescream_py.game import joined_adam
from eyescream_py.networks import compiled_fourier, compiled_winograd, thin_products
from eyescream_py.system import compiled

COMPILER = compiled._compiler()
needs_compiler = pytest.mark.skipif(
    COMPILER is None or torch.backends.cpu.get_cpu_capability() not in compiled.INSTRUCTIONS
    or compiled._openmp() is None,
    reason="there is no C compiler here, or no processor that kernels are made for",
)  # fmt: skip


class Counted(ctypes.Structure):
    _fields_ = [("next", ctypes.c_int64), ("sum", ctypes.c_int64), ("threads", ctypes.c_int64)]


COUNTING = """
#include <stdint.h>
typedef struct { int64_t next, sum, threads; } Counted;
void counting(void *work) {
    Counted *c = work;
    __atomic_fetch_add(&c->threads, 1, __ATOMIC_RELAXED);
    for (;;) {
        int64_t mine = __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED);
        if (mine >= 1000) return;
        __atomic_fetch_add(&c->sum, mine, __ATOMIC_RELAXED);
    }
}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Sources beside a module of their own, and an empty cache."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "counting.c").write_text(COUNTING)
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "sources" / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.library.cache_clear()
    yield tmp_path
    compiled.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("proven", [
    compiled_winograd.proven, compiled_fourier.proven, joined_adam.proven,
    functools.partial(thin_products.proven, torch.float32),
])  # fmt: skip
def test_loops_are_proven_whatever_torch_makes_by_default(proven, capsys):
    getattr(proven, "func", proven).cache_clear()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")  # whose tensors have no memory
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert proven() is not None
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert capsys.readouterr().err == ""


@needs_compiler
def test_another_header_is_compiled_anew(place):
    """What stands in a header is part of each source."""
    header, code = place / "sources" / "known.h", '#include "known.h"' + COUNTING
    (place / "sources" / "counting.c").write_text(code + "int known(void) { return KNOWN; }")
    for number in (3, 4):
        header.write_text(f"#define KNOWN {number}")
        compiled.library.cache_clear()
        assert compiled.library("counting").code.known() == number
    assert len(kept(place)) == 2


@needs_compiler
def test_what_a_team_shares_goes_with_it(place):
    """It waits for no collection: each convolution of a step shares out six times."""
    code = compiled.library("counting")
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            team = code.team()
            assert not any(team.begun[: compiled.LINE * team.threads])
        assert gc.collect() < 10
    finally:
        gc.enable()


def kept(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*.so"))


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_torchs_threads_share_the_work(place, threads):
    code = compiled.library("counting")
    torch.set_num_threads(threads)
    work = Counted()
    code.run("counting", work)
    assert (work.sum, work.threads) == (499500, threads)


@needs_compiler
def test_it_is_compiled_once_and_anew_where_the_source_changed(place, monkeypatch):
    assert compiled.library("counting")
    (first,) = kept(place)
    compiled.library.cache_clear()
    monkeypatch.setattr(compiled, "_compile", lambda *given: pytest.fail("compiled again"))
    assert compiled.library("counting")
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "__file__", str(place / "sources" / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    (place / "sources" / "counting.c").write_text(COUNTING.replace("1000", "10"))
    compiled.library.cache_clear()
    work = Counted()
    compiled.library("counting").run("counting", work)
    assert work.sum == 45
    assert first in kept(place)
    assert len(kept(place)) == 2
    assert (place / "cache" / "eyescream_py").stat().st_mode & 0o077 == 0


@needs_compiler
@pytest.mark.parametrize("wrong", ["others may write", "a file", "damaged"])
def test_a_cache_of_no_use_is_gone_round(place, wrong):
    folder = place / "cache" / "eyescream_py"
    if wrong == "a file":
        (place / "cache").write_text("")
    else:
        folder.mkdir(parents=True, mode=0o700)
        if wrong == "damaged":
            assert compiled.library("counting")
            (whole,) = folder.glob("*.so")
            whole.unlink()  # as this process has mapped it
            whole.write_bytes(b"\x7fELF")
            compiled.library.cache_clear()
        else:
            folder.chmod(0o777)
    work = Counted()
    compiled.library("counting").run("counting", work)
    assert work.sum == 499500
    assert kept(place) == [] or wrong == "damaged"


@needs_compiler
@pytest.mark.parametrize("wrong", ["cut off", "zeros", "another's"])
def test_what_is_not_what_was_compiled_is_compiled_again(place, wrong):
    """Loaded, the first two end a process by a signal: it is another process that tries."""
    program = f"from eyescream_py.system import compiled; compiled.__file__ = {compiled.__file__!r}"
    program += "; compiled.library('counting').code.counting"
    subprocess.run([sys.executable, "-c", program], check=True)
    (path,) = place.rglob("*.so")
    whole = path.read_bytes()
    text = "void other(void *work) {}"
    if wrong == "another's":
        command = [*COMPILER, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=text, text=True, check=True)
    else:
        path.write_bytes(whole[:8192] + bytes(len(whole) - 8192 if wrong == "zeros" else 0))
    assert path.read_bytes() != whole
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (again,) = place.rglob("*.so")
    assert again.name == compiled._named(again.stem.rpartition("-")[0], again)


@needs_compiler
def test_a_mapped_file_may_have_a_name_in_another_encoding(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb+") as file:
        file.write(b"x")
        file.flush()
        with mmap.mmap(file.fileno(), 1):
            assert compiled._openmp()


@needs_compiler
def test_what_a_process_alone_keeps_goes_with_it(place):
    """As in a home that cannot be written."""
    (place / "cache").write_text("")
    (place / "tmp").mkdir()
    program = f"from eyescream_py.system import compiled; compiled.__file__ = {compiled.__file__!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(bool(compiled.library('counting')))"],
        env={**os.environ, "TMPDIR": str(place / "tmp")}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert list((place / "tmp").iterdir()) == []


def script(folder: Path, text: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
@pytest.mark.parametrize(
    ("text", "said"),
    [("echo 'cc: no such flag' >&2; exit 1", "(cc: no such flag)"), ("exit 0", "(")],
)
def test_a_compiler_that_fails_is_a_line(place, monkeypatch, capsys, text, said):
    monkeypatch.setenv("CC", script(place, text))
    assert compiled.library("counting") is None
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"counting.c cannot be compiled {said}")
    assert err.count("\n") == 1
    assert err.endswith("torch's operators do its work, slower.\n")


@needs_compiler
@pytest.mark.parametrize("kind", compiled.INSTRUCTIONS)
def test_no_source_is_warned_of(kind):
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fsyntax-only"]
    for source in Path(compiled.__file__).parent.glob("*.c"):
        instructions = compiled.OWN.get(source.stem, compiled.INSTRUCTIONS).get(kind)
        if instructions:
            subprocess.run([*COMPILER, *instructions, *flags, str(source)], check=True)


@pytest.mark.parametrize("missing", ["compiler", "openmp", "processor"])
def test_where_there_is_nothing_nothing_is_said(place, monkeypatch, capsys, missing):
    if missing == "compiler":
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(shutil, "which", lambda word: None)
    elif missing == "openmp":
        monkeypatch.setattr(compiled, "OPENMP", ("libnone",))
    else:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert compiled.library("counting") is None
    assert capsys.readouterr() == ("", "")


def test_the_compiler_is_what_cc_names(monkeypatch):
    monkeypatch.setenv("CC", f"{sys.executable} -x")
    assert compiled._compiler() == [sys.executable, "-x"]
    monkeypatch.setenv("CC", "no-such-compiler-of-anybody")
    assert (compiled._compiler() or ["cc"])[0] in {"cc", "gcc", "clang"}


@needs_compiler
def test_without_a_home_nothing_is_left_and_an_odd_cc_is_passed_over(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "neither")
    monkeypatch.setenv("CC", "cc 'a quotation without end")
    monkeypatch.chdir(place)
    assert compiled.library("counting")
    assert [path.name for path in place.iterdir()] == ["sources"]
