"""What tests of each loop in C need: its source to change, and a recording to compare."""

import contextlib
import shutil
from pathlib import Path

import torch

from eyescream_py.system import compiled
from eyescream_py.system.tape import record


@contextlib.contextmanager
def sources_anew(monkeypatch, folder, proven, *names):
    """A block in which the sources `names` lie in `folder`, to be changed, and none is compiled."""
    for name in (*names, "vectors.h"):
        shutil.copy(Path(compiled.__file__).with_name(name), folder)
    monkeypatch.setattr(compiled, "__file__", str(folder / "compiled.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    for cached in (compiled.library, proven):
        cached.cache_clear()
    try:
        yield folder
    finally:
        for cached in (compiled.library, proven):
            cached.cache_clear()


def change(source, before, after):
    """Have `after` in the file where `before` stands."""
    text = source.read_text()
    assert before in text
    source.write_text(text.replace(before, after))


def assert_a_recording_learns_the_same(net, x, work):
    """`work`, which adds up the slopes of `net` by `x`, and its recording do so to the bit, also by
    other pixels and weights.
    """
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def learned():
        made = [p.grad.clone() for p in net.parameters()]
        for p in net.parameters():
            p.grad.zero_()
        return made

    work()
    first = learned()
    tape = record(work)
    assert all(map(torch.equal, first, learned()))
    tape.replay()
    assert all(map(torch.equal, first, learned()))
    x.normal_()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5)
    tape.replay()
    again = learned()
    work()
    assert all(map(torch.equal, again, learned()))
    assert not torch.equal(again[0], first[0])
