"""The laws of the whole path, on the code that runs live: replay equals live, nothing lost, restarts change nothing."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_detector import PlainDetector

from models.detector import WindowSpec
from stream_app.checkpoint import Checkpoint, Swap, read_books
from stream_app.config import Alarms, parse
from stream_app.judging import OWN_STAGES, Judging, layouts
from stream_app.pipeline import Pipeline, PipelineSpec, Result
from stream_app.samples import RawBatch

START_MS = 1_700_000_000_000
CONFIG = parse({"detector": "law", "sources": [{"topic": "s"}], "windows": {"lateness": "2s", "idle": "40s"}})
LAW = CONFIG.model_copy(update={"alarms": Alarms(also=("silence",))})
SHORT = PlainDetector(windows=WindowSpec(length_us=6_000_000, stride_us=2_000_000))
FAILING = replace(SHORT, fail_above=0.3, nan_above=0.05)  # on some windows
NEXT = replace(SHORT, digest="plain-2", gain=3.0)


@dataclass
class Outcome:
    """What a consumer sees: alerts by id, scores by entity and window; and what the books say."""

    messages: set[bytes] = field(default_factory=set)  # each body ever sent
    alerts: dict[str, bytes] = field(default_factory=dict)  # after compaction by id
    scores: set[tuple[str, int, float, str]] = field(default_factory=set)  # a window that sessions share is there twice
    drifts: set[tuple[str, str, str]] = field(default_factory=set)
    letters: set[tuple[int, str]] = field(default_factory=set)

    def take(self, result: Result, offsets: np.ndarray) -> None:
        for alert in result.alerts:
            body = json.dumps(msgspec.to_builtins(alert) | {"published_at": None}).encode()
            self.messages.add(body)
            self.alerts[alert.alert_id] = body
        self.drifts |= {(e.entity, e.at, e.method) for e in result.drift if e.entity}
        self.letters |= {(int(offsets[d.index]), d.reason) for d in result.dead_letters}
        if result.windows:
            w = result.windows
            rounded = np.round(w.scored.score, 9).tolist()
            bundle = [w.speaker.bundle] * len(rounded)
            self.scores |= set(zip(w.entities, w.scenes.start_us.tolist(), rounded, bundle, strict=True))


def batch(records: list[tuple[str | None, object, float]], first: int) -> RawBatch:
    """Records (key, value, clock in seconds) at offsets from `first` on. A value is JSON, raw bytes or None."""

    def encoded(value: object) -> bytes | None:
        return value if value is None or isinstance(value, bytes) else json.dumps(value).encode()

    n = len(records)
    return RawBatch(
        "s",
        0,
        [None if k is None else k.encode() for k, _, _ in records],
        [encoded(v) for _, v, _ in records],
        np.arange(first, first + n),
        np.array([START_MS * 1000 + int(c * 1e6) for _, _, c in records], np.int64),
        [()] * n,
    )


def spec(store: dict[bytes, bytes] | None = None, detector: PlainDetector = SHORT) -> PipelineSpec:
    return PipelineSpec(LAW, detector, "s", 0, {} if store is None else store)


def run(records: list, cuts: list[int], detector: PlainDetector = SHORT) -> tuple[Outcome, Pipeline]:
    pipeline, outcome = Pipeline(spec(detector=detector)), Outcome()
    for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True):
        part = batch(records[a:b], a)
        outcome.take(pipeline.step(part), part.offsets)
    outcome.take(pipeline.finish(), np.empty(0, np.int64))  # what is a duplicate is known when its windows close
    return outcome, pipeline


@st.composite
def streams(draw: st.DrawFn) -> list:
    """Records of three entities in rough order of time: bursts, silence, late and repeated samples, ends, rubbish."""
    clock, records = 0.0, []
    for _ in range(draw(st.integers(1, 60))):
        clock += draw(st.sampled_from([0.0, 0.5, 0.5, 1.0, 3.0, 45.0]))
        key = draw(st.sampled_from(["x", "x", "y", "z"]))
        behind = draw(st.sampled_from([0, 0, 0, 0.5, 3, 20]))
        kind = draw(st.sampled_from(["one", "one", "one", "chunk", "many", "end", "rubbish", "null"]))
        t = START_MS + int((clock - behind) * 1000)
        level = draw(st.sampled_from([0.0, 0.1, 0.2, 9.0]))
        value = {
            "one": {"sensor": draw(st.sampled_from("ab")), "t": t, "value": level},
            "chunk": {"sensor": "a", "t": t, "rate_hz": 2, "values": [level, None, level + 0.1, level]},
            "many": {"t": t, "values": {"a": level, "b": -level}},
            "null": {"sensor": "b", "t": t, "value": None},
            "rubbish": draw(st.sampled_from([b"{", b"", {"sensor": "a"}, {"sensor": "q", "t": t, "value": 1.0}])),
            "end": None,
        }[kind]
        records.append((key, value, clock))
    return records


@settings(max_examples=150, deadline=None)
@given(streams(), st.data())
def test_replay_law_alerts_scores_and_counts_do_not_depend_on_batches(records: list, data: st.DataObject) -> None:
    detector = data.draw(st.sampled_from([SHORT, FAILING]))
    whole, pipeline = run(records, [], detector)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(records) - 1)))))
    parts, other = run(records, [c for c in cuts if c < len(records)], detector)
    assert parts == whole
    assert other.accounting() == pipeline.accounting()


@dataclass
class Kafka:
    """What Kafka would hold: the changelog, and the group's commit."""

    changelog: dict[bytes, bytes] = field(default_factory=dict)
    committed: int = 0
    metadata: str = ""

    def start(self, detectors: dict[str, PlainDetector]) -> Pipeline:
        """A pipeline as a worker makes it, with the bundle that the commit names."""
        books = read_books(self.metadata)
        pipeline = Pipeline(spec(dict(self.changelog), detectors[books.successor if books else SHORT.digest]))
        pipeline.restore(self.committed, self.metadata)
        return pipeline

    def checkpoint(self, pipeline: Pipeline, crash: str, written: int, swap: Swap | None = None) -> bool:
        """The steps, up to where the crash comes; gives whether it came."""
        return self.write(pipeline, pipeline.checkpoint(swap), crash, written)

    def write(self, pipeline: Pipeline, point: Checkpoint, crash: str, written: int) -> bool:
        """As `checkpoint`, of states that were taken some batches ago."""
        self.changelog.update(list(point.states.items())[: written if crash == "amid states" else None])
        if crash in ("amid states", "before commit"):
            return True
        self.committed, self.metadata = point.offset, point.metadata
        if crash == "before deletes":
            return True
        for name in point.ended:
            self.changelog.pop(name, None)
        pipeline.committed(point)
        return False


CRASHES = st.sampled_from(["no", "no", "amid states", "before commit", "before deletes"])


def unsteady(records: list, at: int, end: int, outcome: Outcome, run: tuple[Kafka, Pipeline, st.DataObject]) -> bool:
    """Takes some batches from `at` up to `end`, with checkpoints, until there are no more or a crash comes."""
    kafka, pipeline, data = run
    for _ in range(data.draw(st.integers(0, 6))):
        taken = pipeline.checkpoint() if data.draw(st.booleans()) else None  # written while the next batch is worked on
        upto = min(end, at + data.draw(st.integers(1, 15)))
        part = batch(records[at:upto], at)
        outcome.take(pipeline.step(part), part.offsets)
        at = upto
        if taken is not None and kafka.write(pipeline, taken, data.draw(CRASHES), data.draw(st.integers(0, 5))):
            return False
        if data.draw(st.booleans()) and kafka.checkpoint(pipeline, data.draw(CRASHES), data.draw(st.integers(0, 5))):
            return False
    return at == end


def finish(records: list, outcome: Outcome, pipeline: Pipeline, committed: int) -> None:
    part = batch(records[committed:], committed)
    outcome.take(pipeline.step(part), part.offsets)
    outcome.take(pipeline.finish(), part.offsets)


@settings(max_examples=150, deadline=None)
@given(streams(), st.data())
def test_replay_law_a_crash_anywhere_changes_neither_alerts_nor_counts(records: list, data: st.DataObject) -> None:
    """A crash before, amid or after any step of a checkpoint; then a start from what Kafka would hold."""
    whole, undisturbed = run(records, [])
    outcome, kafka = Outcome(), Kafka()
    for _ in range(data.draw(st.integers(1, 4))):
        unsteady(records, kafka.committed, len(records), outcome, (kafka, kafka.start({SHORT.digest: SHORT}), data))
    final = kafka.start({SHORT.digest: SHORT})
    finish(records, outcome, final, kafka.committed)
    assert outcome == whole
    assert final.accounting() == undisturbed.accounting()


def swapped_in_place(records: list, at: int) -> tuple[Outcome, Pipeline]:
    """The slow, obvious twin of a swap: one pipeline whose judges, and what they had learned, are exchanged at once."""
    pipeline, outcome = Pipeline(spec()), Outcome()
    part = batch(records[:at], 0)
    outcome.take(pipeline.step(part), part.offsets)
    exchange(pipeline)
    finish(records, outcome, pipeline, at)
    return outcome, pipeline


def exchange(pipeline: Pipeline) -> None:
    pipeline.judges = Judging(spec(detector=NEXT), pipeline.keys)
    for stage in OWN_STAGES:
        row = layouts(spec(detector=NEXT))[stage]
        pipeline.keys[stage][:] = pipeline.keys._initial[stage] = row


@settings(max_examples=100, deadline=None)
@given(streams(), st.data())
def test_replay_law_a_swap_divides_the_windows_at_its_offset_wherever_crashes_fall(
    records: list, data: st.DataObject
) -> None:
    """Windows that close before P are scored by the old bundle, those from P on by the new one, none twice or never."""
    at = data.draw(st.integers(0, len(records)))
    whole, undisturbed = swapped_in_place(records, at)
    outcome, kafka, bundles = Outcome(), Kafka(), {SHORT.digest: SHORT, NEXT.digest: NEXT}
    while True:  # until the swap is committed, at P
        pipeline = kafka.start(bundles)
        reached = kafka.committed
        if unsteady(records, reached, at, outcome, (kafka, pipeline, data)) or data.draw(st.booleans()):
            rest = batch(records[pipeline.next_offset : at], pipeline.next_offset)
            outcome.take(pipeline.step(rest), rest.offsets)
            swap = Swap(NEXT.digest, 2, at, 0, SHORT.digest)
            kafka.checkpoint(pipeline, data.draw(CRASHES), data.draw(st.integers(0, 5)), swap)
            if read_books(kafka.metadata) and read_books(kafka.metadata).swap == swap:  # type: ignore[union-attr]
                break
    for _ in range(data.draw(st.integers(0, 3))):
        unsteady(records, kafka.committed, len(records), outcome, (kafka, kafka.start(bundles), data))
    final = kafka.start(bundles)
    assert final.spec.bundle == NEXT.digest
    finish(records, outcome, final, kafka.committed)
    assert outcome == whole
    assert final.accounting() == undisturbed.accounting()


def normal(n: int, entity: str = "x", level: float = 0.0, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [
        (entity, {"sensor": "a", "t": START_MS + i * 500, "value": level + float(rng.normal(0, 0.1))}, i / 2)
        for i in range(n)
    ]


def test_a_window_that_makes_the_detector_fail_is_refused_and_the_next_is_scored() -> None:
    records = normal(400)
    records[200] = ("x", {"sensor": "a", "t": START_MS + 200 * 500, "value": 1e6}, 100.0)
    outcome, pipeline = run(records, [150, 199, 201, 300], PlainDetector(windows=SHORT.windows, fail_above=1e3))
    clean, _ = run(normal(400), [])
    missing = {start for _, start, *_ in clean.scores} - {start for _, start, *_ in outcome.scores}
    assert missing == set(range(START_MS * 1000 + 96_000_000, START_MS * 1000 + 102_000_000, 2_000_000))
    assert pipeline.accounting().dead_lettered == 0, "samples of a refused window are accounted where they belong"


def test_a_score_that_is_not_a_number_touches_neither_threshold_nor_drift() -> None:
    records = normal(400)
    records[200] = ("x", {"sensor": "a", "t": START_MS + 200 * 500, "value": 1e6}, 100.0)
    _, pipeline = run(records, [], PlainDetector(windows=SHORT.windows, nan_above=1e3))
    slot = int(pipeline.keys.slots([b"x"])[0])
    assert np.isfinite(pipeline.keys["scoring"]["mean"][slot])
    assert np.isfinite([pipeline.keys["threshold"][name][slot] for name in ("level", "scale")]).all()


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back and forth between any two looks at it: event time is the records' alone."""
    records = normal(1_600)
    for k in range(1_400, 1_420):
        records[k] = ("x", {"sensor": "a", "t": START_MS + k * 500, "value": 9.0}, k / 2)
    steady, pipeline = run(records, [400, 800, 1_200])
    assert steady.alerts
    hours = itertools.cycle([0.0, -3_600.0, 3_600.0])
    real_s, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real_s() + next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(next(hours) * 1e9))
    jumping, other = run(records, [400, 800, 1_200])
    assert jumping == steady
    assert other.accounting() == pipeline.accounting()


def test_quiet_entities_leave_memory_and_come_back_as_they_were() -> None:
    """x is silent for longer than `idle` while y goes on, and speaks again: its state is as if it had stayed."""
    quiet = normal(100) + [
        ("y", {"sensor": "a", "t": START_MS + 50_000 + i * 500, "value": 0.0}, 50 + i / 2) for i in range(400)
    ]
    again = [("x", {"sensor": "a", "t": START_MS + 260_000 + i * 500, "value": 0.1}, 260 + i / 2) for i in range(50)]
    whole, _ = run(quiet + again, [])
    pipeline, outcome = Pipeline(spec()), Outcome()
    for a in range(0, 500, 20):
        part = batch(quiet[a : a + 20], a)
        outcome.take(pipeline.step(part), part.offsets)
        point = pipeline.checkpoint()
        pipeline.committed(point)
    assert b"x" not in pipeline.keys
    part = batch(again, 500)
    outcome.take(pipeline.step(part), part.offsets)
    outcome.take(pipeline.finish(), part.offsets)
    assert outcome == whole
