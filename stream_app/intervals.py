"""Intervals: when an entity was not to be learned from, as topics tell it: alerts, calendars, pauses, labels.

In: the values of the alerts, control and feedback topics, in order. Out: `Interval`s. Remembers: nothing.
A message that can't be read, or that is another detector's, says nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from models.scenes import I32, I64

ALERT, PAUSE, CALENDAR, LABEL = "alert", "pause", "calendar", "label"
REASONS = (LABEL, CALENDAR, PAUSE, ALERT)  # where several hold: what a person said comes first
FOREVER_US = np.iinfo(np.int64).max
Drifted = dict[tuple[str, str], int]
ANOMALOUS = frozenset({"anomalous", "anomaly"})
NORMAL = "normal"
_OPENS = {"pause_learning": PAUSE, "open_calendar": CALENDAR}
_CLOSES = {"resume_learning": PAUSE, "close_calendar": CALENDAR}


@dataclass(frozen=True)
class Interval:
    """Half-open [start_us, end_us) of event time. An empty entity: all of them."""

    entity: str
    start_us: int
    end_us: int
    why: str


@dataclass(frozen=True)
class Message:
    """A record's value, and the time it was written, which stands where the value names none."""

    value: bytes | None
    t_us: int


def drifts(messages: Iterable[Message], detector: str) -> Drifted:
    """When each bundle was first found to drift: by entity (empty: all of them) and digest."""
    found: Drifted = {}
    for _, body in _read(messages, detector):
        at_us = moment_us(body.get("at"))
        if at_us is not None:
            key = (str(body.get("entity")), str(body.get("bundle")))
            found[key] = min(at_us, found.get(key, at_us))
    return found


def alerts(
    messages: Iterable[Message], detector: str, stride_us: int | None = None, drifted: Drifted | None = None
) -> list[Interval]:
    """Of each alert the time in which it was found: from the end of its first anomalous window, less what was new in
    that window (`stride_us`; None: the whole window), to the end of its last. Of one that was retracted nothing, nor
    of one that a bundle raised after it was found to drift: then it can't tell an anomaly from what is normal now.
    """
    last: dict[str, Interval] = {}
    for _, body in _read(messages, detector):
        identity, found = str(body.get("alert_id")), _interval(body, "data_start_time", "data_end_time", ALERT)
        last.pop(identity, None)
        if body.get("reason", "tail") != "tail":
            continue  # new behaviours and drift are what a refit is to learn
        if body.get("status") == "retracted" or found is None or _after_drift(body, found, drifted or {}):
            continue
        detected_us = moment_us(body.get("detected_at"))
        if stride_us is not None and detected_us is not None:
            found = replace(found, start_us=max(found.start_us, detected_us - stride_us))
        last[identity] = found
    return list(last.values())


def control(messages: Iterable[Message], detector: str) -> list[Interval]:
    """Pauses and calendars. One that gives no end lasts until it is closed, or still; a pause that gives one is over
    before, if learning is resumed before."""
    done: list[Interval] = []
    open_since: dict[tuple[str, str], int] = {}
    for t_us, body in _read(messages, detector):
        command, entity = str(body.get("command")), str(body.get("entity") or "")
        start_us = moment_us(body.get("start"))
        at_us = t_us if start_us is None else start_us
        if command in _OPENS:
            end_us = moment_us(body.get("end"))
            if end_us is None:
                open_since.setdefault((_OPENS[command], entity), at_us)
            elif end_us > at_us:
                done.append(Interval(entity, at_us, end_us, _OPENS[command]))
        elif command in _CLOSES:
            since = open_since.pop((_CLOSES[command], entity), None)
            until = moment_us(body.get("end")) or at_us
            if since is not None and until > since:
                done.append(Interval(entity, since, until, _CLOSES[command]))
            if _CLOSES[command] == PAUSE:
                done = [_resumed(one, entity, until) for one in done]
    return done + [Interval(entity, since, FOREVER_US, why) for (why, entity), since in open_since.items()]


def labels(messages: Iterable[Message], detector: str) -> tuple[list[Interval], list[Interval]]:
    """What people called anomalous, and what they called normal. Of labels on the same interval the last stands."""
    said: dict[Interval, str] = {}
    for _, body in _read(messages, detector):
        found = _interval(body, "start", "end", LABEL)
        if found is not None:
            said[found] = str(body.get("label", "")).lower()
    anomalous = [interval for interval, label in said.items() if label in ANOMALOUS]
    return anomalous, [interval for interval, label in said.items() if label == NORMAL]


def without(intervals: Sequence[Interval], cleared: Sequence[Interval]) -> list[Interval]:
    """The intervals that none of `cleared` touches: an alert that a person called normal was a false one."""
    return [one for one in intervals if not any(_touch(one, other) for other in cleared)]


def overlapping(
    intervals: Sequence[Interval], entity: I32 | I64, names: Sequence[str], bounds: tuple[I64, I64]
) -> dict[str, I64]:
    """Which windows overlap an interval of their entity, by reason; a window counts for the first reason that holds.

    entity: [w] index of each window's entity in `names`; bounds: start_us and end_us, [w] each, half-open.
    """
    start_us, end_us = bounds
    taken = np.zeros(len(entity), bool)
    index = {name: i for i, name in enumerate(names)}
    found: dict[str, I64] = {}
    for why in dict.fromkeys((*REASONS, *(one.why for one in intervals))):
        hit = np.zeros(len(entity), bool)
        for one in intervals:  # intervals are few: people, and alerts within an alarm budget, make them
            if one.why == why and (not one.entity or one.entity in index):
                own = (entity == index[one.entity]) if one.entity else True
                hit |= own & (start_us < one.end_us) & (end_us > one.start_us)
        found[why] = np.flatnonzero(hit & ~taken)
        taken |= hit
    return {why: rows for why, rows in found.items() if len(rows)}


def body_of(value: bytes | None) -> dict[str, Any] | None:
    """The JSON object in a record's value; None for anything else."""
    try:
        body = orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def moment_us(text: Any) -> int | None:
    """Microseconds since the epoch of RFC 3339 text with a zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return round(moment.timestamp() * 1e6) if moment.tzinfo else None


def _after_drift(alert: Mapping[str, Any], found: Interval, drifted: Drifted) -> bool:
    moments = (drifted.get((entity, str(alert.get("bundle")))) for entity in ("", found.entity))
    return any(at_us is not None and found.end_us > at_us for at_us in moments)


def _resumed(one: Interval, entity: str, at_us: int) -> Interval:
    """The interval, which ends there if it is a pause of the entity that has begun."""
    paused = (one.why, one.entity) == (PAUSE, entity) and one.start_us < at_us < one.end_us
    return replace(one, end_us=at_us) if paused else one


def _touch(a: Interval, b: Interval) -> bool:
    same = not a.entity or not b.entity or a.entity == b.entity
    return same and a.start_us < b.end_us and a.end_us > b.start_us


def _read(messages: Iterable[Message], detector: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for message in messages:
        body = body_of(message.value)
        if body is not None and body.get("detector") in (None, detector):
            yield message.t_us, body


def _interval(body: Mapping[str, Any], start: str, end: str, why: str) -> Interval | None:
    start_us, end_us = moment_us(body.get(start)), moment_us(body.get(end))
    if start_us is None or end_us is None or start_us >= end_us or not isinstance(body.get("entity"), str):
        return None
    return Interval(str(body["entity"]), start_us, end_us, why)
