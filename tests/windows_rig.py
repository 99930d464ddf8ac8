"""Drives the windows stage as the pipeline does, and tells what came out per session, in the naive twin's words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from naive_windows import Arrival, Story

from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.samples import Samples
from stream_app.windows.closed import INGEST, STAGE, Closed, rounds

Stories = dict[str, Story]


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

    def feed(self, batch: Sequence[Arrival], clock: int | None = None) -> Closed:
        samples = self.samples(batch)
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
