"""Sources of random numbers: torch's own generators, or the two streams that a Lua Torch program
draws from.

A loop, a data set or a dropout layer is handed a `RandomSource` and asks it to fill tensors; it
never knows which kind it holds. `LuaSource` draws the numbers of Torch 7 (TH's `THRandom.c`:
Mersenne twister MT19937, Matsumoto and Nishimura 1998) and of LuaJIT's `math.random` (Tausworthe
generator of period 2^223, L'Ecuyer 1999), so that a run with the same seed draws what the Lua
program drew.
"""

from __future__ import annotations

import math
import operator
import struct
from typing import Any, Protocol

import numpy as np
import torch


class RandomSource(Protocol):
    """Fills tensors in place and returns them; `state`/`set_state` make a resumed run go on with
    the same numbers.
    """

    def uniform_(self, tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """Uniform in [low, high)."""
        ...

    def normal_(self, tensor: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        """Normal, with this mean and deviation."""
        ...

    def bernoulli_(self, tensor: torch.Tensor, p: float) -> torch.Tensor:
        """1 with probability p, else 0."""
        ...

    def indices_(self, tensor: torch.Tensor, n: int) -> torch.Tensor:
        """Whole numbers 0..n-1, with replacement, into an int64 tensor."""
        ...

    def permutation(self, n: int) -> torch.Tensor:
        """0..n-1 in random order, int64, on the source's device."""
        ...

    def state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> bool:
        """Go on from `state`; False, and nothing changed, where another kind of device drew it.

        Raises KeyError for that of another kind of source, ValueError for what is no state.
        """
        ...


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """torch's generator of a device, begun with `seed`; TypeError for what is no whole number,
    ValueError beyond the 64 bits that it takes."""
    number = operator.index(seed)
    if not -(2**63) <= number < 2**64:
        raise ValueError("a seed is a whole number from -2**63 to 2**64 - 1")
    return torch.Generator(device).manual_seed(number)


STATE_BYTES = {"cpu": 5056, "cuda": 16}  # of torch's generators
BITS = 31  # of a number that `random_` fills an int32 with


class TorchSource:
    """torch's generator of one device; every draw happens on that device and can be captured in a
    CUDA graph.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = seeded(seed, self.device)

    def uniform_(self, tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return tensor.uniform_(low, high, generator=self.generator)

    def normal_(self, tensor: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return tensor.normal_(mean, std, generator=self.generator)

    def bernoulli_(self, tensor: torch.Tensor, p: float) -> torch.Tensor:
        if p == 0.5 and self.device.type == "cpu":
            return tensor.copy_(self._coins(tensor.numel()).view(tensor.shape))
        return tensor.bernoulli_(p, generator=self.generator)

    def _coins(self, n: int) -> torch.Tensor:
        """`n` fair ones, 0 or 1, from the bits of few numbers: torch draws a number for each, which
        took 12 of 260 ms of an iteration.
        """
        places = torch.arange(BITS, dtype=torch.int32, device=self.device)
        numbers = places.new_empty(-(-n // BITS), 1).random_(generator=self.generator)
        bits = numbers >> places
        return bits.bitwise_and_(1).view(-1)[:n]

    def indices_(self, tensor: torch.Tensor, n: int) -> torch.Tensor:
        return tensor.random_(0, n, generator=self.generator)

    def permutation(self, n: int) -> torch.Tensor:
        return torch.randperm(n, generator=self.generator, device=self.device)

    def state(self) -> dict[str, Any]:
        return {"torch": self.generator.get_state()}

    def set_state(self, state: dict[str, Any]) -> bool:
        stored = state["torch"]
        sizes = (STATE_BYTES["cpu"], STATE_BYTES["cuda"])
        if not isinstance(stored, torch.Tensor) or stored.numel() not in sizes:
            raise ValueError("the random numbers' state is none")
        if stored.numel() != self.generator.get_state().numel():
            return False
        try:
            self.generator.set_state(stored.cpu())
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the random numbers' state is none ({error})") from error
        return True


class TorchRandom:
    """Torch 7's generator (`torch.manualSeed` and the draws of `TensorRandom`), vectorised.

    Each method draws as many 32-bit numbers as Lua Torch does, in its order; arrays are float64.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        self._pending: tuple[float, float] | None = (
            None  # (angle, radius) of a normal pair half used
        )
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start as `torch.manualSeed(seed)`: init_genrand, which uses the low 32 bits."""
        key = np.empty(624, np.uint32)
        word = seed & 0xFFFFFFFF
        for i in range(624):
            key[i] = word
            word = (1812433253 * (word ^ (word >> 30)) + i + 1) & 0xFFFFFFFF
        self._set_key(key, 624)
        self._pending = None

    def _set_key(self, key: np.ndarray, position: int) -> None:
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}

    def _unit(self, n: int) -> np.ndarray:
        return self._bits.random_raw(n) * (1.0 / 4294967296.0)

    def uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """`n` numbers in [low, high)."""
        return self._unit(n) * (high - low) + low

    def normal(self, n: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        """Box-Muller pairs; the second half of an odd draw's last pair opens the next draw, as in
        TH.
        """
        out = np.empty(n)
        start = 0
        if self._pending is not None and n > 0:
            angle, radius = self._pending
            out[0] = radius * math.sin(angle)
            self._pending, start = None, 1
        units = self._unit((n - start + 1) // 2 * 2).reshape(-1, 2)
        angles = 2 * math.pi * units[:, 0]
        radii = np.sqrt(-2 * np.log(1.0 - units[:, 1]))
        out[start::2] = radii * np.cos(angles)
        sines = radii * np.sin(angles)
        room = len(out[start + 1 :: 2])
        out[start + 1 :: 2] = sines[:room]
        if room < len(sines):
            self._pending = (float(angles[-1]), float(radii[-1]))
        return out * std + mean

    def bernoulli(self, n: int, p: float) -> np.ndarray:
        """`n` numbers, 1 with probability `p`, else 0."""
        return (self._unit(n) <= p).astype(np.float64)

    def randperm(self, n: int) -> np.ndarray:
        """A permutation of 0..n-1 (Lua's `torch.randperm(n)` minus 1)."""
        words = self._bits.random_raw(max(n - 1, 0))
        picks = (words % np.arange(n, 1, -1, dtype=np.uint64)).tolist()
        order = list(range(n))
        for i, pick in enumerate(picks):
            order[i], order[i + pick] = order[i + pick], order[i]
        return np.array(order, np.int64)

    def random(self, low: int, high: int) -> int:
        """`torch.random(low, high)`, both ends included."""
        return int(self._bits.random_raw()) % (high + 1 - low) + low

    def state(self) -> dict[str, Any]:
        inner: Any = self._bits.state["state"]
        return {
            "key": torch.from_numpy(inner["key"].astype(np.int64)),
            "position": int(inner["pos"]),
            "pending": list(self._pending) if self._pending else [],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._set_key(state["key"].numpy().astype(np.uint32), int(state["position"]))
        pending = [float(value) for value in _values(state["pending"])]
        self._pending = (pending[0], pending[1]) if pending else None


_MASK = 0xFFFFFFFFFFFFFFFF
_TAUSWORTHE = ((63, 31, 18), (58, 19, 28), (55, 24, 7), (47, 21, 8))  # k, q, s of each component


class LuaJITRandom:
    """LuaJIT's `math.randomseed` and `math.random`."""

    def __init__(self, seed: float) -> None:
        self._words = [0, 0, 0, 0]
        self.seed(seed)

    def seed(self, seed: float) -> None:
        value = float(seed)
        for i, (k, _, _) in enumerate(_TAUSWORTHE):
            value = value * math.pi + math.e
            word = struct.unpack("<Q", struct.pack("<d", value))[0]
            smallest = 1 << (64 - k)
            self._words[i] = word if word >= smallest else word + smallest
        for _ in range(10):
            self._step()

    def _step(self) -> int:
        result = 0
        for i, (k, q, s) in enumerate(_TAUSWORTHE):
            z = self._words[i]
            high = z & (_MASK << (64 - k)) & _MASK
            z = ((((z << q) & _MASK) ^ z) >> (k - s)) ^ ((high << s) & _MASK)
            self._words[i] = z
            result ^= z
        return result

    def random(self) -> float:
        """`math.random()`: uniform in [0, 1), 52 bits."""
        return (self._step() & 0xFFFFFFFFFFFFF) * 2.0**-52

    def below(self, n: int) -> int:
        """`math.random(n)` minus 1: 0..n-1."""
        return math.floor(self.random() * n)

    def state(self) -> list[str]:
        return [f"{word:016x}" for word in self._words]

    def set_state(self, words: list[str]) -> None:
        self._words = [int(word, 16) for word in words]


class LuaSource:
    """The two streams of a Lua Torch program: tensors from `TorchRandom`, indices from
    `LuaJITRandom`; CPU only.
    """

    def __init__(self, seed: int) -> None:
        """`seed`: a whole number, as Lua's doubles hold it. ValueError beyond 2**1023."""
        if abs(operator.index(seed)) > 2**1023:
            raise ValueError("a seed is a whole number of at most 2**1023 in size")
        self.tensors = TorchRandom(seed)
        self.numbers = LuaJITRandom(seed)

    @staticmethod
    def _fill(tensor: torch.Tensor, values: np.ndarray) -> torch.Tensor:
        return tensor.copy_(torch.from_numpy(values).view(tensor.shape))

    def uniform_(self, tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return self._fill(tensor, self.tensors.uniform(tensor.numel(), low, high))

    def normal_(self, tensor: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return self._fill(tensor, self.tensors.normal(tensor.numel(), mean, std))

    def bernoulli_(self, tensor: torch.Tensor, p: float) -> torch.Tensor:
        return self._fill(tensor, self.tensors.bernoulli(tensor.numel(), p))

    def indices_(self, tensor: torch.Tensor, n: int) -> torch.Tensor:
        drawn = [self.numbers.below(n) for _ in range(tensor.numel())]
        return tensor.copy_(torch.tensor(drawn, dtype=torch.int64).view(tensor.shape))

    def permutation(self, n: int) -> torch.Tensor:
        return torch.from_numpy(self.tensors.randperm(n))

    def state(self) -> dict[str, Any]:
        return {"tensors": self.tensors.state(), "numbers": self.numbers.state()}

    def set_state(self, state: dict[str, Any]) -> bool:
        self.tensors.set_state(state["tensors"])
        self.numbers.set_state([str(word) for word in _values(state["numbers"])])
        return True


def _values(items: Any) -> list[Any]:
    """A list, or the Lua table that a list becomes in a Torch 7 file."""
    return list(items.values()) if isinstance(items, dict) else list(items)
