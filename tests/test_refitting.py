"""When a refit begins by itself, and when what came of it goes live: decided without a clock of its own."""

from __future__ import annotations

from typing import Any

from stream_app.model_store.history import Entry, History
from stream_app.model_store.pointers import Pointer, Transition
from stream_app.model_store.refitting import Decide, DoRefit, Drifted, Patience, Wait, next_step

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PATIENCE = Patience(settle=100, at_most=1000, promote_after=50)


def pointer(version: int, digest: str, *moves: tuple[str, int], reason: str | None = None) -> Pointer:
    history = tuple(Transition(state, at, reason if i == 0 else None) for i, (state, at) in enumerate(moves))  # type: ignore[arg-type]
    fixed: dict[str, Any] = {"detector": "pump", "version": version, "digest": digest, "location": "x", "bytes": 1}
    return Pointer(v=1, **fixed, lineage={}, state=history[-1].state, history=history)


def history(*pointers: Pointer) -> History:
    return History({str(p.version): Entry(i, p) for i, p in enumerate(pointers)})


LIVE = pointer(1, OLD, ("candidate", 0), ("live", 10))


def test_without_drift_nothing_happens() -> None:
    assert isinstance(next_step(history(LIVE), "pump", [], PATIENCE, 5000), Wait)
    assert isinstance(next_step(history(), "pump", [Drifted(OLD, 20)], PATIENCE, 5000), Wait)


def test_the_drift_of_another_bundle_is_not_ours() -> None:
    assert isinstance(next_step(history(LIVE), "pump", [Drifted(NEW, 20)], PATIENCE, 5000), Wait)


def test_after_the_first_event_the_new_normal_is_collected_and_then_learned() -> None:
    events = [Drifted(OLD, 20), Drifted(OLD, 90)]
    assert isinstance(next_step(history(LIVE), "pump", events, PATIENCE, 119), Wait)
    assert next_step(history(LIVE), "pump", events, PATIENCE, 120) == DoRefit(20)


def test_refits_do_not_follow_one_another_too_closely() -> None:
    ours = pointer(2, NEW, ("candidate", 500), reason="refit on drift")
    events = [Drifted(OLD, 20), Drifted(OLD, 600)]
    assert isinstance(next_step(history(LIVE, ours), "pump", events[:1], PATIENCE, 9000), Wait)
    assert isinstance(next_step(history(LIVE, ours), "pump", events, PATIENCE, 1499), Wait)
    assert next_step(history(LIVE, ours), "pump", events, PATIENCE, 1500) == DoRefit(600)


def test_a_shadow_of_ours_is_decided_on_when_its_time_has_come() -> None:
    ours = pointer(2, NEW, ("candidate", 500), ("shadow", 510), reason="refit on drift of pump@1")
    events = [Drifted(OLD, 20)]
    assert isinstance(next_step(history(LIVE, ours), "pump", events, PATIENCE, 559), Wait)
    assert next_step(history(LIVE, ours), "pump", events, PATIENCE, 560) == Decide(ours, 510)


def test_a_shadow_that_a_person_began_is_left_to_that_person() -> None:
    theirs = pointer(2, NEW, ("candidate", 500), ("shadow", 510), reason="looks better")
    assert next_step(history(LIVE, theirs), "pump", [Drifted(OLD, 600)], PATIENCE, 9000) == DoRefit(600)
