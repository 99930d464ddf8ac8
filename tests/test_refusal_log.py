"""What the worker's log says of dead letters: the first of each reason at once, the rest by number."""

from __future__ import annotations

from structlog.testing import capture_logs

from stream_app.live.refusal_log import RefusalLog


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_of_dead_letters_makes_a_line_for_the_first_and_one_a_minute() -> None:
    clock = _Clock()
    with capture_logs() as lines:
        refusals = RefusalLog(clock)
        for _ in range(1_000):
            refusals.note("pump-samples-dlt", "time_ahead", "an hour ahead")
            clock.now += 0.125
    told = [(line["log_level"], line["reason"], line["letters"]) for line in lines]
    assert told == [("warning", "time_ahead", n) for n in (1, 480, 480)]


def test_each_reason_is_told_of_at_once_and_what_is_left_at_the_end() -> None:
    clock = _Clock()
    with capture_logs() as lines:
        refusals = RefusalLog(clock)
        for reason in ("not_json", "time_ahead", "not_json", "not_json"):
            refusals.note("pump-samples-dlt", reason, f"{reason}, as an example")
        refusals.close()
        refusals.close()
    told = [(line["reason"], line["letters"]) for line in lines]
    assert told == [("not_json", 1), ("time_ahead", 1), ("not_json", 2)]
    assert lines[-1]["last"] == "not_json, as an example"
    assert lines[-1]["topic"] == "pump-samples-dlt"
