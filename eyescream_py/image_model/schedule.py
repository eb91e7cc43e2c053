"""How many discriminator steps a turn takes, and how the rates fall at the end of a run.

A schedule is asked `wants_step(taken)` before each D step of a turn, told the outcome with
`observe(difference)`, and told with `turn_done()` that G made its step. Both are finite by
construction.
"""

from __future__ import annotations

from dataclasses import dataclass


def rate_share(step: int, end: int, decay_steps: int) -> float:
    """The share of its rate that an optimizer has in `step` of 1..`end`: 1, and over the last
    `decay_steps` a straight line that would reach 0 one step after the end.
    """
    return min(1.0, (end + 1 - step) / (decay_steps + 1))


@dataclass
class DifferenceSchedule:
    """Train D until it separates by `low`; let it rest while it separates by `high`.

    `difference` = mean(D(real) - D(fake)) persists between turns and starts at 0. The seed trained
    D for as long as it stayed under `low`, for ever if need be; here a turn takes at most `limit` D
    steps, and G then moves anyway.
    """

    low: float = 0.05
    high: float = 0.95
    limit: int = 50
    difference: float = 0.0

    def wants_step(self, taken: int) -> bool:
        """Whether D learns once more after `taken` steps of this turn."""
        if taken >= self.limit or self.difference >= self.high:
            return False
        return taken == 0 or self.difference < self.low

    def observe(self, difference: float) -> None:
        """Remember mean(D(real) - D(fake)) of the step just taken."""
        self.difference = difference

    def turn_done(self) -> None:
        """Nothing to count: the difference is all the state there is."""

    def state(self) -> dict[str, float]:
        return {"difference": self.difference}

    def load_state(self, state: dict[str, float]) -> None:
        self.difference = float(state["difference"])


@dataclass
class CriticSchedule:
    """The critic steps of WGAN: `steps` a turn, but 50 in turns below 500 and each 1000th."""

    steps: int = 5
    turn: int = 0
    difference: float = 0.0

    def wants_step(self, taken: int) -> bool:
        thorough = self.turn < 500 or self.turn % 1000 == 0
        return taken < (50 if thorough else self.steps)

    def observe(self, difference: float) -> None:
        self.difference = difference

    def turn_done(self) -> None:
        self.turn += 1

    def state(self) -> dict[str, float]:
        return {"difference": self.difference, "turn": self.turn}

    def load_state(self, state: dict[str, float]) -> None:
        self.difference = float(state["difference"])
        self.turn = int(state.get("turn", 0))  # a run with another objective counted none
