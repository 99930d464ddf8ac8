"""What must be right before a worker starts, checked in order and said in plain words.

In: the configuration. Out: `Plan`, the number of partitions of each source; missing topics of our own are created.
Remembers: nothing. A source topic is never created: a misspelt name would become a topic that nobody writes to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, ConfigurationError
from stream_app.live.security import client_settings
from stream_app.live.topics import TopicShape, ensure_topics, partition_counts
from stream_app.model_store.places import reference, topic_shapes

T = TypeVar("T")
log = structlog.get_logger("worker")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
# Small segments, so that compaction starts while a changelog is still small: what is compacted is not recovered.
_CHANGELOG = {"segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.3"}


@dataclass(frozen=True)
class Plan:
    """What the worker starts with."""

    settings: Mapping[str, Any]  # of every Kafka client
    counts: Mapping[str, int]  # partitions of each source topic


def changelog_topic(config: Config, source: str) -> str:
    """The topic that keeps the states of the keys of a source topic.

    >>> changelog_topic(Config(detector="pump", sources=[{"topic": "samples"}]), "samples")
    'pump-samples-changelog'
    """
    return f"{config.group_id}-{source}-changelog"


def shadow_topic(topic: str) -> str:
    """Where a version in shadow says what the live one says on `topic`."""
    return f"{topic}-shadow"


def agreement_topic(config: Config) -> str:
    """How the live version and its shadow agree, per group and source partition."""
    return f"{config.topics.models}-agreement"


def check(config: Config) -> Plan:
    """Everything in order; it blocks until the brokers answer, as long as `worker.stuck_after` allows.

    Raises BrokerUnreachable, or ConfigurationError naming the topic and what to do.
    """
    settings = client_settings(config)
    names = set(_own_topics(config, {source.topic: 1 for source in config.sources}))
    names |= {source.topic for source in config.sources}
    counts = _patiently(lambda: partition_counts(topics=names, **_named(settings)), config)
    sources = _source_counts(config, counts)
    for topic, n in sources.items():
        _check_changelog(topic, n, changelog_topic(config, topic), counts)
    missing = {name: shape for name, shape in _own_topics(config, sources).items() if name not in counts}
    if missing:
        log.info("creating topics", topics={name: shape.partitions for name, shape in missing.items()})
        _patiently(lambda: ensure_topics(shapes=missing, **_named(settings)), config)
    return Plan(settings, sources)


def _source_counts(config: Config, counts: Mapping[str, int]) -> dict[str, int]:
    missing = [source.topic for source in config.sources if source.topic not in counts]
    if missing:
        name = missing[0]
        raise ConfigurationError(
            f"topic {name!r} does not exist on {config.brokers}. Create it with as many partitions as you want workers:"
            f" kafka-topics.sh --bootstrap-server {config.brokers} --create --topic {name} --partitions 4"
        )
    return {source.topic: counts[source.topic] for source in config.sources}


def _check_changelog(topic: str, n: int, changelog: str, counts: Mapping[str, int]) -> None:
    if (kept := counts.get(changelog, n)) != n:
        raise other_count(topic, n, changelog, kept)


def other_count(topic: str, n: int, changelog: str, kept: int) -> ConfigurationError:
    """A source has another number of partitions than the topic that keeps its keys' states."""
    moved = 1 - min(n, kept) / math.lcm(n, kept)  # of all hashes, those whose remainders differ
    return ConfigurationError(
        f"topic {topic!r} has {n} partitions, and the states of its keys are kept in {changelog!r}, which has {kept}:"
        f" new records of {moved:.0%} of the keys lie in other partitions than before, where their states would be"
        f" missed. Begin anew under another `group`, which reads the topic from its beginning, or make the topic anew"
        f" with {kept} partitions"
    )


def _own_topics(config: Config, counts: Mapping[str, int]) -> dict[str, TopicShape]:
    """Our topics, and what each is to be, given the partitions of the sources."""
    widest = max(counts.values())
    shapes = {config.topics.alerts: TopicShape(widest, compacted=True), config.topics.drift: TopicShape(widest)}
    if config.topics.scores is not None:
        shapes[config.topics.scores] = TopicShape(widest)
    for source in config.sources:
        n = counts[source.topic]
        shapes[source.dead_letter_topic] = TopicShape(n)
        shapes[changelog_topic(config, source.topic)] = TopicShape(n, compacted=True, settings=_CHANGELOG)
    return shapes | (_model_topics(config, widest) if reference(config.model) else {})


def _model_topics(config: Config, widest: int) -> dict[str, TopicShape]:
    """Of a worker whose bundle comes from the models topic."""
    shapes = topic_shapes(config) | {agreement_topic(config): TopicShape(1, compacted=True)}
    shapes[shadow_topic(config.topics.alerts)] = TopicShape(widest, compacted=True)
    if config.topics.scores is not None:
        shapes[shadow_topic(config.topics.scores)] = TopicShape(widest)
    return shapes


def _patiently(ask: Callable[[], T], config: Config) -> T:
    """Asks again, with growing pauses, while the brokers do not answer."""
    give_up, pause = time.monotonic() + config.worker.stuck_after / 1e6, _FIRST_PAUSE_S
    while True:
        try:
            return ask()
        except BrokerUnreachable as problem:
            if time.monotonic() + pause > give_up:
                raise
            log.warning("waiting for Kafka", why=str(problem), again_in_s=pause)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The clients' settings as `stream_app.live.topics` takes them."""
    return {"bootstrap" if name == "bootstrap_servers" else name: value for name, value in settings.items()}
