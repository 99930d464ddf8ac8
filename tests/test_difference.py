"""The difference of two models' alerts: matched by entity and overlap.

A   |-----|        |---|              |--|
B     |-----|                |---|    |--|
     moved         lost      added    same
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_app.alerts.alert import rfc3339
from stream_app.replay.difference import Difference, difference, write


def alert(start_s: float, end_s: float, entity: str = "e", **more: Any) -> dict[str, Any]:
    return {
        "alert_id": f"{entity}-{start_s}", "entity": entity, "data_start_time": rfc3339(round(start_s * 1e6)),
        "data_end_time": rfc3339(round(end_s * 1e6)), "anomaly_score": 2.0, "threshold": 1.0, "tail_probability": 1e-4,
        "reason": "tail", "sensors": [{"sensor": "a", "contribution": 1.0}], "opened": True,
    } | more  # fmt: skip


def kinds(found: Difference) -> list[tuple[str, ...]]:
    return [change.kinds for change in found.changes]


def test_alerts_are_added_lost_moved_or_the_same() -> None:
    a = [alert(0, 60), alert(200, 240), alert(600, 630)]
    b = [alert(20, 80), alert(400, 440), alert(600, 630)]
    found = difference(a, b)
    assert kinds(found) == [("moved",), ("lost",), ("added",), ("same",)]
    assert (found.changes[0].start_moved_s, found.changes[0].end_moved_s) == (20.0, 20.0)
    assert found.counts == {"a": 3, "b": 3, "added": 1, "lost": 1, "moved": 1, "changed": 0, "same": 1}


def test_an_alert_with_another_cause_or_strength_has_changed() -> None:
    cause = [{"sensor": "b", "contribution": 1.0}]
    assert kinds(difference([alert(0, 60)], [alert(0, 60, sensors=cause)])) == [("changed",)]
    assert kinds(difference([alert(0, 60)], [alert(0, 60, anomaly_score=2.3)])) == [("changed",)]
    assert kinds(difference([alert(0, 60)], [alert(0, 60, anomaly_score=20.0, threshold=10.0)])) == [("same",)]
    assert kinds(difference([alert(0, 60)], [alert(5, 60, sensors=cause)])) == [("moved", "changed")]


def test_the_longest_overlap_is_matched_and_what_touches_is_not() -> None:
    found = difference([alert(0, 100)], [alert(0, 10), alert(10, 100)])
    assert kinds(found) == [("added",), ("moved",)] or kinds(found) == [("moved",), ("added",)]
    assert [c.b.alert_id for c in found.changes if c.a and c.b] == ["e-10"]
    assert kinds(difference([alert(0, 10)], [alert(10, 20)])) == [("lost",), ("added",)]
    assert kinds(difference([alert(0, 10)], [alert(0, 10, entity="f")])) == [("lost",), ("added",)]


def test_alerts_of_tokens_that_share_one_time_are_matched() -> None:
    assert kinds(difference([alert(7, 7)], [alert(7, 7)])) == [("same",)]


spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60), st.sampled_from("ef")), max_size=8)


@given(spans, spans)
def test_swapping_the_sides_swaps_added_and_lost_and_nothing_is_counted_twice(a: Any, b: Any) -> None:
    ours, theirs = ([alert(s, s + n, e, alert_id=str(i)) for i, (s, n, e) in enumerate(side)] for side in (a, b))
    there, back = difference(ours, theirs), difference(theirs, ours)
    pairs = sum(1 for change in there.changes if change.a and change.b)
    assert pairs + there.counts["lost"] == len(ours)
    assert pairs + there.counts["added"] == len(theirs)
    assert there.counts["lost"] == len(ours) - pairs == back.counts["added"]
    assert kinds(difference(ours, ours)) == [("same",)] * len(ours)


def test_the_difference_is_written_as_json_and_parquet(tmp_path: Any) -> None:
    import json

    import pyarrow.parquet as pq

    found = difference([alert(0, 60), alert(200, 240)], [alert(20, 80, threshold=None)])
    write(found, tmp_path)
    assert json.loads((tmp_path / "diff.json").read_text())["counts"] == found.counts
    table = pq.read_table(tmp_path / "diff.parquet")
    assert table["kinds"].to_pylist() == [["moved"], ["lost"]]
    assert table["b_alert_id"].to_pylist() == ["e-20", None]
