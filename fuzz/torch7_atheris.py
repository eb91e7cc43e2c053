"""Fuzz the reader of Torch 7 files led by coverage. Needs `pip install atheris`.

    python fuzz/torch7_atheris.py -runs=5000000 [folder of inputs] [other options of libFuzzer]

The mutations of torch7_load.py, which know the items of a file, take turns with those of libFuzzer.
"""

import random
import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["eyescream_py"]):
    import torch7_load

mutator = torch7_load.Mutator(0)


def mutate(data: bytes, max_size: int, number: int) -> bytes:
    mutator.random = random.Random(number)  # noqa: S311
    kind = mutator.random.random()
    if not data or kind < 0.2:
        return mutator()[:max_size]
    if kind < 0.4:
        return atheris.Mutate(data, max_size)
    return mutator.mutate(torch7_load.make_seed(data))[:max_size]


def main() -> None:
    atheris.Setup(sys.argv, torch7_load.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
