"""Types of number options that all commands share: nan, inf and numbers of a thousand digits are
refused where they are typed."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST_WHOLE = 2**53
LARGEST = 3.4e38  # what single precision holds
LONGEST_RUN = 2**40  # batches: a thousand a second for 34 years


class Finite(click.ParamType):
    """A float that single precision can hold, from `least` on, below `below`, at most `most`."""

    name = "float"

    def __init__(
        self, least: float = -math.inf, below: float = math.inf, most: float = math.inf
    ) -> None:
        self.least, self.below, self.most = least, below, most

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(click.FLOAT.convert(value, param, ctx))
        if not abs(number) < LARGEST:
            self.fail(f"{value} is no number of single precision.", param, ctx)
        if not (self.least <= number < self.below and number <= self.most):
            self.fail(f"{value} is not {self._range()}.", param, ctx)
        return number

    def _range(self) -> str:
        parts = []
        if self.least > -math.inf:
            parts.append(f"at least {self.least:g}")
        if self.below < math.inf:
            parts.append(f"below {self.below:g}")
        if self.most < math.inf:
            parts.append(f"at most {self.most:g}")
        return " and ".join(parts)


class _Rate(Finite):
    """A learning rate that is not negative, or -1 for the one that comes with the optimizer."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = super().convert(value, param, ctx)
        if number < 0 and number != -1:
            self.fail(f"{value} is neither a learning rate nor -1, the default one.", param, ctx)
        return number


class Whole(click.types.IntParamType):
    """An integer that a double holds exactly, as checkpoints of Lua have to."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if abs(number) > LARGEST_WHOLE:
            self.fail(f"{str(value)[:40]} has more digits than any count.", param, ctx)
        return number


class WholeFrom(click.IntRange, Whole):
    """A `Whole` of at least `min`."""


def bounded(kind: click.ParamType) -> click.ParamType:
    """An integer type without an upper bound as one that is bounded; any other as it is."""
    if kind is click.INT:
        return Whole()
    if type(kind) is click.IntRange and kind.max is None and not (kind.clamp or kind.min_open):
        return WholeFrom(kind.min)
    return kind


def batches_done(text: str) -> int:
    """The number of batches that a checkpoint's header tells of. Raises ValueError where no run
    can have done as many."""
    number = int(text)
    if not 0 <= number <= LONGEST_RUN:
        raise ValueError(f"{text[:40]} batches")
    return number


FINITE = Finite()
NOT_NEGATIVE = Finite(0)
RATE = _Rate()
MOMENTUM = Finite(0, 1)
SHARE = Finite(0, most=1)
SEED = click.IntRange(0, 2**62)  # torch's and numpy's generators take it
COUNT = click.IntRange(1, 2**31 - 1)
FILES = click.IntRange(1, 999_999)  # to make, each under a name of its own
PORT = click.IntRange(1, 65535)
COUNT_OR_NONE = click.IntRange(0, 2**31 - 1)
