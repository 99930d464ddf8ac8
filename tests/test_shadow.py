"""A shadow judges what the live bundle judges and changes nothing that counts; what it learned goes live with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_detector import PlainDetector
from test_pipeline import NEXT, SHORT, Outcome, batch, normal, spec, streams

from models.scenes import Scenes
from stream_app import shadow as shadow_module
from stream_app.checkpoint import Swap, read_books
from stream_app.judging import OWN_STAGES
from stream_app.pipeline import Pipeline
from stream_app.shadow import Agreement
from stream_app.translation import UNKNOWN_TOKEN, Translation


def shadowed(store: dict[bytes, bytes] | None = None, candidate: PlainDetector = NEXT, **shadow: float) -> Pipeline:
    of = spec(store)
    if shadow:
        of = replace(of, config=of.config.model_copy(update={"shadow": of.config.shadow.model_copy(update=shadow)}))
    return Pipeline(replace(of, shadow=replace(of, detector=candidate)))


def drained(pipeline: Pipeline, outcome: Outcome | None = None) -> Agreement:
    """Lets the shadow do all that waits."""
    assert pipeline.shadow is not None
    total, outcome = Agreement(), outcome or Outcome()
    while (done := pipeline.shadow.work()) is not None:
        outcome.take(done[0], np.empty(0, np.int64))
        total += done[1]
    return total


@settings(max_examples=50, deadline=None)
@given(streams(), st.data())
def test_promoted_the_shadow_goes_on_as_if_it_had_been_live_all_along(records: list, data: st.DataObject) -> None:
    """However it fell behind in between: what it says of each window before and after, thresholds and all."""
    at, store = data.draw(st.integers(0, len(records))), dict[bytes, bytes]()
    cuts = [*sorted(data.draw(st.sets(st.integers(0, at), max_size=6))), at]
    pipeline, said, live = shadowed(store), Outcome(), Outcome()
    for a, b in zip([0, *cuts], cuts, strict=False):
        part = batch(records[a:b], a)
        live.take(pipeline.step(part), part.offsets)
        if data.draw(st.booleans()):
            drained(pipeline, said)
        if data.draw(st.booleans()):
            pipeline.committed(pipeline.checkpoint())
    drained(pipeline, said)
    point = pipeline.checkpoint(Swap(NEXT.digest, 2, at, 0))
    promoted = Pipeline(spec(store, NEXT))
    promoted.restore(point.offset, point.metadata)
    part = batch(records[point.offset :], point.offset)
    said.take(promoted.step(part), part.offsets)
    said.take(promoted.finish(), part.offsets)
    always = Pipeline(spec(detector=NEXT))
    everything, undisturbed = batch(records, 0), Outcome()
    undisturbed.take(always.step(everything), everything.offsets)
    undisturbed.take(always.finish(), everything.offsets)
    assert said.scores == undisturbed.scores
    for key in (b"x", b"y", b"z"):
        if key in always.keys and key in promoted.keys:
            a, b = int(always.keys.slots([key])[0]), int(promoted.keys.slots([key])[0])
            for stage in OWN_STAGES:
                assert promoted.keys[stage][b].tobytes() == always.keys[stage][a].tobytes(), stage


@settings(max_examples=30, deadline=None)
@given(streams())
def test_the_live_bundle_says_the_same_with_a_shadow_and_without(records: list) -> None:
    part, alone, beside = batch(records, 0), Outcome(), Outcome()
    alone.take(Pipeline(spec()).step(part), part.offsets)
    pipeline = shadowed()
    beside.take(pipeline.step(part), part.offsets)
    assert beside == alone


def test_a_shadow_of_the_live_bundle_itself_agrees_with_it() -> None:
    pipeline, records = shadowed(candidate=replace(SHORT, digest="plain-3")), normal(2000)
    records[1700:1740] = [(k, {**v, "value": 9.0}, c) for k, v, c in records[1700:1740]]
    result = pipeline.step(batch(records, 0))
    total = drained(pipeline)
    assert result.windows is not None
    assert total.windows == total.alike == len(result.windows.entities)
    assert total.live_alarms == total.shadow_alarms == int(result.windows.judged.alarm.sum()) > 0
    assert total.live_episodes == total.shadow_episodes > 0
    assert total.promised == total.windows * SHORT.risk


def test_windows_that_the_shadow_can_not_score_are_counted_and_compared_with_nothing() -> None:
    pipeline, records = shadowed(candidate=replace(NEXT, fail_above=5.0)), normal(2000)
    records[1700:1740] = [(k, {**v, "value": 9.0}, c) for k, v, c in records[1700:1740]]
    result = pipeline.step(batch(records, 0))
    total = drained(pipeline)
    assert result.windows is not None
    assert total.refused > 0
    assert total.windows + total.refused == len(result.windows.entities)


def test_a_full_queue_passes_batches_over_and_counts_them(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(shadow_module, "QUEUE_WINDOWS", 100)
    pipeline, records, n = shadowed(), normal(1500), 0
    for a in range(0, 1500, 50):
        result = pipeline.step(batch(records[a : a + 50], a))
        n += len(result.windows.entities) if result.windows else 0
    assert pipeline.shadow is not None
    assert pipeline.shadow.waiting <= 100
    total = drained(pipeline)
    assert 0 < total.windows <= 100
    assert total.windows + total.skipped == n


@pytest.mark.parametrize("up_to_date", [True, False])
def test_a_crash_costs_a_shadow_the_windows_that_waited_at_the_last_checkpoint_and_no_others(up_to_date: bool) -> None:
    store, records = dict[bytes, bytes](), normal(900)
    pipeline, said = shadowed(store), Outcome()
    pipeline.step(batch(records[:600], 0))
    if up_to_date:
        drained(pipeline, said)
    assert pipeline.shadow is not None
    waiting = pipeline.shadow.waiting
    point = pipeline.checkpoint()
    pipeline.step(batch(records[600:700], 600))
    drained(pipeline)  # and a crash: of this nothing is left
    again = shadowed(store)
    again.restore(point.offset, point.metadata)
    again.step(batch(records[point.offset :], point.offset))
    drained(again, said)
    always, all_said = Pipeline(spec(detector=NEXT)), Outcome()
    all_said.take(always.step(batch(records, 0)), np.empty(0, np.int64))
    books = read_books(point.metadata)
    assert books is not None
    assert books.missed == waiting == len(all_said.scores) - len(said.scores)
    assert (waiting == 0) == up_to_date == (said.scores == all_said.scores)


def test_the_share_is_of_entities_and_the_same_after_a_restart() -> None:
    records = [r for e in range(40) for r in normal(30, f"e{e}")]
    seen = []
    for _ in range(2):
        pipeline, outcome = shadowed(share=0.5), Outcome()
        pipeline.step(batch(records, 0))
        drained(pipeline, outcome)
        seen.append({entity for entity, *_ in outcome.scores})
    assert seen[0] == seen[1]
    assert 8 <= len(seen[0]) <= 32


def scenes(sensor: list[int], t: list[int], value: list[float]) -> Scenes:
    """Two windows of one entity: the first three samples, and the rest."""
    one, n = np.array([0, 0]), len(t)
    spans = np.array([0, 3]), np.array([3, n])
    return Scenes(
        one.astype(np.int32), one, one, one, *spans, one, one, one > 0,
        np.array(sensor, np.int32), np.array(t, np.int64), np.array(value),
    )  # fmt: skip


def test_sensors_are_matched_by_name_and_those_unknown_left_out() -> None:
    live, other = PlainDetector(sensors=("a", "b", "c")), PlainDetector(sensors=("d", "c", "a"))
    found, at = Translation(live, other, {}).of(scenes([0, 1, 2, 1, 1], [5, 5, 5, 6, 7], [1.0, 2.0, 3.0, 4.0, 5.0]))
    assert at.tolist() == [0], "a window of b alone holds nothing that the other knows"
    assert (found.sensor.tolist(), found.value.tolist()) == ([1, 2], [3.0, 1.0]), "one time, by sensor"
    assert (found.first.tolist(), found.last.tolist()) == ([0], [2])


def test_tokens_are_matched_by_text_also_those_learnt_later() -> None:
    words = {"x": 0, "y": 1}
    live = PlainDetector(sensors=("token",), kind="tokens", vocabulary=dict(words))
    other = replace(live, vocabulary={"y": 0, "z": 1})
    translation = Translation(live, other, words)
    first, _ = translation.of(scenes([0] * 4, [0, 1, 2, 3], [0.0, 1.0, 1.0, 9.0]))
    assert first.value.tolist() == [UNKNOWN_TOKEN, 0, 0, UNKNOWN_TOKEN]
    words["z"] = 2
    later, _ = translation.of(scenes([0] * 4, [0, 1, 2, 3], [2.0, 1.0, 2.0, 0.0]))
    assert later.value.tolist() == [1, 0, 1, UNKNOWN_TOKEN]
