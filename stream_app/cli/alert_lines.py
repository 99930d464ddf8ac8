"""`tailrace alerts`: the alerts topic as lines for people or programs.

In: a topic. Out: one line per alert. Remembers: nothing; no group is joined, nothing is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.cli.output import plain, say
from stream_app.config import Config
from stream_app.live.topic_batches import batches, consumer_of, partitions_of

_POLL_MS = 500


def print_alerts(config: Config, topic: str | None, follow: bool, as_json: bool) -> None:
    """Prints what the topic holds, and with `follow` what comes after. Raises BrokerUnreachable, ConfigurationError."""
    asyncio.run(_print(config, topic or config.topics.alerts, follow, as_json))


async def alerts(config: Config, topic: str, follow: bool) -> AsyncIterator[dict[str, Any]]:
    """The alerts on a topic, as they were published; a record that is no JSON object is passed over."""
    async with consumer_of(config) as consumer:
        tps = partitions_of(config, topic)
        async for value in _for_ever(consumer, tps) if follow else _until_now(consumer, tps):
            if (alert := _alert(value)) is not None:
                yield alert


async def _until_now(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> AsyncIterator[bytes | None]:
    async for batch in batches(consumer, tps):
        for value in batch.values:
            yield value


async def _for_ever(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> AsyncIterator[bytes | None]:
    """What the topic holds, and what comes after."""
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    while True:
        for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
            for record in records:
                yield record.value


def line(alert: dict[str, Any]) -> str:
    """An alert for people: when, who, what, why."""
    reason = f"{alert.get('reason', '')}{_sensors(alert)}"
    score = f"score {_number(alert.get('anomaly_score'))} over {_number(alert.get('threshold'))}"
    when = time_text(alert.get("detected_at") or alert.get("data_start_time"))
    words = (when, alert.get("status", ""), alert.get("entity", ""), reason, score, alert.get("alert_id", ""))
    return "  ".join(plain(str(word)) for word in words)


def time_text(t: Any) -> str:
    """RFC 3339 of a time as it stands in an alert: such a text already, or epoch milliseconds."""
    if isinstance(t, int | float):
        with suppress(OverflowError, ValueError, OSError):  # no calendar has it
            return datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(t)


async def _print(config: Config, topic: str, follow: bool, as_json: bool) -> None:
    async for alert in alerts(config, topic, follow):
        say(orjson.dumps(alert).decode() if as_json else line(alert))


def _alert(value: bytes | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        alert = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return alert if isinstance(alert, dict) else None


def _sensors(alert: dict[str, Any]) -> str:
    """The sensor that contributes most, with what it showed and what was expected."""
    sensors = alert.get("sensors")
    first = sensors[0] if isinstance(sensors, list) and sensors else None
    if not isinstance(first, dict):
        return ""
    share, text = first.get("contribution"), f" in {first.get('sensor')}"
    text += f" ({share:.0%})" if isinstance(share, int | float) else ""
    if first.get("actual") is not None and first.get("expected") is not None:
        text += f", {_number(first['actual'])} where {_number(first['expected'])} was expected"
    return text


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
