"""Where models live: names of topics, references in configurations, the folder of bundles that were fetched.

In: the configuration. Out: names, shapes, paths. Remembers: nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.live.topics import TopicShape
from stream_app.model_store.pointers import NAME, VERSION_MAX

# Small segments, so that the room of bundles that were pruned is free before there are a thousand more.
_BUNDLES = {"segment.bytes": str(64 << 20)}
_REFERENCE = re.compile(rf"({NAME.strip('^$')})@(live|shadow|[0-9]{{1,10}})")


@dataclass(frozen=True)
class Reference:
    """A version on the models topic: `which` is live, shadow, or a number."""

    detector: str
    which: str | int

    def __str__(self) -> str:
        return f"{self.detector}@{self.which}"


def reference(model: str | None) -> Reference | None:
    """What `pump@live`, `pump@shadow` or `pump@7` names; None for a path. Raises ConfigurationError for neither.

    >>> reference("pump@7"), reference("bundles/pump")
    (Reference(detector='pump', which=7), None)
    """
    if model is None or "@" not in model or "/" in model or Path(model).is_dir():
        return None
    found = _REFERENCE.fullmatch(model)
    if found is None or (found[2].isdigit() and not 1 <= int(found[2]) <= VERSION_MAX):
        raise ConfigurationError(f"model: {model!r} is neither a folder nor DETECTOR@live, @shadow or @VERSION")
    return Reference(found[1], int(found[2]) if found[2].isdigit() else found[2])


def data_topic(config: Config) -> str:
    """The bundles themselves, in chunks."""
    return f"{config.topics.models}-data"


def swaps_topic(config: Config) -> str:
    """At which offset each partition went from one bundle to the next."""
    return f"{config.topics.models}-swaps"


def topic_shapes(config: Config) -> dict[str, TopicShape]:
    """The three topics of models. One partition each: its order decides which version is the live one."""
    shapes = {name: TopicShape(1, compacted=True) for name in (config.topics.models, swaps_topic(config))}
    return shapes | {data_topic(config): TopicShape(1, compacted=True, settings=_BUNDLES)}


def cache_folder(config: Config) -> Path:
    """`registry.cache`, or Tailrace's own below `$XDG_CACHE_HOME` or `~/.cache`."""
    if config.registry.cache is not None:
        return config.registry.cache
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tailrace" / "models"
