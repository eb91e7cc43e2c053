import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyescream_py.image_model.replay import ReplayCache, cache_file
from eyescream_py.system.errors import UserError

SHAPE = (1, 4, 4)


def constant(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, *SHAPE)


def contents(cache: ReplayCache) -> list[float]:
    """The value of each filled slot, of pictures made by `constant`."""
    array = np.load(cache.path, mmap_mode="r")[: cache.count, 0, 0, 0].astype(float)
    return [round(v / 127.5 - 1, 2) for v in array]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_fills_in_order_and_is_an_ordinary_array(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "cache", 5, SHAPE)
    cache.push(constant(-1, 0.2), rng)
    cache.push(constant(0.6), rng)
    assert cache.path == tmp_path / "cache.npy"
    assert contents(cache) == [-1, 0.2, 0.6]
    assert np.load(cache.path).shape == (5, *SHAPE)
    cache.close()


def test_overflow_uses_the_free_slots_then_distinct_random_ones(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 6, SHAPE)
    cache.push(constant(-1, -0.8, -0.6, -0.4, -0.2), rng)
    cache.push(constant(0.2, 0.4, 0.6, 0.8), rng)
    values = contents(cache)
    assert cache.count == 6
    assert values[5] == 0.2  # the free slot took the first
    assert sorted(v for v in values[:5] if v > 0) == [0.4, 0.6, 0.8]  # none overwrote another
    for _ in range(50):
        cache.push(constant(0.2, 0.4, 0.6, 0.8), rng)
        assert {0.2, 0.4, 0.6, 0.8} <= set(contents(cache))
    cache.close()


@pytest.mark.parametrize(("dtype", "tolerance"), [("uint8", 1 / 255), ("float16", 1e-3)])
def test_pictures_come_back(tmp_path: Path, rng, dtype: str, tolerance: float) -> None:
    cache = ReplayCache.create(tmp_path / "c", 3, SHAPE, dtype)
    picture = torch.rand(1, *SHAPE) * 2 - 1
    cache.push(picture, rng)
    drawn = cache.sample(7, rng)
    assert drawn.shape == (7, *SHAPE)
    assert drawn.dtype == torch.float32
    assert (drawn - picture).abs().max() <= tolerance
    cache.close()


def test_sampling_reaches_every_filled_slot_and_no_other(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 100, SHAPE)
    cache.push(constant(-0.8, 0.0, 0.8), rng)
    drawn = cache.sample(300, rng)[:, 0, 0, 0]
    assert sorted({round(v, 1) for v in drawn.tolist()}) == [-0.8, 0.0, 0.8]
    cache.close()


def test_committed_content_survives_reopening(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 4, SHAPE)
    cache.push(constant(0.2, 0.4), rng)
    cache.commit()
    cache.close()
    again = ReplayCache.open(tmp_path / "c", 4, SHAPE)
    assert (again.count, again.pushes, contents(again)) == (2, 1, [0.2, 0.4])
    again.close()


def test_uncommitted_pushes_are_undone(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 3, SHAPE)
    cache.push(constant(-0.6, -0.2), rng)
    cache.commit()
    for _ in range(4):
        cache.push(constant(0.6, 0.8), rng)
    cache.close()
    again = ReplayCache.open(tmp_path / "c", 3, SHAPE)
    assert (again.count, contents(again)) == (2, [-0.6, -0.2])
    again.close()


def test_a_checkpoint_newer_than_the_commit_finds_its_moment(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 3, SHAPE)
    cache.push(constant(-0.6, -0.2, 0.0), rng)
    cache.commit()
    cache.push(constant(0.2), rng)
    moment, then = (cache.pushes, cache.count), contents(cache)
    for _ in range(5):
        cache.push(constant(0.6, 0.8), rng)
    cache.close()
    again = ReplayCache.open(tmp_path / "c", 3, SHAPE, at=moment)
    assert contents(again) == then
    again.close()


def test_a_checkpoint_older_than_the_commit_is_told(tmp_path: Path, rng, capsys) -> None:
    cache = ReplayCache.create(tmp_path / "c", 3, SHAPE)
    for value in (0.2, 0.4, 0.6):
        cache.push(constant(value), rng)
        cache.commit()
    cache.close()
    again = ReplayCache.open(tmp_path / "c", 3, SHAPE, at=(1, 1))
    assert "newer than the checkpoint" in capsys.readouterr().out
    assert again.count == 3
    again.close()


def test_an_undo_file_cut_short_undoes_what_is_whole(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 2, SHAPE)
    cache.push(constant(-0.6, -0.2), rng)
    cache.commit()
    cache.push(constant(0.6), rng)
    cache.close()
    undo = tmp_path / "c.npy.undo"
    undo.write_bytes(undo.read_bytes() + b"half a record")
    again = ReplayCache.open(tmp_path / "c", 2, SHAPE)
    assert contents(again) == [-0.6, -0.2]
    again.close()


KILLED = """
import numpy as np, os, signal, sys, torch
from eyescream_py.image_model.replay import ReplayCache
rng = np.random.default_rng(0)
cache = ReplayCache.create(sys.argv[1], 8, (1, 4, 4))
cache.push(torch.linspace(-1, -0.2, 8).view(8, 1, 1, 1).expand(8, 1, 4, 4), rng)
cache.commit()
for _ in range(20):
    cache.push(torch.full((3, 1, 4, 4), 0.5), rng)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_committed_pictures(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "c"], env=environment)
    assert done.returncode == -9
    cache = ReplayCache.open(tmp_path / "c", 8, SHAPE)
    assert cache.count == 8
    assert max(contents(cache)) <= -0.19
    cache.close()


def test_full_size_cache_is_sparse_on_disk_and_in_memory(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 100_000, (1, 128, 128))
    cache.push(torch.zeros(8, 1, 128, 128), rng)
    status = cache.path.stat()
    assert status.st_size == pytest.approx(1.6384e9, rel=1e-3)
    assert status.st_blocks * 512 < 2e6
    assert cache.path.with_name("c.npy.undo").stat().st_size == 0
    cache.close()


def test_an_existing_cache_is_never_overwritten(tmp_path: Path, rng) -> None:
    cache = ReplayCache.create(tmp_path / "c", 2, SHAPE)
    cache.push(constant(0.4), rng)
    cache.commit()
    cache.close()
    with pytest.raises(UserError, match="--reuse_replay"):
        ReplayCache.create(tmp_path / "c", 2, SHAPE)
    assert json.loads((tmp_path / "c.npy.json").read_text()) == {"pushes": 1, "count": 1}


def test_two_runs_cannot_share_a_cache(tmp_path: Path) -> None:
    cache = ReplayCache.create(tmp_path / "c", 2, SHAPE)
    with pytest.raises(UserError, match="another run"):
        ReplayCache.open(tmp_path / "c", 2, SHAPE)
    cache.close()
    ReplayCache.open(tmp_path / "c", 2, SHAPE).close()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "cannot be opened"),
        (cut_short, "cut short"),
        (lambda p: p.write_bytes(b"PK"), "no such array"),
        (lambda p: np.save(p, np.zeros((4, 4, 4, 1))), "float64"),
        (lambda p: p.with_name("c.npy.json").unlink(), "missing or damaged"),
        (lambda p: p.with_name("c.npy.json").write_text("[1]"), "missing or damaged"),
        (lambda p: p.with_name("c.npy.json").write_text('{"count": 9, "pushes": 1}'), "impossible"),
    ],
)
def test_damaged_caches_are_named(tmp_path: Path, damage, message: str) -> None:
    ReplayCache.create(tmp_path / "c", 4, SHAPE).close()
    damage(tmp_path / "c.npy")
    with pytest.raises(UserError, match=message):
        ReplayCache.open(tmp_path / "c", 4, SHAPE)


def test_a_cache_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cache_size"):
        ReplayCache.create(tmp_path / "c", 10**12, SHAPE)
    assert not list(tmp_path.iterdir())


def test_npy_is_appended_once() -> None:
    assert cache_file("a/b") == Path("a/b.npy")
    assert cache_file("a/b.npy") == Path("a/b.npy")
    assert cache_file("a/b.cache") == Path("a/b.cache.npy")


def test_a_disk_that_fills_up_is_an_error(tmp_path: Path, rng, monkeypatch) -> None:
    """A memory map that finds no room for a page ends the process with SIGBUS."""
    cache = ReplayCache.create(tmp_path / "cache", 3, SHAPE)
    cache.push(constant(-1), rng)
    cache.commit()
    taken: list[tuple[int, int]] = []

    def full(descriptor: int, start: int, size: int) -> None:
        taken.append((start, size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as error:
        cache.push(constant(0.2, 0.6), rng)
    assert error.value.filename == str(cache.path)
    assert taken == [(128 + 16, 2 * 16)]  # behind the header and the first picture
    assert contents(cache) == [-1]
    cache.close()
    assert contents(ReplayCache.open(tmp_path / "cache", 3, SHAPE)) == [-1]


def test_replaced_pictures_that_cannot_be_noted_stay(tmp_path: Path, rng) -> None:
    """The disk takes half of a note: the cache is as before, and the next push as if it were the
    first."""
    cache = ReplayCache.create(tmp_path / "cache", 2, SHAPE)
    cache.push(constant(-1, 1), rng)
    cache.commit()
    undo = cache._undo

    class Filling(io.FileIO):
        def write(self, data) -> int:
            if self.tell():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[:10])

    cache._undo = Filling(tmp_path / "cache.npy.undo", "a+b")
    with pytest.raises(OSError, match="No space left"):
        cache.push(constant(0.6), rng)
    assert (contents(cache), cache.pushes, os.path.getsize(undo.name)) == ([-1, 1], 1, 0)
    cache._undo = undo
    cache.push(constant(0.6), rng)
    assert sorted(contents(cache)) in ([-1, 0.6], [0.6, 1])
    cache.close()
    assert contents(ReplayCache.open(tmp_path / "cache", 2, SHAPE)) == [-1, 1]  # not committed
