"""The topics of a detector, for the commands: created before the first worker, or looked at without changing anything.

In: the configuration. Out: topics with their partitions. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.live import preflight
from stream_app.live.security import security_settings
from stream_app.live.topics import TopicShape, ensure_topics, partition_counts
from stream_app.model_store.places import reference, topic_shapes
from stream_app.opening import configured_detector
from stream_app.windows.extents import misfit

_PATIENCE_US = 5_000_000  # a person waits; a worker's supervisor need not


def create(config: Config, partitions: int, named: Sequence[str]) -> list[dict[str, Any]]:
    """Creates the named topics, or with none named a detector's sources and all that its worker wants."""
    sources = list(named) or [source.topic for source in config.sources]
    security = security_settings(config.security)
    # A source may be there with another number of partitions, and keeps it.
    there = partition_counts(config.brokers, sources, **security)
    wanted = {topic: TopicShape(partitions) for topic in sources if topic not in there}
    ensure_topics(config.brokers, wanted, **security)
    if not named:
        preflight.check(_impatient(config))
    counts = partition_counts(config.brokers, list(named) or _all(config), **security)
    return [{"topic": topic, "partitions": n} for topic, n in sorted(counts.items())]


def check(config: Config) -> str | None:
    """Gives what is to be said of a configuration that works. Raises BrokerUnreachable, ConfigurationError or
    BundleRefused for the first thing that is not as it must be."""
    sources = [source.topic for source in config.sources]
    there = partition_counts(config.brokers, sources, **security_settings(config.security))
    if missing := [topic for topic in sources if topic not in there]:
        names = " ".join(f"--topic {topic}" for topic in missing)
        raise ConfigurationError(f"{', '.join(missing)} not found on {config.brokers}: tailrace topics create {names}")
    detector = configured_detector(config)
    return misfit(config, detector) if detector else None


def _all(config: Config) -> list[str]:
    sources = config.sources
    ours = [config.topics.alerts, config.topics.drift, *([config.topics.scores] if config.topics.scores else [])]
    kept = [preflight.changelog_topic(config, source.topic) for source in sources]
    models = topic_shapes(config) if reference(config.model) else ()
    return [*(s.topic for s in sources), *(s.dead_letter_topic for s in sources), *ours, *kept, *models]


def _impatient(config: Config) -> Config:
    return config.model_copy(update={"worker": config.worker.model_copy(update={"stuck_after": _PATIENCE_US})})
