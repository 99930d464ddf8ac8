"""Traces: alerts go on with the trace of their last record, after restarts too; streams without traces keep nothing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from live import trace
from test_pipeline import batch, normal, spec

from stream_app.alerts.alert import Alert
from stream_app.live.traces import BYTES_MAX, KEPT, Traces
from stream_app.pipeline import Pipeline
from stream_app.samples import Headers, RawBatch

N = 1_500
RECORDS = normal(N)
for _k in range(1_000, 1_020):
    RECORDS[_k] = ("x", RECORDS[_k][1] | {"value": 6.0}, RECORDS[_k][2])


def traced(first: int, until: int) -> RawBatch:
    return replace(batch(RECORDS[first:until], first), headers=[trace(i) for i in range(first, until)])


def said(cuts: list[int]) -> list[tuple[Alert, Headers]]:
    """What a pipeline says, and what its worker adds; at each cut both begin anew from the last checkpoint."""
    store: dict[bytes, bytes] = {}
    found: list[tuple[Alert, Headers]] = []
    point = None
    for until in [*cuts, N]:
        pipeline, traces = Pipeline(spec(store)), Traces()
        pipeline.restore(point.offset if point else 0, point.metadata if point else "")
        records = traced(point.offset if point else 0, until)
        traces.note(records)
        found += [(alert, traces.of(alert)) for alert in pipeline.step(records).alerts]
        point = pipeline.checkpoint()
        traces.forget(point.offset)
        assert len(traces) == until - point.offset, "what lies below the commit is forgotten"
    return found


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, N - 1), max_size=5, unique=True))
def test_an_alert_has_the_trace_of_its_last_record_however_often_its_worker_restarts(cuts: list[int]) -> None:
    found = said(sorted(cuts))
    assert {alert.status for alert, _ in found} >= {"open", "closed"}
    for alert, headers in found:
        assert list(headers) == trace(alert.inputs[0].last_offset)


def test_without_traces_nothing_is_kept() -> None:
    traces = Traces()
    traces.note(batch(RECORDS, 0))
    assert not len(traces)
    assert not traces.of(said([])[0][0])


def test_what_is_kept_has_a_bound() -> None:
    traces, n = Traces(), KEPT + 7
    records = batch(RECORDS[:1] * n, 0)
    traces.note(replace(records, headers=[trace(0)] * n))
    assert len(traces) == KEPT
    traces.forget(n - 1)
    assert len(traces) == 1


def test_only_what_can_be_a_trace_context_is_passed_on() -> None:
    (parent, state), traces = trace(0), Traces()
    large = ("tracestate", b"x" * (BYTES_MAX + 1))
    given = [[state], [parent, large, ("other", b"1")], [("traceparent", None)], [state, parent]]
    traces.note(replace(batch(RECORDS[:4], 0), headers=given))
    alert = said([])[0][0]
    at = [replace(alert, inputs=(replace(alert.inputs[0], last_offset=i),)) for i in range(4)]
    assert [list(traces.of(one)) for one in at] == [[], [parent], [], [parent, state]]
