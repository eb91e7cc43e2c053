"""Fuzz the reader of Torch 7 files with damaged copies of the golden files.

    python fuzz/torch7_load.py --count 5000000

torch7_atheris.py runs the same check led by coverage.

An input is a finding if `load` raises anything but T7Error, or if what it returns is written to a
file that does not come back as the same bytes. The input is then kept under --findings and the
script ends with 1. Mutations know the file's items (tags, indices, counts, sizes, strings), so
most inputs get past the first checks.
"""

import argparse
import lzma
import math
import random
import re
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from eyescream_py.torch7 import (  # noqa: E402
    Limits,
    T7Error,
    Table,
    TorchObject,
    from_module,
    load,
    save,
    to_module,
)
from eyescream_py.torch7.files.binary_format import BinaryReader  # noqa: E402
from eyescream_py.torch7.files.reader import Reader  # noqa: E402
from eyescream_py.torch7.files.source import Source  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
ZOOS = ("zoo.t7", "zoo_b32.t7", "zoo_ascii.t7", "zoo_unreferenced.t7")
NETS = ("adversarial_c2f_4_to_8_mini.net", "autoencoder_mini.net")
SMALL_CASES = 6_000  # bytes of a golden network that is a seed by itself
INTS = (-(2**31), -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 255, 65536, 2**31 - 1)
LONGS = (-(2**63), -1, 0, 1, 2, 3, 24, 2**31, 2**32, 2**40, 2**61, 2**62, 2**63 - 1)
NASTY: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 63, 1000, 2**20, 2**31, 2**40, -(2**53)),
    *(0.5, -0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan, "", "x", "bf", "nearest"),
    *(torch.zeros(0), torch.zeros(1), torch.ones(2, 3), torch.arange(3), torch.ones(1, 1, 1, 1)),
    *(torch.zeros(1).expand(2**20), Table(), Table.from_list([1, 2]), TorchObject("nn.Tanh")),
)
NAMES = (b"torch.FloatTensor", b"torch.LongStorage", b"torch.CudaTensor", b"nn.Linear", b"V 0")


class Seed(NamedTuple):
    """A good file and where its items stand: (offset, bytes)."""

    data: bytes
    items: list[tuple[int, int]]


class _Recorder(BinaryReader):
    """A reader that notes each item."""

    def __init__(self, source: Source, long_size: int):
        super().__init__(source, long_size)
        self.items: list[tuple[int, int]] = []

    def _advance(self, count: int, what: str) -> int:
        self.items.append((self.position, count))
        return super()._advance(count, what)


def make_seed(data: bytes) -> Seed:
    for long_size in (8, 4):
        recorder = _Recorder(Source(data), long_size)
        try:
            Reader(recorder, Limits()).read()
        except T7Error:
            continue
        return Seed(data, [item for item in recorder.items if item[1]])
    words = re.finditer(rb"[^\n]+", data)  # an ASCII file: its lines
    return Seed(data, [(word.start(), len(word[0])) for word in words] or [(0, 1)])


def seeds() -> list[Seed]:
    """The golden zoos whole, each of their values as a file of its own, and two networks."""
    found = {(GOLDEN / name).read_bytes() for name in ZOOS}
    zoo = load(GOLDEN / "zoo.t7")
    forms: tuple[dict[str, Any], ...] = ({}, {"long_size": 4}, {"ascii": True})
    for form in forms:
        found.update(save(None, value, **form) for value in zoo.values())
        found.add(save(None, [zoo["shared_a"], zoo["view_a"], zoo["view_b"], zoo["cycle"]], **form))
    found.update((GOLDEN / name).read_bytes() for name in NETS)
    found.update(save(None, network) for network in networks())
    found.update(save(None, value, **form) for value in odd_objects() for form in forms)
    return [make_seed(data) for data in sorted(found, key=lambda data: (len(data), data))]


def networks() -> list[TorchObject]:
    """One small golden network of each kind."""
    kinds = {}
    for path in sorted((GOLDEN / "classes").glob("*.t7.xz")):
        for case in load(lzma.decompress(path.read_bytes())).values():
            if len(save(None, case["net"])) <= SMALL_CASES:
                kinds.setdefault(case["kind"], case["net"])
    return list(kinds.values())


def odd_objects() -> list[TorchObject]:
    """Objects whose contents are not one table: see `classes`."""
    return [
        TorchObject("torch.Timer", None),
        TorchObject("tds.Hash", Table(a=1, b=Table(c=True)), 0),
        TorchObject("tds.Vec", Table.from_list(["x", 2, None]), 0),
        TorchObject("nn.GPU", Table(device=1, modules=Table())),
    ]


def objects_of(value: Any) -> Iterator[TorchObject]:
    """The class instances within a value, once each."""
    stack, met = [value], set()
    while stack:
        value = stack.pop()
        if id(value) in met or not isinstance(value, Table | TorchObject):
            continue
        met.add(id(value))
        if isinstance(value, TorchObject):
            yield value
            stack.append(value.fields)
        else:
            stack += [*value, *value.values()]


class Mutator:
    """Makes damaged files; the same seed number makes the same ones."""

    def __init__(self, number: int):
        self.random = random.Random(number)  # noqa: S311
        self.seeds = seeds()
        self.networks = [seed for seed in self.seeds if b"nn." in seed.data[:60]]
        self._small = [seed for seed in self.seeds if len(seed.data) <= SMALL_CASES]

    def fields(self) -> bytes:
        """A network of which some fields are of other values, kinds or shapes."""
        network = load(self.random.choice(self.networks).data)
        objects = list(objects_of(network))
        for _ in range(self.random.choice((1, 1, 2, 4))):
            fields = self.random.choice(objects).fields
            if isinstance(fields, Table) and fields:
                name = self.random.choice(list(fields))
                fields[name] = self.other(fields[name])
        return save(None, network)

    def other(self, value: Any) -> Any:
        """Another value instead of a field's: like it, or not at all."""
        if isinstance(value, torch.Tensor) and value.numel() and self.random.random() < 0.7:
            return self.random.choice(
                (value[:0], value[:1], value.reshape(-1), value[None], value.long(), -value)
            )
        if isinstance(value, Table) and value and self.random.random() < 0.5:
            return Table.from_list(list(value.values())[: self.random.randrange(len(value) + 1)])
        return self.random.choice(NASTY)

    def __call__(self) -> bytes:
        if self.random.random() < 0.5:
            return self.fields()
        pool = self._small if self.random.random() < 0.98 else self.seeds
        return self.mutate(self.random.choice(pool))

    def mutate(self, seed: Seed) -> bytes:
        """A damaged copy of `seed`."""
        data = bytearray(seed.data)
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            self.random.choice(self._mutations)(self, data, seed.items)
        return bytes(data)

    def _item(self, data: bytearray, items: list[tuple[int, int]]) -> tuple[int, int]:
        offset, size = self.random.choice(items)
        return min(offset, len(data)), size

    def _integer(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        offset, size = self._item(data, items)
        if size == 8:
            data[offset : offset + 8] = struct.pack("<q", self.random.choice(LONGS))
        else:
            data[offset : offset + 4] = struct.pack("<i", self.random.choice(INTS))

    def _word(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        offset, size = self._item(data, items)
        data[offset : offset + size] = str(self.random.choice(INTS + LONGS)).encode()

    def _name(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        offset, size = self._item(data, items)
        data[offset : offset + size] = self.random.choice(NAMES)

    def _bits(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _cut(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        del data[self._item(data, items)[0] + self.random.choice((0, 0, 1, 2)) :]

    def _remove(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        first, last = sorted((self._item(data, items)[0], self._item(data, items)[0]))
        del data[first:last]

    def _repeat(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        first, last = sorted((self._item(data, items)[0], self._item(data, items)[0]))
        data[first:first] = data[first:last]

    def _splice(self, data: bytearray, items: list[tuple[int, int]]) -> None:
        other = self.random.choice(self._small)
        first, last = sorted(self.random.choice(other.items)[0] for _ in range(2))
        offset = self._item(data, items)[0]
        data[offset:offset] = other.data[first:last]

    _mutations = (_integer, _integer, _word, _name, _bits, _cut, _remove, _repeat, _splice)


def check(data: bytes) -> bool:
    """Whether `data` is a good file. Raises anything but T7Error where the reader is at fault."""
    try:
        value = load(data)
    except T7Error:
        return False
    written = save(None, value)
    if save(None, load(written)) != written:
        raise AssertionError("what was read does not survive being written and read again")
    if isinstance(value, TorchObject):
        check_module(value)
    return True


def check_module(value: TorchObject) -> None:
    """A network becomes a module that can be written, or a T7Error says why not."""
    try:
        module = to_module(value)
        save(None, from_module(module))
    except T7Error:
        return


def run(mutate: Callable[[], bytes], count: int, seconds: float, findings: Path) -> tuple[int, int]:
    """Check up to `count` inputs for up to `seconds`; the numbers of inputs and of good ones."""
    end = time.monotonic() + seconds
    done = good = 0
    while done < count and time.monotonic() < end:
        data = mutate()
        try:
            good += check(data)
        except BaseException:
            print(f"finding: {_keep(data, findings)}", file=sys.stderr)
            raise
        done += 1
    return done, good


def _keep(data: bytes, findings: Path) -> Path:
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{sha256(data).hexdigest()[:16]}.t7"
    path.write_bytes(data)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: 1)")
    parser.add_argument("--findings", type=Path, default=Path("fuzz/findings"))
    options = parser.parse_args()
    mutator = Mutator(options.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    done, good = run(mutator, options.count, options.seconds, options.findings)
    took = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{done} inputs, {good} of them good files, no finding, in {took:.0f} s; "
        f"peak memory {peak / 1024:.0f} MiB, before the first input {before / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
