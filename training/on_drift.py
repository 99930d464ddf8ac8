"""`tailrace refit --on-drift`: waits for drift of the live bundle, refits, shadows, compares, promotes.

In: the drift topic and the models topic. Out: versions, and lines that say what was done and why. Remembers: how often
a refit was refused since the last drift event; all else stands on the models topic, so a restart goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from stream_app.cli.output import plain
from stream_app.config import Config
from stream_app.errors import CheckFailed, ConfigurationError
from stream_app.intervals import body_of
from stream_app.judging import risk_of
from stream_app.live.comparison import compare, gate_of
from stream_app.live.topic_batches import consumer_of, partitions_of
from stream_app.model_store import verbs
from stream_app.model_store.fetching import fetch
from stream_app.model_store.places import cache_folder, reference
from stream_app.model_store.refitting import ON_DRIFT, Decide, DoRefit, Drifted, Patience, Step, next_step
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from stream_app.opening import open_bundle
from training.refit import Refit, line, refit

_POLL_MS = 1_000
_TRIES = 3  # of a refit that the gate refuses: more data may help; after that the next drift event must come


@dataclass(frozen=True)
class OnDrift:
    """How to refit, and when. `once`: the first promotion ends it, or the first shadow where nothing is promoted."""

    refit: Refit
    patience: Patience
    once: bool = False


@dataclass
class _Watch:
    config: Config
    name: str
    wanted: OnDrift
    folder: Path
    say: Callable[[str], None]
    drifted: list[Drifted] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)  # by the event's time: how often
    not_before_ms: int = 0
    told: str = ""


def on_drift(config: Config, wanted: OnDrift, folder: Path, say: Callable[[str], None]) -> None:
    """Runs until it is stopped, or `once`. Raises ConfigurationError where it can't work, BrokerUnreachable."""
    named = reference(config.model)
    if named is None or named.which != "live":
        raise ConfigurationError(f"--on-drift follows what is live: model: {config.detector}@live, not {config.model}")
    if wanted.patience.promote_after is not None and config.topics.scores is None:
        raise ConfigurationError("--promote-after compares scores: topics.scores must not be null")
    asyncio.run(_watch(_Watch(config, named.detector, wanted, folder, say)))


async def _watch(watch: _Watch) -> None:
    async with consumer_of(watch.config) as consumer:
        tps = partitions_of(watch.config, watch.config.topics.drift)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        watch.say(f"waiting for drift of {watch.name} on {watch.config.topics.drift}")
        while True:
            await _listen(watch, consumer)
            history = await read_pointers(watch.config)
            step = next_step(history, watch.name, watch.drifted, watch.wanted.patience, _now_ms())
            if await _do(watch, step) and watch.wanted.once:
                return


async def _listen(watch: _Watch, consumer: AIOKafkaConsumer) -> None:
    """Drift events of this detector, as they come."""
    for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
        for record in records:
            event = body_of(record.value)
            if event is not None and event.get("detector") == watch.config.detector and _counts(event):
                watch.drifted.append(Drifted(str(event.get("bundle")), record.timestamp))
                watch.say(_told(event))


def _told(event: dict[str, Any]) -> str:
    """An event for people; what it lacks is shown as a question mark."""
    before, after = (f"{x:.3g}" if isinstance(x := event.get(n), int | float) else "?" for n in ("before", "after"))
    who, how = event.get("entity") or "all entities", f"{event.get('method', '?')} of {event.get('statistic', '?')}"
    return plain(f"drift of {who}: {how} from {before} to {after}")


def _counts(event: dict[str, Any]) -> bool:
    """Not what KSWIN says of all entities' scores: it takes windows for independent, and neighbours are not."""
    return event.get("method") != "kswin"


async def _do(watch: _Watch, step: Step) -> bool:
    """Takes the step; gives whether it was the last one of a loop."""
    if isinstance(step, DoRefit):
        return await _refit(watch, step)
    if isinstance(step, Decide):
        return await _decide(watch, step)
    if step.why != watch.told:
        watch.told = step.why
        watch.say(step.why)
    return False


async def _refit(watch: _Watch, step: DoRefit) -> bool:
    """Refits on what came since, and puts the candidate into shadow."""
    if watch.refused.get(step.since_ms, 0) >= _TRIES or _now_ms() < watch.not_before_ms:
        return False
    wanted = replace(watch.wanted.refit, start_ms=step.since_ms, end_ms=None, last_ms=None, resume=False, why=ON_DRIFT)
    watch.say("refitting")
    try:
        done = await asyncio.to_thread(refit, watch.config, wanted, watch.folder, watch.say)
    except CheckFailed as problem:
        watch.say(str(problem))
        watch.refused[step.since_ms] = watch.refused.get(step.since_ms, 0) + 1
        watch.not_before_ms = _now_ms() + watch.wanted.patience.settle
        return False
    wish = Wish(watch.name, done.version, reason=f"{ON_DRIFT}: the gate passed")
    if watch.wanted.patience.promote_after == 0:
        live = await verbs.promote(watch.config, wish)
        watch.say(f"{live.name} is live")
        return True
    await verbs.shadow(watch.config, wish)
    watch.say(f"{watch.name}@{done.version} runs in shadow")
    return watch.wanted.patience.promote_after is None


async def _decide(watch: _Watch, step: Decide) -> bool:
    """Compares shadow and live; promotes, or takes the shadow back."""
    config, shadow = watch.config, step.shadow
    folder = await asyncio.to_thread(fetch, config, shadow, cache_folder(config))
    detector = await asyncio.to_thread(open_bundle, folder, shadow.digest)
    seen = await compare(config, shadow.digest, step.since_ms, risk_of(config, detector))
    found = gate_of(seen, config.gates)
    for check in found.checks:
        watch.say(line(check))
    if not found.passed:
        missed = ", ".join(check.name for check in found.checks if not check.passed)
        await verbs.unshadow(config, Wish(watch.name, reason=f"{ON_DRIFT}: missed {missed}"))
        watch.say(f"{shadow.name} stays a candidate: {missed}")
        return False
    words = f"{ON_DRIFT}: compared on {seen.windows} windows"
    live = await verbs.promote(config, Wish(watch.name, shadow.version, reason=words))
    watch.say(f"{live.name} is live")
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
