"""Drives the windows stage as the pipeline does, and tells what came out per session, in the naive twin's words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import pytest
from naive_windows import Arrival, Story

from models.detector import WindowSpec
from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.samples import Runs, Samples
from stream_app.windows import pending, segments
from stream_app.windows.closed import INGEST, STAGE, Closed, rounds
from stream_app.windows.segments import lengths_of, starts_of
from stream_app.windows.timed import TimeWindows

Stories = dict[str, Story]
IDLE = 20


@dataclass(frozen=True)
class Record:
    """One sample (or tombstone) of a key as a test writes it; `wait` is how far the partition's clock moves with it."""

    key: str = "a"
    t: int = 0
    sensor: int = 0
    value: float = 0.0
    wait: int = 0
    seq: int = -1
    end: bool = False


def arrivals(records: Sequence[Record]) -> list[Arrival]:
    """The records with offset, clock and session: a tombstone ends one, the key's next record begins another."""
    clock, sessions, result = 0, defaultdict(int), []
    for offset, r in enumerate(records):
        clock += r.wait
        name = f"{r.key}{sessions[r.key]}"
        result.append(Arrival(name, r.t, r.sensor, r.value, offset, clock, r.seq, r.end))
        sessions[r.key] += r.end
    return result


class Rig:
    """A stage over keys of its own. `make` builds it from (limits, keys)."""

    def __init__(self, make, limits: Limits | None = None) -> None:  # type: ignore[no-untyped-def]
        self.keys = Keys({STAGE: INGEST})
        self.stage = make(limits or Limits(), self.keys)
        self.stories: Stories = defaultdict(Story)
        self.befores: list[tuple[int, dict[str, np.void]]] = []
        self.ordinals: dict[str, list[int]] = defaultdict(list)
        self.n_read = 0
        self._session: dict[int, str] = {}

    def samples(self, batch: Sequence[Arrival]) -> Samples:
        slots = []
        for a in batch:
            slots.append(int(self.keys.slots([a.session.encode()])[0]))
            self._session[slots[-1]] = a.session
            if a.end:
                self.keys.retire(slots[-1])
        column = lambda name, kind: np.array([getattr(a, name) for a in batch], kind)  # noqa: E731
        return Samples.of_rows(
            entity=np.array(slots, np.int32),
            sensor=column("sensor", np.int32),
            t_us=column("t", np.int64),
            value=column("value", np.float64),
            offset=column("offset", np.int64),
            clock_us=column("clock", np.int64),
            seq=column("seq", np.int64),
            end=column("end", bool),
        )

    def feed(self, batch: Sequence[Arrival], clock: int | None = None, together: bool = False) -> Closed:
        """`together`: samples of one record in one run, as the decoder gives them."""
        samples = in_runs(self.samples(batch)) if together else self.samples(batch)
        self.n_read += sum(not a.end for a in batch)
        clock = clock if clock is not None else max((a.clock for a in batch), default=0)
        closed = self.tell(self.stage.update(samples, clock))
        if batch:
            rows = {self._session[s]: row for s, row in zip(closed.touched.tolist(), closed.before, strict=True)}
            self.befores.append((batch[0].offset, rows))
        self.stage.forget(closed.ended)
        self.keys.release(closed.ended.tolist())
        return closed

    def finish(self) -> Closed:
        return self.tell(self.stage.finish())

    def tell(self, closed: Closed) -> Closed:
        check(closed)
        outcomes = {"late": closed.late, "duplicate": closed.duplicate, "scored": closed.scored}
        for word, offsets in outcomes.items():
            for offset in offsets.tolist():
                self.stories[""].outcomes.append((offset, word))
        for scenes, ordinal in rounds(closed):
            for i in range(len(scenes)):
                rows = slice(scenes.first[i], scenes.last[i])
                content = zip(scenes.t_us[rows].tolist(), scenes.sensor[rows].tolist(), scenes.value[rows], strict=True)
                told = tuple((t, s, repr(float(v))) for t, s, v in content)
                place = int(scenes.start_us[i]), int(scenes.end_us[i]), int(scenes.position[i])
                offsets = int(scenes.first_offset[i]), int(scenes.last_offset[i])
                name = self._session[int(scenes.entity[i])]
                self.stories[name].windows.append((place, told, offsets, bool(scenes.ended[i])))
                self.ordinals[name].append(int(ordinal[i]))
        done = len(self.stories[""].outcomes)
        assert self.n_read == done + closed.n_open
        return closed

    def told(self) -> tuple[dict[str, list[tuple[object, ...]]], list[tuple[int, str]]]:
        windows = {name: story.windows for name, story in self.stories.items() if story.windows}
        return windows, sorted(self.stories[""].outcomes)

    def told_after(self, absorbed: dict[str, int]) -> dict[str, list[tuple[object, ...]]]:
        """The windows of each session above an ordinal, with theirs."""
        found = {}
        for name, ordinals in self.ordinals.items():
            windows = zip(ordinals, self.stories[name].windows, strict=True)
            if later := [w for w in windows if w[0] > absorbed.get(name, -1)]:
                found[name] = later
        return found

    def rows_at(self, offset: int) -> dict[str, np.void]:
        """The rows of sessions at an offset where a batch began: the first `before` from there on, or the current."""
        rows = {self.keys.name(int(s)): self.keys[STAGE][int(s)].copy() for s in self.keys.live()}
        for start, befores in reversed(self.befores):
            if start >= offset:
                rows |= befores
        return {name: row for name, row in rows.items() if row["clock_us"] < 2**62}


def sharing(items: Sequence[Arrival], shared: Sequence[bool]) -> list[Arrival]:
    """The items, some of them in the same record as the one before, if that is of the same session."""
    result: list[Arrival] = []
    for item, share in zip(items, shared, strict=False):
        before = result[-1] if result else None
        if share and before and before.session == item.session and not item.end and not before.end:
            item = replace(item, offset=before.offset, clock=before.clock)
        result.append(item)
    return result


def in_runs(samples: Samples) -> Samples:
    """Neighbours of one record and entity as one run."""
    runs = samples.runs
    starts = starts_of(runs.offset.astype(np.int64) * 1000 + runs.entity)
    first = {f.name: getattr(runs, f.name)[starts] for f in fields(Runs)}
    together = Runs(**first | {"length": lengths_of(starts, len(samples))})
    return Samples(together, samples.sensor, samples.t_us, samples.value)


def tiny_store(patch: pytest.MonkeyPatch) -> None:
    """A store that packs, moves and looks for gaps all the time."""
    rows = {"FIRST_ROWS": 4, "SPACE": 8}
    for name, small in (rows | {"FIRST_CHUNKS": 2, "MANY_CHUNKS": 2, "PACKED_PER_CHUNK": 3}).items():
        patch.setattr(pending, name, small)
    patch.setattr(segments, "LONG", 1)


@dataclass(frozen=True)
class Lives:
    """One that crashed, the one that began where it had to read again, and one that nothing disturbed."""

    first: Rig
    second: Rig
    whole: Rig
    resume: int


def lives(
    make: Callable[[], Rig], items: list[Arrival], cuts: Sequence[int], crash: int, again: Sequence[int]
) -> Lives:
    """Life up to a crash, then from the needed offset, with the rows as of that offset; and a life without."""
    parts = batches(items, cuts)
    before_crash = parts[: crash % (len(parts) + 1)]
    first, second, whole = make(), make(), make()
    for batch in before_crash:
        first.feed(batch)
    starts = np.array([batch[0].offset for batch in before_crash], np.int64)
    needed = first.stage.needed_offset(lambda offset: int(starts[starts <= offset].max()))
    resume = sum(map(len, before_crash)) if needed is None else needed
    for name, row in first.rows_at(resume).items():
        second.keys[STAGE][int(second.keys.slots([name.encode()])[0])] = row
    for life, parts_of_life in ((whole, parts), (second, batches(items[resume:], again))):
        for batch in parts_of_life:
            life.feed(batch)
        life.finish()
    return Lives(first, second, whole, resume)


def check_lives(told: Lives) -> None:
    """Nothing is told twice or otherwise, and nothing is missing."""
    absorbed = {name: max(ordinals) for name, ordinals in told.first.ordinals.items()}
    assert told.second.told_after(absorbed) == told.whole.told_after(absorbed)
    assert told.second.told()[1] == [o for o in told.whole.told()[1] if o[0] >= told.resume]


def check(closed: Closed) -> None:
    """The contract of Scenes, for every call."""
    assert (np.diff(closed.touched) > 0).all()
    assert len(closed.before) == len(closed.touched)
    for scenes, _ in rounds(closed):
        assert (np.diff(scenes.entity) >= 0).all()
        assert (scenes.first < scenes.last).all()
        covered = np.zeros(len(scenes.t_us) + 1, np.int64)
        np.add.at(covered, scenes.first, 1)
        np.add.at(covered, scenes.last, -1)
        assert (np.cumsum(covered)[:-1] > 0).all(), "a row in no window"


def expected(stories: dict[str, Story], place) -> tuple[dict[str, list[tuple[object, ...]]], list[tuple[int, str]]]:  # type: ignore[no-untyped-def]
    """The naive twins' stories in the words of `Rig.told`."""
    windows = {}
    for name, story in stories.items():
        told = []
        for *where, held, ended in story.windows:
            offsets = [content[3] for content in held]
            told.append((place(where), tuple(c[:3] for c in held), (min(offsets), max(offsets)), ended))
        if told:
            windows[name] = told
    return windows, sorted(o for story in stories.values() for o in story.outcomes)


def batches(items: Sequence[Arrival], cuts: Sequence[int]) -> list[Sequence[Arrival]]:
    """The items cut at the given places."""
    at = sorted({0, len(items), *(c % (len(items) + 1) for c in cuts)})
    return [items[a:b] for a, b in pairwise(at)]


def one_by_one(items: Sequence[Arrival]) -> list[Sequence[Arrival]]:
    return [[item] for item in items]


# --- windows of time


def rig(length: int = 10, stride: int = 5, lateness: int = 0, limits: Limits | None = None) -> Rig:
    spec = WindowSpec(length_us=length, stride_us=stride)
    return Rig(lambda bounds, keys: TimeWindows(spec, lateness, IDLE, bounds, keys), limits)


def at(*times: int, **more: int) -> list[Record]:
    """One record per time, of one key and sensor."""
    return [Record(t=t, **more) for t in times]


def windows(closed: Closed) -> list[tuple[int, int, list[int]]]:
    """Start, end and times of the samples of each window."""
    found = []
    for scenes, _ in rounds(closed):
        for i in range(len(scenes)):
            times = scenes.t_us[scenes.first[i] : scenes.last[i]].tolist()
            found.append((int(scenes.start_us[i]), int(scenes.end_us[i]), times))
    return found
