"""Kernels prove themselves before a run takes them; here those written in torch stand for them."""

import importlib
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch

from eyescream_py.system import fusing, kernels_in_torch
from eyescream_py.system.errors import UserError
from eyescream_py.system.fusing import fused_kernels, what_fails

CPU, GPU = torch.device("cpu"), torch.device("cuda", 7)
NAMES = ["activate", "activate_backward", "add_parts", "adam", "tiles", "judge", "tally", "widen",
         "head", "head_backward", "pictures", "pairs", "multiply", "fold", "unfold", "patches",
         "unpatched", "place", "weight_slopes", "convolve"]  # fmt: skip


def stand_in(**changed):
    """The kernels, some of them otherwise."""
    module = types.ModuleType("eyescream_py.system.gpu_kernels")
    vars(module).update({name: getattr(kernels_in_torch, name) for name in NAMES})
    vars(module).update(changed)
    return module


def raising(error):
    def kernel(*given):
        raise error

    return kernel


def a_little_off(name):
    """The kernel, whose first result has one value that is wrong."""

    def off(*given):
        found = getattr(kernels_in_torch, name)(*given)
        changed = (
            given[{"adam": 0, "tally": 4, "pairs": 5, "multiply": 2}[name]]
            if found is None
            else found
        )
        while isinstance(changed, tuple):
            changed = changed[0]
        changed[(-1,) * changed.dim()] += 0.5
        return found

    return off


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """Lets a device that is none try `kernels` on the processor."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def pretend(kernels):
        monkeypatch.setitem(sys.modules, "eyescream_py.system.gpu_kernels", kernels)
        system = importlib.import_module("eyescream_py.system")
        if kernels:
            monkeypatch.setattr(system, "gpu_kernels", kernels, raising=False)

    tried = fusing.what_fails
    monkeypatch.setattr(
        fusing, "what_fails", lambda kernels, _, rounded: tried(kernels, CPU, rounded)
    )
    fused_kernels.cache_clear()
    yield pretend
    fused_kernels.cache_clear()


@pytest.mark.parametrize("rounded", [False, True])
def test_kernels_that_are_right_are_taken_without_a_word(rounded, on_a_gpu, capfd):
    kernels = stand_in()
    on_a_gpu(kernels)
    state = torch.get_rng_state()
    assert fused_kernels(GPU, rounded).adam.__wrapped__ is kernels.adam
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("own", [True, False])
def test_kernels_are_kept_where_something_can_be_written(own, on_a_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / "home" / "cache"
    if not own:
        place.parent.touch()  # no folder can be made there
    monkeypatch.setenv("TRITON_CACHE_DIR", str(place))
    on_a_gpu(stand_in())
    assert fused_kernels(GPU) is not None
    found = Path(os.environ["TRITON_CACHE_DIR"])
    assert found.is_dir()
    assert (found == place) is own
    assert own or (found.parent == tmp_path and found.stat().st_mode & 0o077 == 0)


def test_every_kernel_is_tried():
    watched = []

    class All:
        def __getattr__(self, name):
            watched.append(name)
            return getattr(kernels_in_torch, name)

    for rounded in (False, True):
        assert what_fails(All(), CPU, rounded) == ""
    assert set(watched) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_that_is_wrong_is_found_and_named(name):
    rounded = name in ("weight_slopes", "convolve")  # by which only 16 bits are summed
    said = what_fails(stand_in(**{name: a_little_off(name)}), CPU, rounded)
    assert said.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        (stand_in(head=a_little_off("head")), "head: 1 of 5 values are wrong"),
        (stand_in(pairs=lambda *given: given[4].fill_(float("nan"))),
         "pairs: 101376 of 101376 values are wrong"),
        (stand_in(head=raising(RuntimeError("Failed to find C compiler.\nMore"))),
         "head: Failed to find C compiler."),
        (stand_in(adam=raising(PermissionError(13, "Permission denied", "cache/.triton"))),
         "adam: [Errno 13] Permission denied: 'cache/.triton'"),
        (stand_in(widen=raising(KeyError())), "widen: KeyError"),
        (None, "import of eyescream_py.system.gpu_kernels halted"),
    ],
    ids=["wrong", "no number", "no compiler", "no cache", "no words", "no Triton"],
)  # fmt: skip
def test_without_one_of_them_a_line_says_so_and_none_is_taken(kernels, said, on_a_gpu, capfd):
    on_a_gpu(kernels)
    assert fused_kernels(GPU) is None
    assert fused_kernels(GPU) is None  # and nothing is said twice
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"No joined kernels on cuda:7: {said}")
    assert "--no_fuse" in err


def test_what_a_compiler_writes_becomes_the_reason(on_a_gpu, capfd):
    def compiled(*given):
        script = "import sys; sys.stderr.write('a.c:1: fatal error: Python.h: none\\nstopped.\\n')"
        subprocess.run([sys.executable, "-c", f"{script}; sys.exit(1)"], check=True)

    on_a_gpu(stand_in(adam=compiled))
    assert fused_kernels(GPU) is None
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "adam: a.c:1: fatal error: Python.h: none. This run" in err


def test_a_device_that_a_kernel_has_stopped_ends_the_run(monkeypatch):
    def used_again(*given, **named):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def kernel(*given):
        monkeypatch.setattr(torch, "zeros", used_again)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(UserError, match="start again with --no_fuse"):
        what_fails(stand_in(head=kernel), CPU, True)


def raised_in(module, error):
    """A kernel that raises an error in a function of `module`."""
    inner = {"__name__": module, "error": error}
    fails = types.FunctionType(compile("raise error", module, "exec"), inner)
    return lambda *given: fails()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("PassManager::run failed\nmore"), "PassManager::run failed"),
        (Exception("out of resource: shared memory"), "out of resource: shared memory"),
        (KeyError(), "KeyError"),
    ],
)
def test_torch_does_the_work_of_a_kernel_that_cannot_be_made_later(error, said, capsys):
    unmade = raised_in("triton.compiler.compiler", error)
    kernels = fusing.Kernels(stand_in(widen=unmade))
    widen, x = kernels.widen, torch.ones(2, 3, 4, 4)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(widen(x, 2, 8, x.dtype), kernels_in_torch.widen(x, 2, 8, x.dtype))
    assert capsys.readouterr().err == (
        f"Triton cannot make the kernel widen for this run ({said}): torch's operators do its "
        "work, slower.\n"
    )
    assert kernels.head.__wrapped__ is kernels_in_torch.head


@pytest.mark.parametrize("name", NAMES)
def test_any_kernel_of_a_run_can_be_torchs(name, capsys):
    """Parts of sums, too, which two of them hand over: as the kernels' own, in several rows."""
    unmade = raised_in("triton.compiler.compiler", RuntimeError("no"))

    def in_rows(*given):
        dx, parts = kernels_in_torch.activate_backward(*given)
        if parts is None:
            return dx, None
        halves = [torch.cat([part / 2, part / 2]) for part in parts]
        return dx, tuple(halves)

    def of_rows(parts, bias, slope):
        of_bias, of_slope = parts
        assert of_bias.shape[1:] == bias.shape
        return of_bias.sum(0).to(bias.dtype), of_slope.sum().to(slope.dtype).view(1)

    usual = {"activate_backward": in_rows, "add_parts": of_rows}
    kernels = fusing.Kernels(stand_in(**{**usual, name: unmade}))
    assert what_fails(kernels, CPU, name != "place") == ""  # which float32 alone takes
    assert capsys.readouterr().err.count(f"Triton cannot make the kernel {name} ") == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no")])
def test_what_is_no_fault_of_triton_stays_as_it_was(error):
    kernels = fusing.Kernels(stand_in(adam=raised_in("torch.cuda", error)))
    with pytest.raises(type(error)) as raised:
        kernels.adam()
    assert raised.value is error


@pytest.mark.parametrize("end", ["abort", "raise", "go on"])
def test_what_a_compiler_says_before_it_ends_the_process_is_kept(end):
    code = (
        "import os, sys\n"
        "from eyescream_py.system.fusing import _overheard\n"
        "with _overheard():\n"
        "    os.write(2, b'LLVM ERROR: cannot select\\n')\n"
        f"    if {end!r} == 'abort': os.abort()\n"
        f"    if {end!r} == 'raise': raise ValueError('of its own')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if end == "abort":
        assert done.returncode < 0
        assert "LLVM ERROR: cannot select\n" in done.stderr
        assert done.stderr.count("--no_fuse") == 1
    else:
        assert "LLVM" not in done.stderr
        assert "--no_fuse" not in done.stderr


def test_a_processor_has_no_kernels():
    assert fused_kernels(CPU) is None
