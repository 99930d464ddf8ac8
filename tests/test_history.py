"""The state of any offset, from what workers wrote to a changelog: through crashes and swaps it is the one they had."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_history import Written, compacted, naive_past
from plain_detector import PlainDetector
from test_pipeline import NEXT, SHORT, START_MS, Kafka, Outcome, batch, exchange, spec

from models.detector import WindowSpec
from stream_app.checkpoint import Books, Checkpoint, Swap, metadata, read_books
from stream_app.pipeline import Pipeline
from stream_app.replay.history import Past
from stream_app.samples import RawBatch
from stream_app.stamps import Recovered, Stamp

WORDS = {"p": 0, "q": 1, "r": 2}
TOKENS = PlainDetector(windows=WindowSpec(length_tokens=6, stride_tokens=3), kind="tokens", vocabulary=WORDS)


@dataclass
class Logged(Kafka):
    """What Kafka would hold, the changelog as it was written."""

    log: list[Written] = field(default_factory=list)
    states: Recovered = field(default_factory=Recovered)
    writers: int = 0

    def start(self, detectors: dict) -> Pipeline:
        self.writers += 1
        self.states = Recovered()
        self.states.note([self.log[at].headers() for at in compacted(self.log, len(self.log))])
        return super().start(detectors)

    def start_again(self, pipeline: Pipeline) -> Pipeline:
        """The bundle that the commit names takes over, in the same worker."""
        self.writers += 1
        successor = Pipeline(spec(pipeline.spec.store, NEXT))
        successor.restore(self.committed, self.metadata)
        return successor

    def write(self, pipeline: Pipeline, point: Checkpoint, crash: str, written: int) -> bool:
        some = list(point.states.items())[: written if crash == "amid states" else None]
        self.log += [Written(key, state, self.stamp(point)) for key, state in some]
        before, crashed = self.committed, super().write(pipeline, point, crash, written)
        assert before <= self.committed
        if not crashed:
            self.log += [Written(key, None, self.stamp(point)) for key in point.ended]
        return crashed

    def stamp(self, point: Checkpoint) -> Stamp:
        """As `stream_app.live.saving` makes it."""
        made = Stamp.made(point.metadata, (self.committed, self.metadata), self.writers.to_bytes(8))
        self.states.reach = max(self.states.reach, made.reach)
        return replace(made, reach=self.states.reach)


def as_batch(log: list[Written], offsets: list[int]) -> RawBatch:
    some = [log[at] for at in offsets]
    keys, values, headers = ([f(one) for one in some] for f in (lambda o: o.key, lambda o: o.value, Written.headers))
    return RawBatch("c", 0, keys, values, np.array(offsets, np.int64), np.array(offsets, np.int64) * 1000, headers)


def past_of(log: list[Written], begin: int, data: st.DataObject, offsets: list[int] | None = None) -> Past:
    """Read in batches of any size; offsets: those that compaction has left."""
    past, at = Past(begin), 0
    offsets = list(range(len(log))) if offsets is None else offsets
    while at < len(offsets):
        n = data.draw(st.integers(1, 7))
        if not past.take(as_batch(log, offsets[at : at + n])):
            break
        at += n
    return past


def said(records: list, pipeline: Pipeline, cuts: tuple[int, int], outcome: Outcome, begin: int) -> None:
    """Takes the records between two offsets; what is said of those from `begin` on is told."""
    first, end = cuts
    for a, b in ((first, max(first, min(begin, end))), (max(first, min(begin, end)), end)):
        part = batch(records[a:b], a)
        (outcome if a >= begin else Outcome()).take(pipeline.step(part), part.offsets)


def replayed(records: list, begin: int, past: Past, swap: int | None, old: PlainDetector) -> Outcome:
    """As `stream_app.replay.parts` does it: from the states, by the bundle of then, handed over where live was."""
    assert past.last is not None
    outcome, n = Outcome(), len(records)
    taken_over = swap is not None and swap <= past.reach
    pipeline = Pipeline(spec(past.states, NEXT if taken_over else old))
    pipeline.restore(past.last.committed, metadata(Books(clock_us=past.last.clock_us)))
    at = past.last.committed
    if swap is not None and not taken_over:
        said(records, pipeline, (at, swap), outcome, begin)
        last = pipeline.checkpoint(told(swap))
        pipeline.committed(last)
        pipeline = Pipeline(spec(pipeline.spec.store, NEXT))
        pipeline.restore(last.offset, last.metadata)
        said(records, pipeline, (last.offset, swap), Outcome(), n)
        at = swap
    said(records, pipeline, (at, n), outcome, begin)
    outcome.take(pipeline.finish(), np.empty(0, np.int64))
    return outcome


def undisturbed(records: list, begin: int, swap: int | None, old: PlainDetector) -> Outcome:
    """By one pipeline that reads everything, and whose judges are exchanged in place."""
    pipeline, outcome, n = Pipeline(spec(detector=old)), Outcome(), len(records)
    said(records, pipeline, (0, n if swap is None else swap), outcome, begin)
    if swap is not None:
        exchange(pipeline)
        said(records, pipeline, (swap, n), outcome, begin)
    outcome.take(pipeline.finish(), np.empty(0, np.int64))
    return outcome


def told(swap: int) -> Swap:
    return Swap(NEXT.digest, 2, swap, 0, SHORT.digest)


def stream(rng: np.random.Generator, kind: str) -> list:
    """Three entities, a window closed by most records, some ends and some bursts."""
    records, clock = list[Any](), 0.0
    for _ in range(80):
        clock += float(rng.choice([0.5, 1.0, 2.0]))
        key, level = str(rng.choice(list("xxxyyz"))), float(rng.choice([0.0, 0.1, 0.2, 9.0]))
        value = {"sensor": str(rng.choice(["a", "b"])), "t": START_MS + int(clock * 1000), "value": level}
        if kind == "tokens":
            value = {"t": value["t"], "tokens": rng.choice(list(WORDS), rng.integers(1, 4)).tolist()}
        records.append((key, None if rng.random() < 0.04 else value, clock))
    return records


def lived(records: list, rng: np.random.Generator, old: PlainDetector) -> tuple[Logged, int | None]:
    """Workers that crash anywhere, one after the other; where another bundle took over, if one did."""
    kafka, n = Logged(), len(records)
    wish = int(rng.integers(0, n)) if old is SHORT and rng.random() < 0.7 else None
    for _ in range(int(rng.integers(1, 6))):
        pipeline = kafka.start({old.digest: old, NEXT.digest: NEXT})
        at = kafka.committed
        to_swap = wish is not None and pipeline.spec.bundle == old.digest and at <= wish
        end = wish if to_swap and wish is not None else n
        while True:
            upto = min(end, at + int(rng.integers(1, 12)))
            pipeline.step(batch(records[at:upto], at))
            at = upto
            crash = str(rng.choice(["no"] * 9 + ["amid states", "before commit", "before deletes"]))
            swap = told(end) if to_swap and at == end else None
            if kafka.checkpoint(pipeline, crash, int(rng.integers(0, 4)), swap) or at == n or rng.random() < 0.05:
                break
            if swap is not None:
                pipeline, to_swap, end, at = kafka.start_again(pipeline), False, n, kafka.committed
    books = read_books(kafka.metadata)
    return kafka, wish if books is not None and books.successor == NEXT.digest else None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([SHORT, SHORT, TOKENS]), st.integers(0, 2**32), st.data())
def test_replay_law_the_changelog_gives_the_state_of_any_offset(
    old: PlainDetector, seed: int, data: st.DataObject
) -> None:
    """Crashes anywhere, a swap at any offset, any beginning of the range, and compaction up to where it may go."""
    rng = np.random.default_rng(seed)
    records = stream(rng, old.kind)
    kafka, swap = lived(records, rng, old)
    begin = data.draw(st.integers(0, len(records)))
    cleaned = data.draw(st.integers(0, len(kafka.log)))
    swapped = data.draw(st.one_of(st.just(cleaned), st.integers(0, cleaned)))
    past = past_of(kafka.log, begin, data, compacted(kafka.log, cleaned, swapped))
    beyond = len(kafka.log) if past.beyond_us is None else past.beyond_us // 1000
    if past.last is None or not (past.whole or cleaned <= beyond or not past.missed):
        return
    assert not past.doubtful
    expected = undisturbed(records, begin, swap, old)
    assert expected.scores or begin > len(records) // 2
    assert replayed(records, begin, past, swap, old) == expected


RECORDS = st.lists(
    st.builds(
        lambda key, value, reach, writer: Written(key, value, Stamp(reach, 0, 0, 0, writer)),
        st.sampled_from([b"x", b"y", b"z"]),
        st.one_of(st.none(), st.binary(min_size=1, max_size=1)),
        st.integers(0, 9),
        st.sampled_from([b"worker-1", b"worker-2", b"worker-3"]),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(RECORDS, st.integers(0, 9), st.data())
def test_the_states_of_then_are_the_newest_of_each_session_however_records_are_read(
    log: list[Written], begin: int, data: st.DataObject
) -> None:
    past = past_of(log, begin, data)
    assert (past.states, past.doubtful) == naive_past(log, begin)
    assert past.whole


def test_a_missing_record_is_noticed_and_one_without_a_stamp_ends_what_is_known() -> None:
    log = [Written(b"x", bytes([i]), Stamp(i, 0, 0, 0, b"worker-1")) for i in range(5)]
    past = Past(3)
    past.take(as_batch(log, [0, 1, 3, 4]))
    assert not past.whole
    past = Past(9)
    some = as_batch(log, [0, 1])
    assert not past.take(replace(some, headers=[some.headers[0], ()]))
    assert past.unstamped
    assert past.states == {b"x": bytes([0])}
