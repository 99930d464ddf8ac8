"""Drift: slow changes of an entity's scores, which the rolling threshold absorbs and must not hide.

In: windows with scores and verdicts. Out: `DriftEvent`. Remembers: per entity a row of 1.3 kB: the block of windows
being filled, and the last blocks' level and spread.

The detectors (ADWIN, Page-Hinkley) are neither scale free nor safe from NaN, and their state is not plain bytes. So
they see finite scores only, those without an alarm, as blocks of 32 windows, standardised by the first blocks; and what
they know is defined as what they learn from the blocks kept in the row. Living detectors are a cache of that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from river._river_rust.drift import AdaptiveWindowing  # river.drift loads pandas and scikit-learn, for a second

from models.detector import Detector, Scored
from models.scenes import F64, I32, I64, Scenes
from stream_app.alerts.alert import rfc3339
from stream_app.drift.page_hinkley import PageHinkley, page_hinkley
from stream_app.keys import Keys
from stream_app.threshold.judgement import Judged

STAGE = "drift"
BLOCK = 32  # windows: averages of so many are near enough to normal, and overlapping windows to independent
KEPT, KEPT_AT_RESTART = 128, 64  # blocks; full, the detectors begin anew with the latter half
REFERENCE = 24  # blocks that set the scale of the rest
STATISTICS = ("level", "spread")
CLIP = 20.0  # mean absolute deviations: one window says no more than that
# The rest is as river has it.
ADWIN: dict[str, Any] = {"delta": 1e-5, "clock": 4, "max_buckets": 5, "min_window_length": 5, "grace_period": 10}
# Page's test in units of the reference's standard deviation: blind to half a deviation, alarm at a sum of 18. The usual
# sum of 5 gives an alarm in 500 blocks; this one on iid scores none in 100,000, with a scale estimated from 24 blocks.
PAGE_HINKLEY = PageHinkley(min_instances=REFERENCE, delta=0.5, threshold=18.0)
CACHED = 20_000  # entities whose detectors stay alive
INITIAL = np.zeros(
    1,
    [
        ("filled", np.int32),  # windows in the block
        ("blocks", np.int32),  # since the detectors began
        ("level", np.float64),  # of the first block, as the scale: what the blocks' figures are relative to
        ("scale", np.float64),
        ("window", np.float64, BLOCK),
        ("ring", np.float32, (KEPT, len(STATISTICS))),
    ],
)


@dataclass(frozen=True)
class DriftEvent:
    """A lasting change of an entity's scores, or of all entities' (`entity` empty)."""

    detector: str
    entity: str
    at: str  # RFC 3339: the end of the window with which it was noticed
    method: str  # adwin, page_hinkley, kswin, energy
    statistic: str  # level or spread of the score, or what the method compares
    before: float  # in the unit of the score
    after: float
    bundle: str


Noticed = tuple[int | None, DriftEvent]  # with the window that showed it; None: no single one


class Drift:
    """The stage for all entities of a partition. What it says does not depend on how windows fall into batches."""

    def __init__(self, name: str, detector: Detector, keys: Keys) -> None:
        self._name, self._bundle, self._keys = name, detector.digest, keys
        self._alive: OrderedDict[int, _Watch] = OrderedDict()

    def update(self, scenes: Scenes, scored: Scored, judged: Judged) -> list[Noticed]:
        """Takes windows without an alarm; windows of one entity are neighbours, in order."""
        rows = np.flatnonzero(np.isfinite(scored.score) & ~judged.alarm)
        entity, state = scenes.entity[rows], self._keys[STAGE]
        begins = np.flatnonzero(np.diff(entity, prepend=-1))
        rank = np.arange(len(rows)) - np.repeat(begins, np.diff(begins, append=len(rows)))
        place = state["filled"][entity] + rank
        block = place // BLOCK
        events: list[Noticed] = []
        # One block of every entity at a time; nearly always that is all there is.
        for at in np.split(np.argsort(block, kind="stable"), np.cumsum(np.bincount(block))[:-1]):
            slots, within = entity[at], place[at] % BLOCK
            state["window"][slots, within] = scored.score[rows[at]]
            state["filled"][slots] = within + 1
            full = within == BLOCK - 1
            told = self._blocks(slots[full], scenes.end_us[rows[at[full]]])
            events += [(int(rows[at[full]][k]), event) for k, event in told]
        return events

    def _blocks(self, slots: I32, end_us: I64) -> list[tuple[int, DriftEvent]]:
        """Each of the slots has a full block, which ends there. Events, each with its place among the slots."""
        state = self._keys[STAGE]
        state["filled"][slots] = 0
        window = state["window"][slots]
        fresh = slots[state["blocks"][slots] == 0]
        _begin(state, fresh)
        figures = _figures(window, state["level"][slots, None], state["scale"][slots, None])
        found = []
        # One block in 32 windows gets here; river has no columns.
        for k, (slot, figure, at) in enumerate(zip(slots.tolist(), figures, end_us.tolist(), strict=True)):
            event = self._block(slot, figure, at)
            if event is not None:
                found.append((k, event))
        return found

    def _block(self, slot: int, figure: Any, end_us: int) -> DriftEvent | None:
        row = self._keys[STAGE][slot]
        if row["blocks"] == KEPT:
            row["ring"][:KEPT_AT_RESTART] = row["ring"][KEPT - KEPT_AT_RESTART :].copy()
            row["blocks"] = KEPT_AT_RESTART
        n = int(row["blocks"])
        row["ring"][n] = figure
        row["blocks"] = n + 1
        if n < REFERENCE:
            return None
        watch = self._watch(slot, row["ring"][:n])
        seen = watch.update(row["ring"][n])
        if seen is None:
            return None
        event = self._event(slot, row, seen, end_us)
        self._keys[STAGE][slot] = INITIAL[0]
        self._alive.pop(slot, None)
        return event

    def _watch(self, slot: int, ring: Any) -> _Watch:
        """The detectors that have learned from exactly these blocks."""
        watch = self._alive.get(slot)
        if watch is None or not watch.has_learned(ring):
            watch = self._alive[slot] = _Watch(ring)
        self._alive.move_to_end(slot)
        if len(self._alive) > CACHED:
            self._alive.popitem(last=False)
        return watch

    def _event(self, slot: int, row: Any, seen: tuple[str, int], end_us: int) -> DriftEvent:
        method, k = seen
        ring = row["ring"][: row["blocks"], k].astype(np.float64)
        before, after = float(np.median(ring[:REFERENCE])), float(np.median(ring[-4:]))
        if STATISTICS[k] == "spread":
            before, after = np.exp(before) * row["scale"], np.exp(after) * row["scale"]
        else:
            before, after = row["level"] + before * row["scale"], row["level"] + after * row["scale"]
        entity = self._keys.name(slot)
        at = rfc3339(end_us)
        return DriftEvent(self._name, entity, at, method, STATISTICS[k], float(before), float(after), self._bundle)


class _Watch:
    """The detectors of one entity, per statistic; a function of the blocks they have seen."""

    def __init__(self, ring: Any) -> None:
        reference = ring[:REFERENCE].astype(np.float64)
        self._mean = reference.mean(axis=0)
        self._sd = np.maximum(reference.std(axis=0, ddof=1), 1e-6)
        n = len(STATISTICS)
        self._detectors = [("adwin", k, anew(lambda: AdaptiveWindowing(**ADWIN).update)) for k in range(n)]
        self._detectors += [("page_hinkley", k, anew(lambda: page_hinkley(PAGE_HINKLEY))) for k in range(n)]
        self._learned, self._n = np.empty((KEPT, len(STATISTICS)), np.float32), 0
        for figure in ring:
            self.update(figure)

    def has_learned(self, ring: Any) -> bool:
        return np.array_equal(self._learned[: self._n], ring)

    def update(self, figure: Any) -> tuple[str, int] | None:
        """The next block's figures; gives the method and the statistic that have changed, if one has."""
        self._learned[self._n] = figure
        self._n += 1
        standard = ((figure - self._mean) / self._sd).tolist()
        found = None
        for method, k, changed in self._detectors:
            if changed(standard[k]) and found is None:
                found = method, k
        return found


def anew(begin: Callable[[], Callable[[float], bool]]) -> Callable[[float], bool]:
    """A test that begins anew whenever it has said yes."""
    test = begin()

    def changed(value: float) -> bool:
        nonlocal test
        found = test(value)
        if found:
            test = begin()
        return found

    return changed


def _begin(state: Any, slots: I32) -> None:
    """The first block's level and scale. A scale of zero, of constant scores, is taken as small against the level."""
    if not len(slots):
        return
    window = state["window"][slots]
    level = np.median(window, axis=1)
    scale = np.abs(window - level[:, None]).mean(axis=1)
    state["level"][slots] = level
    state["scale"][slots] = np.where(scale > 0, scale, np.maximum(1e-9 * np.abs(level), 1e-30))


def _figures(window: F64, level: F64, scale: F64) -> F64:
    """Level and log spread of each block. [block, window] -> [block, statistic]"""
    with np.errstate(over="ignore"):
        standard = np.clip((window - level) / scale, -CLIP, CLIP)
    mean = standard.mean(axis=1)
    spread = np.abs(standard - np.median(standard, axis=1)[:, None]).mean(axis=1)
    return np.column_stack([mean, np.log(spread + 1e-3)])
