"""Which bundles a replay runs under: folders, versions of the models topic, or what was live at each offset.

In: what `--model` was given. Out: `Named`, with the bundle of each offset. Remembers: nothing.

    bundles/pump           a folder
    pump@live  pump@7      a version on the models topic, as it is now, over the whole range
    live                   what the detector's own workers took over at each offset, as `<models>-swaps` tells it
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import TopicPartition

from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.model_store.fetching import fetch, history, resolve
from stream_app.model_store.history import History
from stream_app.model_store.places import cache_folder, reference, swaps_topic
from stream_app.opening import open_bundle

LABELS = ("a", "b")
LIVE = "live"


@dataclass(frozen=True)
class Used:
    """A bundle and the offset from which it is used. `name` is what `--model` takes."""

    at: int
    path: str
    name: str
    digest: str


@dataclass(frozen=True)
class Named:
    """A model of the replay. `taken`: per partition the bundles taken over, by offset; where none is named, `path` is
    used throughout. `detector`: the last of them, open."""

    label: str
    name: str
    path: str
    detector: Detector
    taken: Mapping[int, tuple[Used, ...]]

    @classmethod
    def of(cls, label: str, name: str, path: Path, detector: Detector) -> Named:
        """One bundle throughout."""
        return cls(label, name, str(path), detector, {})

    def within(self, partition: int, start: int, end: int) -> tuple[Used, ...]:
        """The bundles used in offsets [start, end), the first from `start` on."""
        taken = self.taken.get(partition, ())
        if not taken:
            return (Used(start, self.path, self.name, self.detector.digest),)
        before = [used for used in taken if used.at <= start] or [taken[0]]
        first = Used(start, before[-1].path, before[-1].name, before[-1].digest)
        return (first, *(used for used in taken if max(start, taken[0].at) < used.at < end))


def open_models(config: Config, topic: str, names: Sequence[str]) -> tuple[Named, ...]:
    """The models, verified, as A and B. Raises ConfigurationError, BundleRefused, BrokerUnreachable."""
    return tuple(_open(config, topic, label, name) for label, name in zip(LABELS, names, strict=False))


def _open(config: Config, topic: str, label: str, name: str) -> Named:
    if name == LIVE and not Path(name).is_dir():
        return _followed(config, topic, label)
    wanted = reference(name)
    if wanted is None:
        return Named.of(label, name, Path(name), open_bundle(Path(name)))
    pointer, path = resolve(config, wanted)
    return Named.of(label, pointer.name, path, open_bundle(path, pointer.digest))


def _followed(config: Config, topic: str, label: str) -> Named:
    """What was live: the swaps of the detector's group on this topic."""
    swaps = asyncio.run(_swaps(config, topic))
    if not swaps:
        raise ConfigurationError(
            f"no swap of the group {config.group_id} on {topic} is told on {swaps_topic(config)}: its workers did not "
            "follow the models topic; give --config of the detector, or name a bundle"
        )
    known = history(config)
    paths: dict[str, tuple[str, str]] = {}
    taken: dict[int, tuple[Used, ...]] = {}
    for partition, told in swaps.items():
        rows = []
        for swap in sorted(told, key=lambda s: int(s["offset"])):
            digest = str(swap["to"])
            if digest not in paths:
                paths[digest] = _fetched(config, known, digest)
            rows.append(Used(int(swap["offset"]), *paths[digest], digest))
        taken[partition] = tuple(rows)
    newest = max((swap for told in swaps.values() for swap in told), key=lambda s: int(s["at_ms"]))
    path, _ = paths[str(newest["to"])]
    return Named(label, LIVE, path, open_bundle(Path(path), str(newest["to"])), taken)


def _fetched(config: Config, known: History, digest: str) -> tuple[str, str]:
    """Folder and name of the version with a digest."""
    for pointer in known.versions(config.detector).values():
        if pointer.digest == digest:
            return str(fetch(config, pointer, cache_folder(config))), pointer.name
    raise ConfigurationError(f"the bundle {digest}, which was live, is not on {config.topics.models} any more")


async def _swaps(config: Config, topic: str) -> dict[int, list[dict[str, Any]]]:
    """By partition of the topic; told twice, a swap counts once."""
    found: dict[bytes, dict[str, Any]] = {}
    source = swaps_topic(config)
    async with consumer_of(config) as consumer:
        tps: list[TopicPartition] = partitions_of(config, source)
        async for batch in batches(consumer, tps):
            for key, value in zip(batch.keys, batch.values, strict=True):
                if key is not None and value is not None:
                    found[key] = orjson.loads(value)
    by_partition: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for swap in found.values():
        if swap["group"] == config.group_id and swap["topic"] == topic:
            by_partition[int(swap["partition"])].append(swap)
    return dict(by_partition)
