"""Which bundles a replay runs under: folders, versions of the models topic, or what was live at each offset.

In: what `--model` was given. Out: `Named`, with the bundle of each offset. Remembers: nothing.

    bundles/pump           a folder
    pump@live  pump@7      a version on the models topic, as it is now, over the whole range
    live                   what the detector's own workers took over at each offset, as `<models>-swaps` tells it;
                           a version that went live out of shadow judges as a shadow before that, as it did there
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
Told = dict[str, Any]  # a record of the swaps topic
Place = tuple[str, str]  # folder and name of a version


@dataclass(frozen=True)
class Used:
    """A bundle and the offset from which it is used, or from which it judges as a shadow; no shadow any more where it
    has no path. `name` is what `--model` takes."""

    at: int
    path: str
    name: str
    digest: str
    shadow: bool = False


@dataclass(frozen=True)
class Missed:
    """A version that went live at an offset out of shadow had not judged so many windows; None: nobody told."""

    partition: int
    at: int
    name: str
    windows: int | None


@dataclass(frozen=True)
class Named:
    """A model of the replay. `taken`: per partition what was taken over, in order; where none is named, `path` is used
    throughout. `detector`: the last of them, open. `missed`: what of live can't be had again."""

    label: str
    name: str
    path: str
    detector: Detector
    taken: Mapping[int, tuple[Used, ...]]
    missed: tuple[Missed, ...] = ()

    @classmethod
    def of(cls, label: str, name: str, path: Path, detector: Detector) -> Named:
        """One bundle throughout."""
        return cls(label, name, str(path), detector, {})

    def notes(self, partition_ranges: Mapping[int, tuple[int, int]]) -> tuple[str, ...]:
        """What differs from live in these ranges of offsets, half-open, warm-ups included."""
        nowhere = (0, 0)
        ranges = [(one, partition_ranges.get(one.partition, nowhere)) for one in self.missed]
        return tuple(_notes([one for one, (begin, end) in ranges if begin <= one.at < end]))

    def within(self, partition: int, start: int, end: int) -> tuple[Used, ...]:
        """What is used in offsets [start, end), the first from `start` on. Shadows are there where they go live in it:
        what they learn before counts then, and what others learn never does."""
        taken = self.taken.get(partition, ())
        if not taken:
            return (Used(start, self.path, self.name, self.detector.digest),)
        start_of_all = max(start, taken[0].at)
        before = [used for used in taken if used.at <= start_of_all]
        live = max(i for i, used in enumerate(before) if not used.shadow)
        begins = [replace(used, at=start) for used in (before[live], *before[live + 1 :][-1:])]
        return _that_matter([*begins, *(used for used in taken if start_of_all < used.at < end)])


def _that_matter(taken: list[Used]) -> tuple[Used, ...]:
    """Without the shadows that do not go live later, and without the ends of what has not begun."""
    found: list[Used] = []
    runs = False
    for i, used in enumerate(taken):
        goes_live = any(used.digest == later.digest and not later.shadow for later in taken[i + 1 :])
        if used.shadow and not goes_live:
            if runs:
                found.append(Used(used.at, "", "", "", shadow=True))
            runs = False
            continue
        found.append(used)
        runs = used.shadow
    return tuple(found)


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
    """What was live: the swaps of the detector's group on this topic, and the shadows that went live by them."""
    told = asyncio.run(_told(config, topic))
    swaps = [swap for of_partition in told.values() for swap in of_partition if "to" in swap]
    if not swaps:
        raise ConfigurationError(
            f"no swap of the group {config.group_id} on {topic} is told on {swaps_topic(config)}: its workers did not "
            "follow the models topic; give --config of the detector, or name a bundle"
        )
    known = history(config)
    places = {digest: _fetched(config, known, digest) for digest in sorted({str(swap["to"]) for swap in swaps})}
    taken = {partition: _taken(of_partition, places) for partition, of_partition in told.items()}
    newest = str(max(swaps, key=lambda swap: int(swap["at_ms"]))["to"])
    path, _ = places[newest]
    detector = open_bundle(Path(path), newest)
    return Named(label, LIVE, path, detector, {p: t for p, t in taken.items() if t}, tuple(_missing(told, places)))


def _taken(told: list[Told], places: Mapping[str, Place]) -> tuple[Used, ...]:
    """Of a partition, from its first bundle on. A version that never went live is no shadow worth running."""
    found: list[Used] = []
    for one in told:
        shadow = "to" not in one
        digest = str(one["shadow"] if shadow else one["to"])
        path, name = places.get(digest, ("", ""))
        if found or not shadow:
            found.append(Used(int(one["offset"]), path, name, digest if path else "", shadow))
    return tuple(found)


def _missing(told: Mapping[int, list[Told]], places: Mapping[str, Place]) -> Iterator[Missed]:
    """Of shadows that went live, what their tails did not know then and those of a replay do.

    Whoever ends a shadow, or goes on with one after a crash, tells what was missed until then.
    """
    for partition, of_partition in told.items():
        missed: Counter[str] = Counter()
        untold: set[str] = set()
        runs = None
        for one in of_partition:
            if "to" in one:
                to, at = str(one["to"]), int(one["offset"])
                n = missed.pop(to, 0) + int(one.get("missed", 0))
                if n or to in untold:
                    yield Missed(partition, at, places[to][1], None if to in untold else n)
                runs = None if to == runs else runs
                continue
            if one.get("missed") is not None:
                missed[str(runs)] += one["missed"]
            elif one["shadow"] == runs:
                untold.add(str(runs))
            runs = one["shadow"]


def _notes(missed: Sequence[Missed]) -> Iterator[str]:
    """A sentence for each version."""
    for name in dict.fromkeys(one.name for one in missed):
        counts = [one.windows for one in missed if one.name == name]
        differ = "from live for a while after it went live"
        if None in counts:
            yield (
                f"{name} was a shadow in workers of an earlier version, which ended and did not tell how many windows "
                f"it missed: its thresholds may differ {differ}"
            )
        else:
            yield (
                f"{name} did not judge {sum(filter(None, counts)):,} windows as a shadow, which were passed over or "
                f"still waited when a worker ended: its thresholds differ {differ}"
            )


def _fetched(config: Config, known: History, digest: str) -> Place:
    """Folder and name of the version with a digest."""
    wanted = reference(config.model)
    for pointer in known.versions(wanted.detector if wanted else config.detector).values():
        if pointer.digest == digest:
            return str(fetch(config, pointer, cache_folder(config))), pointer.name
    raise ConfigurationError(f"the bundle {digest}, which was live, is not on {config.topics.models} any more")


async def _told(config: Config, topic: str) -> dict[int, list[Told]]:
    """By partition of the topic, in order; told twice, it counts once."""
    found: dict[bytes, Told] = {}
    source = swaps_topic(config)
    async with consumer_of(config) as consumer:
        tps: list[TopicPartition] = partitions_of(config, source)
        async for batch in batches(consumer, tps):
            for key, value in zip(batch.keys, batch.values, strict=True):
                if key is not None and value is not None:
                    found[key] = orjson.loads(value)
    by_partition: defaultdict[int, list[Told]] = defaultdict(list)
    for one in sorted(found.values(), key=lambda one: (int(one["offset"]), int(one["at_ms"]))):
        if one["group"] == config.group_id and one["topic"] == topic:
            by_partition[int(one["partition"])].append(one)
    return dict(by_partition)
