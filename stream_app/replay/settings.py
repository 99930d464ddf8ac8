"""The configuration under which a topic is replayed: the detector's own, reading this topic alone.

In: a configuration. Out: another. Remembers: nothing.
"""

from __future__ import annotations

from stream_app.config import Config, Source


def of_topic(config: Config, topic: str) -> Config:
    """The topic as its one source. Which model it is under each pipeline is told."""
    source = next((source for source in config.sources if source.topic == topic), Source(topic=topic))
    return config.model_copy(update={"sources": (source,)})
