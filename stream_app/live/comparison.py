"""A shadow and the live version, by what both said of the same windows on the scores topics, and the shadow's alerts.

In: the configuration, and since when. Out: `Gate`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stream_app.config import Config, Gates
from stream_app.intervals import body_of
from stream_app.live.preflight import shadow_topic
from stream_app.live.security import security_settings
from stream_app.live.topic_batches import batches_between, consumer_of, partitions_of
from stream_app.live.topics import partition_counts
from stream_app.model_store.gate import most_episodes
from stream_app.model_store.pointers import Check, Gate

Window = tuple[str, str, str, int]  # entity, start, end, index of the first token: tokens may share all of their times


@dataclass(frozen=True)
class Compared:
    """What both said since the shadow began."""

    windows: int  # that both judged
    agreement: float | None  # of those that the live one called normal
    alarmed: float  # share of the shadow's windows
    episodes: int  # of the shadow
    promised: float


async def compare(config: Config, digest: str, since_ms: int, risk: float) -> Compared:
    """digest: of the shadow. Raises BrokerUnreachable, ConfigurationError where scores are not published."""
    assert config.topics.scores is not None
    own = _windows(await _since(config, shadow_topic(config.topics.scores), since_ms), digest)
    other = _windows(await _since(config, config.topics.scores, since_ms), None)
    alerts = await _since(config, shadow_topic(config.topics.alerts), since_ms)
    opened = {a["alert_id"] for a in alerts if a.get("bundle") == digest and a.get("status") == "open"}
    both = own.keys() & other.keys()
    normal = [window for window in both if not other[window]]
    return Compared(
        windows=len(both),
        agreement=sum(not own[window] for window in normal) / len(normal) if normal else None,
        alarmed=sum(own.values()) / max(1, len(own)),
        episodes=len(opened),
        promised=risk * len(own),
    )


def gate_of(seen: Compared, limits: Gates) -> Gate:
    """The checks that a shadow must pass before it goes live by itself. A limit of null leaves its check out."""
    most = most_episodes((limits.alarm_ratio or 0) * seen.promised)
    enough = limits.windows or 0
    checks = [Check("shadow_windows", seen.windows, enough, seen.windows >= enough, "judged by both")]
    if limits.alarm_ratio is not None:
        words = f"episodes; {seen.promised:.2g} promised"
        checks.append(Check("shadow_alarm_rate", seen.episodes, most, seen.episodes <= most, words))
    if limits.time_in_alarm is not None:
        passed = seen.alarmed <= limits.time_in_alarm
        checks.append(Check("shadow_time_in_alarm", seen.alarmed, limits.time_in_alarm, passed, "of its windows"))
    if limits.agreement is not None:
        passed = seen.agreement is None or seen.agreement >= limits.agreement
        words = "of the windows that the live one called normal"
        checks.append(Check("shadow_agreement", seen.agreement, limits.agreement, passed, words))
    return Gate(all(check.passed for check in checks), tuple(checks))


def _windows(said: list[dict[str, Any]], digest: str | None) -> dict[Window, bool]:
    """Whether each window was in alarm; of a window that was said twice the last word."""
    return {_window(one): bool(one.get("anomalous")) for one in said if digest is None or one.get("bundle") == digest}


def _window(said: dict[str, Any]) -> Window:
    entity, start, end = (str(said.get(name)) for name in ("entity", "data_start_time", "data_end_time"))
    position = said.get("position")  # what was written before it was told is of time, nearly always
    return entity, start, end, position if isinstance(position, int) else 0


async def _since(config: Config, topic: str, since_ms: int) -> list[dict[str, Any]]:
    """The JSON objects written on a topic since then; a topic that is not there holds none."""
    if topic not in partition_counts(config.brokers, [topic], **security_settings(config.security)):
        return []
    found: list[dict[str, Any]] = []
    async with consumer_of(config) as consumer:
        tps = partitions_of(config, topic)
        ends = await consumer.end_offsets(tps)
        begins = await consumer.offsets_for_times(dict.fromkeys(tps, since_ms))
        wanted = {tp: (int(begins[tp].offset), ends[tp]) for tp in tps if begins[tp] is not None}
        async for batch in batches_between(consumer, wanted):
            found += [body for body in map(body_of, batch.values) if body is not None]
    return found
