"""Alerts: an episode of anomalous windows becomes one alert, opened, updated and closed.

In: windows with their scores and verdicts. Out: `Alert` messages. Remembers: per entity its open episode, in one row.

An alert opens with the first alarm of an episode, is updated when the episode has become twice as bad or four times as
long, so that even an endless one gives few messages, and closes with the episode or its entity. The same windows from
the same state give the same messages, `published_at` apart.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.detector import Scored, SensorPart
from models.scenes import I32, I64, Scenes
from stream_app.alerts.alert import Alert, AlertSensor, Cluster, Input, Reason, Status, rfc3339, rfc3339s
from stream_app.keys import Keys
from stream_app.threshold.judgement import Judged

__all__ = ["INITIAL", "STAGE", "Alert", "Episodes", "Origin"]

STAGE, NOISE_STAGE, STUCK_STAGE = "alerts", "noise", "stuck"
_STAGE_OF: dict[Reason, str] = {"noise": NOISE_STAGE, "stuck": STUCK_STAGE}  # reasons with rows of their own
SENSORS_KEPT = 5  # largest contributions; a reader looks at no more
LONGER, WORSE = 4, 2.0  # update when an episode has become so many times as long, or as far above its threshold
INITIAL = np.zeros(
    1,
    [
        ("open", np.bool_),
        ("warming", np.bool_),
        ("start_us", np.int64),  # of the first anomalous window
        ("position", np.int64),
        ("detected_us", np.int64),  # its end
        ("end_us", np.int64),  # of the last anomalous window
        ("first_offset", np.int64),
        ("last_offset", np.int64),
        ("windows", np.int64),  # anomalous ones
        ("update_at", np.int64),  # windows
        ("told", np.float64),  # score above threshold in the last message
        ("score", np.float64),  # of the worst window, as all that follows
        ("threshold", np.float64),
        ("tail_probability", np.float64),
        ("grade", np.float64),
        ("confidence", np.float64),
        ("cluster", np.int32),
        ("membership_probability", np.float32),
        # of the worst window that a message told
        ("sensor", np.int32, SENSORS_KEPT),  # -1: none
        ("contribution", np.float32, SENSORS_KEPT),
        ("actual", np.float64, SENSORS_KEPT),  # NaN: unknown
        ("expected", np.float64, SENSORS_KEPT),
    ],
)

NO_WORD = "(a token not in the vocabulary, or the end)"


@dataclass(frozen=True)
class Origin:
    """What all alerts of a partition share."""

    detector: str
    bundle: str  # digest
    model: str  # what `--model` takes
    topic: str
    partition: int
    sensors: tuple[str, ...]
    cluster_names: dict[int, str]
    live: bool = True  # a topic; else `topic` is a file's name
    words: dict[int, str] = field(default_factory=dict)  # tokens by their ids; empty for sensors

    @classmethod
    def of(cls, spec: Any) -> Origin:
        """From a PipelineSpec that has a detector."""
        d, config = spec.detector, spec.config
        model = spec.model or config.model or d.digest
        live = spec.topic in {source.topic for source in config.sources}
        words = {i: word for word, i in d.vocabulary.items()}
        place = (spec.topic, spec.partition)
        return cls(config.detector, d.digest, model, *place, d.sensors, d.cluster_names, live, words)


class Episodes:
    """The stage for all entities of a partition, or what another reason opens beside it."""

    def __init__(
        self, origin: Origin, keys: Keys, now: Callable[[], float] = time.time, reason: Reason = "tail"
    ) -> None:
        """now: seconds since the epoch, for `published_at` alone."""
        self._origin, self._keys, self._now, self._reason = origin, keys, now, reason
        self._stage = _STAGE_OF.get(reason, STAGE)
        self._index = {name: i for i, name in enumerate(origin.sensors)}

    def update(self, scenes: Scenes, scored: Scored, judged: Judged) -> list[Alert]:
        """The messages that windows give; windows of one entity are neighbours, in order."""
        messages = []
        # Only windows with an alarm, and those that end an episode, are looked at one by one.
        for i in self._eventful(scenes.entity, judged).tolist():
            row = self._keys[self._stage][scenes.entity[i]]
            if judged.episode_worse[i] and row["open"]:
                row["open"] = False
                messages.append(self._message(row, int(scenes.entity[i]), "closed"))
            status = self._absorb(row, _Window(i, scenes, scored, judged))
            if status is not None:
                messages.append(self._message(row, int(scenes.entity[i]), status, scored, i))
        return messages

    def end(self, slots: I32) -> list[Alert]:
        """These entities are over, or quiet: their open episodes close."""
        messages = []
        for slot in slots[self._keys[self._stage]["open"][slots]].tolist():
            row = self._keys[self._stage][slot]
            row["open"] = False
            messages.append(self._message(row, slot, "closed"))
        return messages

    def at_once(self, scenes: Scenes, scored: Scored, judged: Judged, i: int) -> list[Alert]:
        """An alert of window i alone, opened and closed; no row is touched."""
        row, slot, window = INITIAL.copy()[0], int(scenes.entity[i]), _Window(i, scenes, scored, judged)
        window.begin(row)
        window.extend(row)
        return [self._message(row, slot, "open", scored, i), self._message(row, slot, "closed")]

    def _eventful(self, entity: I32, judged: Judged) -> I64:
        first = np.diff(entity, prepend=-1) != 0
        before = np.where(first, self._keys[self._stage]["open"][entity], np.roll(judged.episode_open, 1))
        return np.flatnonzero(judged.alarm | (before & ~judged.episode_open))

    def _absorb(self, row: Any, window: _Window) -> Status | None:
        """Takes one window into the entity's row, and says which message that is worth."""
        if not window.judged.alarm[window.i]:
            was_open = bool(row["open"])
            row["open"] = False
            return "closed" if was_open else None
        opens = not row["open"]
        if opens:
            window.begin(row)
        window.extend(row)
        above = row["score"] - row["threshold"]
        if not opens and row["windows"] < row["update_at"] and not 0 <= above >= WORSE * row["told"]:
            return None
        row["told"] = above
        row["update_at"] = max(row["update_at"], row["windows"] * LONGER)
        return "open" if opens else "update"

    def _message(self, row: Any, slot: int, status: Status, scored: Scored | None = None, i: int = 0) -> Alert:
        o, entity = self._origin, self._keys.name(slot)
        start, end = rfc3339(row["start_us"]), rfc3339(row["end_us"])
        alert_id = identity((o.detector, entity, self._reason), int(row["start_us"]), int(row["position"]))
        label = o.cluster_names.get(int(row["cluster"]))
        worst = scored is not None and status != "closed" and scored.score[i] >= row["score"]
        return Alert(
            alert_id=alert_id,
            status=status,
            detector=o.detector,
            entity=entity,
            data_start_time=start,
            data_end_time=end,
            detected_at=rfc3339(row["detected_us"]),
            published_at=rfc3339(round(self._now() * 1_000_000)),
            anomaly_score=float(row["score"]),
            threshold=float(row["threshold"]),
            tail_probability=float(row["tail_probability"]),
            anomaly_grade=float(row["grade"]),
            confidence=float(row["confidence"]),
            state="warming" if row["warming"] else "live",
            reason=self._reason,
            cluster=Cluster(int(row["cluster"]), float(row["membership_probability"]), label),
            sensors=self._explain(row, scored.explain(i)) if scored and worst else self._explained(row),
            bundle=o.bundle,
            inputs=(Input(o.topic, o.partition, int(row["first_offset"]), int(row["last_offset"])),),
            reproduce=reproduction(o, int(row["first_offset"]), int(row["last_offset"]), alert_id),
        )

    def _explain(self, row: Any, parts: tuple[SensorPart, ...]) -> tuple[AlertSensor, ...]:
        """The largest contributions, kept in the row for the closing message."""
        kept = [p for p in parts if p.sensor in self._index][:SENSORS_KEPT]
        row["sensor"] = -1
        for k, p in enumerate(kept):
            row["sensor"][k], row["contribution"][k] = self._index[p.sensor], p.contribution
            row["actual"][k] = np.nan if p.actual is None else p.actual
            row["expected"][k] = np.nan if p.expected is None else p.expected
        bins = [
            tuple(zip(self._places([at for at, _ in p.bins]), (share for _, share in p.bins), strict=True))
            for p in kept
        ]
        return tuple(self._sensor(row, k, of) for k, of in enumerate(bins))

    def _explained(self, row: Any) -> tuple[AlertSensor, ...]:
        return tuple(self._sensor(row, k, ()) for k in range(SENSORS_KEPT) if row["sensor"][k] >= 0)

    def _sensor(self, row: Any, k: int, bins: tuple[tuple[str, float], ...]) -> AlertSensor:
        name, share = self._origin.sensors[int(row["sensor"][k])], float(row["contribution"][k])
        return AlertSensor(name, share, self._value(row["actual"][k]), self._value(row["expected"][k]), bins)

    def _value(self, value: Any) -> float | str | None:
        """A reading as a number, a token as it came."""
        if not np.isfinite(value):
            return None
        return self._origin.words.get(int(value), NO_WORD) if self._origin.words else float(value)

    def _places(self, starts: list[int]) -> list[str]:
        """The starts of bins as times; of a sequence the tokens' indices."""
        return [str(at) for at in starts] if self._origin.words else rfc3339s(np.array(starts, np.int64))


@dataclass(frozen=True)
class _Window:
    """One anomalous window, on its way into an entity's row."""

    i: int
    scenes: Scenes
    scored: Scored
    judged: Judged

    def begin(self, row: Any) -> None:
        """The first of an episode."""
        i, s = self.i, self.scenes
        row["open"], row["start_us"], row["position"], row["detected_us"] = (
            True,
            s.start_us[i],
            s.position[i],
            s.end_us[i],
        )
        row["first_offset"], row["last_offset"], row["end_us"] = s.first_offset[i], s.last_offset[i], s.end_us[i]
        row["windows"], row["update_at"], row["told"], row["score"] = 0, 0, 0.0, -np.inf

    def extend(self, row: Any) -> None:
        """Counts it; the worst window's figures stay."""
        i, s, j = self.i, self.scenes, self.judged
        row["windows"] += 1
        row["end_us"] = max(row["end_us"], s.end_us[i])
        row["last_offset"] = max(row["last_offset"], s.last_offset[i])
        if s.first_offset[i] >= 0:
            row["first_offset"] = min(row["first_offset"], s.first_offset[i])
        if self.scored.score[i] > row["score"]:
            row["score"], row["threshold"] = self.scored.score[i], j.threshold[i]
            row["tail_probability"], row["grade"] = j.tail_probability[i], j.grade[i]
            row["confidence"], row["warming"] = j.confidence[i], j.warming[i]
            row["cluster"] = self.scored.cluster[i]
            row["membership_probability"] = self.scored.membership_probability[i]


def identity(of: tuple[str, str, Reason], start_us: int, position: int) -> str:
    """The same episode has the same id whoever finds it, live or in a replay, with whichever bundle."""
    detector, entity, reason = of
    text = "\x00".join((detector, entity, str(start_us), str(position)) + ((reason,) if reason != "tail" else ()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def reproduction(o: Origin, first_offset: int, last_offset: int, alert_id: str) -> str:
    """The command that reads the same records again."""
    span = f"--partition {o.partition} --from-offset {first_offset} --to-offset {last_offset}"
    source = f"replay --topic {shlex.quote(o.topic)} {span}" if o.live else f"detect --input {shlex.quote(o.topic)}"
    return f"tailrace {source} --model {shlex.quote(o.model)} --out {alert_id[:8]}"
