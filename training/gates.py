"""What a candidate is worth: its figures on held-out windows, beside those of the live bundle on the same ones.

In: a candidate, the live detector if there is one, data, and the intervals that were not learned from. Out: `Figures`.
Remembers: nothing. Both run through the pipeline that runs live, over the whole range, so that their tails are warm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import golden_of, read
from models.detector import Detector
from models.scenes import F64, I32, I64, Bool
from stream_app.cli.output import progress
from stream_app.config import Config
from stream_app.intervals import LABEL, Interval, overlapping
from stream_app.judging import risk_of
from stream_app.model_store.gate import Figures
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec, Result
from stream_app.records.names import UNKNOWN_TOKEN
from stream_app.samples import Samples
from stream_app.windows.segments import running_max
from training.dataset import Dataset

HELD_OUT = "held out"
BATCH = 200_000  # samples
SESSIONS_FEW = 10  # tokens: of more, whole sessions are held out, since sessions may all lie at the same time


@dataclass(frozen=True)
class Trial:
    """What is judged, and on what. `intervals` hold those that were held out, and those of which nothing is known."""

    config: Config
    data: Dataset
    intervals: tuple[Interval, ...]
    held_out: tuple[Interval, ...]


@dataclass(frozen=True)
class Said:
    """What a detector says of the windows of a data set, by entity, of an entity in order of closing."""

    entity: I32  # index in the data's entities
    start_us: I64
    end_us: I64
    position: I64  # of tokens; several windows of a session may end at one time
    alarm: Bool
    opened: Bool  # an alert opened with the window, or was open when the held-out part began
    score: F64
    embedding_sd: F64  # [width] of the held-out windows
    seconds: float


def held_out(data: Dataset, share: float) -> tuple[Interval, ...]:
    """What is kept for the trial: the end of the range, or of many sessions of tokens the last ones by name."""
    ever = (int(data.t_us.min()), int(data.t_us.max()) + 1)
    if data.kind == "tokens" and len(data.entities) >= SESSIONS_FEW:
        n = max(1, round(share * len(data.entities)))
        return tuple(Interval(name, *ever, HELD_OUT) for name in data.entities[-n:])
    return (Interval("", ever[1] - round(share * (ever[1] - ever[0])), ever[1], HELD_OUT),)


def figures(bundle: Path, report: dict[str, Any], live: Detector | None, trial: Trial) -> Figures:
    """Measures the bundle. Raises BundleRefused for one that can't be opened."""
    candidate = open_bundle(bundle)
    own = judged(candidate, trial, "candidate")
    other = judged(live, trial, "live") if live else None
    judge = _judged_rows(own, trial, candidate)
    n = int(np.count_nonzero(judge))
    labelled, lost = _labelled(own, other, trial) if other else (0, 0)
    clusters = report["clusters"]
    same = n == 0 or np.ptp(own.score[judge]) == 0
    return Figures(
        windows=n,
        episodes=int(np.count_nonzero(own.opened & judge)),
        promised=risk_of(trial.config, candidate) * n,
        alarmed=float(own.alarm[judge].mean()) if n else 0.0,
        agreement=_agreement(own, other, judge) if other else None,
        labelled=labelled,
        lost=lost,
        golden=_golden_gap(bundle, candidate),
        clusters=int(clusters["clusters"]),
        noise=float(clusters["noise"]),
        placement=float(clusters["agreement"]),
        still=-1 if same else int(np.count_nonzero(own.embedding_sd == 0)),
        latency_ms=1000 * own.seconds / max(1, len(own.entity)),
    )


def judged(detector: Detector, trial: Trial, label: str) -> Said:
    """Runs the data through the pipeline, sensors matched by name and tokens by text."""
    data, results = trial.data, list[Result]()
    pipeline = Pipeline(PipelineSpec(trial.config, detector))
    slots = pipeline.keys.slots([name.encode() for name in data.entities])
    began = time.monotonic()
    with progress(f"judging: {label}", len(data)) as tell:
        for n, samples in enumerate(_samples(data, detector, slots), 1):
            results.append(pipeline.step_samples(samples))
            tell(n * BATCH)
        results.append(pipeline.finish())
    seconds = time.monotonic() - began
    return _said(results, slots, detector, trial, seconds)


def _samples(data: Dataset, detector: Detector, slots: I32) -> Iterator[Samples]:
    """The samples that the detector knows, by time, of an entity's tokens in the order in which they came; the clock is
    their newest time."""
    if data.kind == "tokens":
        ids = np.full(max(data.vocabulary.values(), default=0) + 1, UNKNOWN_TOKEN)
        for word, i in data.vocabulary.items():
            ids[i] = detector.vocabulary.get(word, UNKNOWN_TOKEN)
        sensor, value = data.sensor, ids[data.value.astype(np.int64)].astype(np.float64)
        never = np.full(len(data.entities), np.iinfo(np.int64).min)
        came_us = np.maximum(data.t_us, running_max(data.t_us, data.entity.astype(np.int64), never))
    else:
        came_us = data.t_us
        known = {name: i for i, name in enumerate(detector.sensors)}
        sensor, value = np.array([known.get(name, -1) for name in data.sensors], np.int32)[data.sensor], data.value
    rows = np.argsort(came_us, kind="stable")
    rows = rows[sensor[rows] >= 0]
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        n = len(part)
        yield Samples.of_rows(
            entity=slots[data.entity[part]],
            sensor=sensor[part],
            t_us=data.t_us[part],
            value=value[part],
            offset=np.arange(at, at + n),
            clock_us=came_us[part],
            seq=np.full(n, -1, np.int64),
            end=np.zeros(n, bool),
        )


def _said(results: Sequence[Result], slots: I32, detector: Detector, trial: Trial, seconds: float) -> Said:
    parts = [result.windows for result in results if result.windows is not None]
    width = parts[0].scored.embedding.shape[1] if parts else 0

    def column(of: Any, dtype: Any) -> Any:
        return np.concatenate([np.empty(0, dtype), *(of(part) for part in parts)])

    index = {int(slot): i for i, slot in enumerate(slots)}
    place = np.array([index.get(slot, -1) for slot in range(int(slots.max(initial=0)) + 1)], np.int32)
    entity, end_us = place[column(lambda p: p.scenes.entity, np.int32)], column(lambda p: p.scenes.end_us, np.int64)
    order = np.argsort(entity, kind="stable")
    start_us = column(lambda p: p.scenes.start_us, np.int64)
    alarm = column(lambda p: p.judged.alarm, bool)[order]
    entity, start_us, end_us = entity[order], start_us[order], end_us[order]
    held = _in(trial.held_out, trial.data, (entity, *_moment(start_us, end_us, detector)))
    embedding = np.concatenate([np.empty((0, width), np.float32), *(p.scored.embedding for p in parts)])[order]
    return Said(
        entity=entity,
        start_us=start_us,
        end_us=end_us,
        position=column(lambda p: p.scenes.position, np.int64)[order],
        alarm=alarm,
        opened=_opened(column(lambda p: p.judged.episode_open, bool)[order], held, entity),
        score=column(lambda p: p.scored.score, np.float64)[order],
        embedding_sd=embedding[held].astype(np.float64).std(0) if held.any() else np.zeros(width),
        seconds=seconds,
    )


def _opened(is_open: Bool, held: Bool, entity: I32) -> Bool:
    """Windows with which an episode begins, as far as the held-out part shows it."""
    follows = np.zeros(len(entity), bool)
    follows[1:] = (entity[1:] == entity[:-1]) & held[:-1] & is_open[:-1]
    return is_open & held & ~follows


def _moment(start_us: I64, end_us: I64, detector: Detector) -> tuple[I64, I64]:
    """What is new in a window of time: its last stride. A window of tokens counts as a whole."""
    if detector.windows.counted:
        return start_us, end_us + 1
    return end_us - detector.windows.stride_us, end_us


def _in(intervals: Sequence[Interval], data: Dataset, windows: tuple[I32, I64, I64]) -> Bool:
    entity, start_us, end_us = windows
    hit = np.zeros(len(entity), bool)
    for rows in overlapping(intervals, entity, data.entities, (start_us, end_us)).values():
        hit[rows] = True
    return hit


def _judged_rows(said: Said, trial: Trial, detector: Detector) -> Bool:
    """The held-out windows of whose time nobody knows anything."""
    held = _in(trial.held_out, trial.data, (said.entity, *_moment(said.start_us, said.end_us, detector)))
    return held & ~_in(trial.intervals, trial.data, (said.entity, said.start_us, said.end_us))


def _agreement(own: Said, other: Said, judge: Bool) -> float | None:
    """Of the windows that the other calls normal; both have seen the same samples, so they have the same windows."""
    _, mine, theirs = np.intersect1d(_keys(own), _keys(other), assume_unique=True, return_indices=True)
    normal = judge[mine] & ~other.alarm[theirs]
    return float(np.mean(~own.alarm[mine][normal])) if normal.any() else None


def _keys(said: Said) -> Any:
    """What tells each window from all others, as one value."""
    keys = np.empty(len(said.entity), [("entity", np.int32), ("start_us", np.int64), ("position", np.int64)])
    keys["entity"], keys["start_us"], keys["position"] = said.entity, said.start_us, said.position
    return keys


def _labelled(own: Said, other: Said, trial: Trial) -> tuple[int, int]:
    """How many episodes labelled anomalous the other finds, and how many of these the candidate does not."""
    labels = [one for one in trial.intervals if one.why == LABEL]
    found = [(_finds(other, one, trial.data), _finds(own, one, trial.data)) for one in labels]
    return sum(was for was, _ in found), sum(was and not now for was, now in found)


def _finds(said: Said, label: Interval, data: Dataset) -> bool:
    return bool((said.alarm & _in([label], data, (said.entity, said.start_us, said.end_us))).any())


def _golden_gap(bundle: Path, detector: Detector) -> float:
    stored = read(bundle).golden
    got = golden_of(detector, stored.scenes).scores
    return float(np.max(np.abs(got - stored.scores) / np.maximum(1, np.abs(stored.scores)), initial=0.0))
