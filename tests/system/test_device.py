"""What a CUDA device is asked and told, where a pretended one answers."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eyescream_py.system import device
from tests.fake_cuda import CUDA, pretend_memory

CPU = torch.device("cpu")
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose_device(1, typed=True) == torch.device("cuda", 1)
    assert device.choose_device(2, typed=False) == CPU


def test_memory_is_a_gpus_own_or_none(monkeypatch):
    pretend_memory(monkeypatch, free=600, whole=1000)
    assert device.free_memory(CUDA) == 600
    assert device.whole_memory(CUDA) == 1000
    assert device.free_memory(CPU) is device.whole_memory(CPU) is None
    assert device.wants_pinned(CUDA)
    assert not device.wants_pinned(CPU)


def test_only_cuda_has_to_be_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device.wait_for(CPU)
    assert waited == []
    device.wait_for(CUDA)
    assert waited == [CUDA]


@pytest.fixture
def switches(monkeypatch):
    """How torch computes, as it would be set; put back afterwards."""
    asked = {}
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda on, warn_only: asked.update(on=on)
    )
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(current=device))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [
        (torch.utils.deterministic, "fill_uninitialized_memory"), (cudnn, "deterministic"),
        (cudnn, "benchmark"), (cudnn, "allow_tf32"), (matmul, "allow_tf32"),
    ]  # fmt: skip
    values = [getattr(owner, name) for owner, name in before]

    def read():
        workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        return (
            asked.get("on", False), workspace, cudnn.deterministic, cudnn.benchmark,
            cudnn.allow_tf32, matmul.allow_tf32,
        )  # fmt: skip

    with warnings.catch_warnings():
        yield read
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    for (owner, name), value in zip(before, values, strict=True):
        setattr(owner, name, value)


@pytest.mark.parametrize(
    ("fast", "strict", "expected"),
    [
        (False, False, (True, ":4096:8", True, False, True, True)),
        (False, True, (True, ":4096:8", True, False, False, False)),
        (True, False, (False, None, False, True, True, True)),
    ],
)
def test_the_same_bits_unless_fast_and_tf32_unless_strict(fast, strict, expected, switches):
    device.prepare_cuda(CUDA, fast, strict)
    assert switches() == expected


def test_kernels_run_where_their_tensors_are(switches, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    device.prepare_cuda(torch.device("cuda", 1), fast=False, strict=False)
    assert current == [torch.device("cuda", 1)]
    device.prepare_cuda(torch.device("cuda"), fast=False, strict=False)  # the current one
    assert current == [torch.device("cuda", 1)]


def test_on_the_cpu_nothing_is_switched(switches):
    before = switches()
    device.prepare_cuda(CPU, fast=True, strict=True)
    assert switches() == before


FAULTS = """
import resource, sys
import torch
from eyescream_py.system.device import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else False
counts = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, *counts)
"""


def test_kept_memory_is_not_cleared_by_the_kernel_again():
    def faults(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
        kept, *counts = done.stdout.split()
        return kept == "True", min(map(int, counts))

    kept, few = faults("keep")
    if not kept:
        pytest.skip("another C library than glibc")
    # of 16,384 pages, once the heap has found its shape
    assert few < 10 < faults("as it is")[1]


PAGES = """
import mmap
import torch
from eyescream_py.system.device import HEAP, keep_memory
kept = keep_memory()
in_use = int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE
where = torch.ones(1 << 22)[1 << 21 :].data_ptr()
for line in open("/proc/self/smaps"):
    name, *values = line.split()
    if not name.endswith(":"):
        first, end = (int(side, 16) for side in name.split("-"))
    elif name == "VmFlags:" and first <= where < end:
        print(kept, "hg" in values, end - first > HEAP / 2, in_use < HEAP / 2)
"""


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="a kernel without large pages")
def test_tensors_lie_in_large_pages_and_nothing_is_taken_up_beforehand():
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True)
    kept, *found = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert found == ["True"] * 3, done.stderr


SMALL = """
import resource
import torch
from eyescream_py.system.device import HEAP, keep_memory
resource.setrlimit(resource.RLIMIT_DATA, (HEAP // 2,) * 2)
print(keep_memory(), int(torch.ones(1 << 20).sum()))
"""


def test_a_process_that_may_not_grow_so_far_goes_on():
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True)
    assert done.stdout.split()[1:] == [str(1 << 20)], done.stderr


LIMITED = """
import mmap
import resource
import torch
from eyescream_py.system.device import HEAP, keep_memory
taken = int(open("/proc/self/statm").read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (taken + HEAP + HEAP // 4,) * 2)
print(keep_memory(), len(mmap.mmap(-1, HEAP // 2)))
"""


def test_a_process_of_limited_addresses_keeps_them():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert done.stdout.split()[1:] == [str(2**30)], done.stderr


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not device.keep_memory()


@pytest.mark.parametrize(
    ("share", "typed", "used"),
    [("1", False, 1), ("1", True, 2), *((share, False, 2) for share in ("0", "x", "99", ""))],
)
def test_a_default_number_of_threads_stays_within_the_share(share, typed, used, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", share)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before = torch.get_num_threads()
    try:
        assert device.set_threads(2, typed) == used
    finally:
        torch.set_num_threads(before)
