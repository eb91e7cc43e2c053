import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyescream_py.image_model.schedule import CriticSchedule, DifferenceSchedule, rate_share


def steps_of_a_turn(schedule, differences) -> int:
    """D steps of one turn when D answers with the numbers of `differences` one after the other."""
    answers = iter(differences)
    taken = 0
    while schedule.wants_step(taken):
        schedule.observe(next(answers))
        taken += 1
    schedule.turn_done()
    return taken


@pytest.mark.parametrize(
    ("before", "answers", "expected"),
    [
        (0.0, [0.3], 1),  # separates at once
        (0.0, [0.01, 0.04, 0.05], 3),  # repeats until it reaches the lower bound
        (0.5, [0.01, 0.2], 2),  # always one step, and more if it fell back
        (0.95, [], 0),  # rests
        (0.94, [0.99], 1),
        (0.0, [-1.0, 0.97], 2),  # one jump over both bounds ends the turn
    ],
)
def test_difference_schedule(before: float, answers: list[float], expected: int) -> None:
    schedule = DifferenceSchedule(difference=before)
    assert steps_of_a_turn(schedule, answers) == expected
    assert schedule.difference == (answers[-1] if answers else before)


def test_a_hopeless_discriminator_does_not_hold_the_turn_for_ever() -> None:
    schedule = DifferenceSchedule(limit=7)
    assert steps_of_a_turn(schedule, [-0.2] * 7) == 7


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-1, 1),
    high=st.floats(-1, 1),
    limit=st.integers(1, 20),
    start=st.floats(-1, 1),
    answers=st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=20, max_size=20),
)
def test_every_turn_ends_within_the_limit(low, high, limit, start, answers) -> None:
    assert steps_of_a_turn(DifferenceSchedule(low, high, limit, start), answers) <= limit


def test_rates_fall_in_a_straight_line_that_ends_one_step_after_the_run() -> None:
    assert [rate_share(step, 6, 3) for step in range(1, 8)] == [1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert [rate_share(step, 6, 0) for step in (1, 6)] == [1, 1]


def test_critic_schedule_is_thorough_at_first_and_each_thousandth_turn() -> None:
    schedule = CriticSchedule(steps=5)
    turns = [steps_of_a_turn(schedule, [0.0] * 50) for _ in range(1002)]
    assert turns[:500] == [50] * 500
    assert turns[500:1000] == [5] * 500
    assert turns[1000:] == [50, 5]


@pytest.mark.parametrize("kind", [DifferenceSchedule, CriticSchedule])
def test_state_round_trip(kind) -> None:
    schedule = kind()
    steps_of_a_turn(schedule, [0.3] * 50)
    other = kind()
    other.load_state(schedule.state())
    assert other == schedule


def test_a_run_with_another_objective_goes_on_as_wgan_and_back() -> None:
    critic, other = CriticSchedule(5), DifferenceSchedule()
    critic.load_state(DifferenceSchedule(difference=0.4).state())
    assert (critic.turn, critic.difference, critic.wants_step(49)) == (0, 0.4, True)
    other.load_state(CriticSchedule(5, turn=700, difference=0.3).state())
    assert other.difference == 0.3
