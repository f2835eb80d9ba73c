"""How long a worker may take: from the slowest that was observed, and never less than a floor."""

from nimad.supervisor import timeout
from nimad.supervisor.timeout import Timeout

MB = 1_000_000


def test_before_anything_was_seen_the_slowest_card_is_assumed() -> None:
    assert Timeout().limit_s(0) == timeout.FLOOR_S
    assert Timeout().limit_s(60 * MB) == timeout.FLOOR_S + 60 * timeout.SLACK


def test_the_slowest_worker_so_far_sets_the_pace() -> None:
    patient = Timeout()
    patient.note(50 * MB, 1.0)
    patient.note(50 * MB, 10.0)
    patient.note(50 * MB, 2.0)
    assert patient.limit_s(50 * MB) == timeout.FLOOR_S + timeout.SLACK * 10


def test_a_worker_with_next_to_nothing_to_do_says_nothing_of_the_disk() -> None:
    patient = Timeout()
    patient.note(100, 5.0)
    assert patient.limit_s(50 * MB) == Timeout().limit_s(50 * MB)


def test_rows_on_trial_get_less_time_than_a_batch() -> None:
    assert Timeout().limit_s(0, trial=True) == timeout.TRIAL_FLOOR_S < timeout.FLOOR_S
