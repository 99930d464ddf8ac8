"""Training data from topics: the worker's own records stage and, where windows are known, its windows stage.

In: offset ranges of topics. Out: samples with names, as a file's. Remembers: nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from aiokafka import TopicPartition

from models.detector import Detector
from models.scenes import I32
from stream_app.cli.output import progress
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.files.reader import Rows
from stream_app.keys import Keys
from stream_app.live.topic_batches import Bounds, batches_between, bounds, consumer_of, partitions_of
from stream_app.records.decoder import Decoder, DecoderSettings
from stream_app.records.names import FIRST_TOKEN
from stream_app.samples import RawBatch, Samples
from stream_app.windows import timed as windows
from stream_app.windows.closed import INGEST, STAGE
from training.accepted import Accepted
from training.reading import MAX_SAMPLES, Named, joined


@dataclass(frozen=True)
class TopicRead:
    """What to read. `like`: the detector whose windows decide what is late; None: everything that can be decoded."""

    bounds: Bounds
    like: Detector | None = None


def read_topic(topic: str, config: Config) -> tuple[Named, list[str]]:
    """The samples of a topic until its present end. Raises BrokerUnreachable, ConfigurationError."""

    async def everything() -> Bounds:
        async with consumer_of(config) as consumer:
            return await bounds(consumer, partitions_of(config, topic))

    return read_topics(TopicRead(asyncio.run(everything())), config)


def read_topics(wanted: TopicRead, config: Config) -> tuple[Named, list[str]]:
    """The samples of ranges of topics. Raises BrokerUnreachable, ConfigurationError."""
    return asyncio.run(_read(wanted, config))


async def _read(wanted: TopicRead, config: Config) -> tuple[Named, list[str]]:
    gathered: dict[TopicPartition, _Partition] = {}
    total = sum(end - begin for begin, end in wanted.bounds.values())
    n, records = 0, 0
    with progress("reading", total) as tell:
        async with consumer_of(config) as consumer:
            async for batch in batches_between(consumer, wanted.bounds):
                tp = TopicPartition(batch.topic, batch.partition)
                n += gathered.setdefault(tp, _Partition(tp.topic, config, wanted.like)).add(batch)
                if n > MAX_SAMPLES:
                    raise ConfigurationError(f"more than {MAX_SAMPLES:,} samples; take a part, by --from and --to")
                tell(records := records + len(batch))
    kinds = {kind for partition in gathered.values() for kind in partition.kinds}
    if len(kinds) > 1:
        names = ", ".join(sorted({tp.topic for tp in wanted.bounds}))
        raise ConfigurationError(f"{names} holds sensors' samples and tokens; a detector is trained on one of them")
    return _merged(list(gathered.values()), (kinds or {"sensors"}).pop())


class _Partition:
    """What one partition gave, with its own numbers for sessions, sensors and tokens."""

    def __init__(self, topic: str, config: Config, like: Detector | None) -> None:
        self._keys = Keys({STAGE: INGEST})
        self.decoder = Decoder(DecoderSettings.of(config, topic), self._keys)
        self._windows = windows.of(config, like, self._keys) if like else None
        self._accepted = Accepted(like.windows.counted if like else False, self._keys.name)
        self.rows: list[Rows] = []
        self.sessions = self._accepted.sessions  # the entity of each; a tombstone begins another
        self.refused: Counter[str] = Counter()

    def add(self, batch: RawBatch) -> int:
        """Takes the next records; gives how many samples they came to."""
        decoded = self.decoder.decode(batch)
        for letter in decoded.dead_letters:
            self.refused[letter.reason] += letter.n_samples
        if self._windows is None:
            new = [self._as_they_came(decoded.samples)]
        else:
            closed = self._windows.update(decoded.samples, self.decoder.clock_us)
            self.refused["late"] += len(closed.late)
            self.refused["duplicate"] += len(closed.duplicate)
            new = self._accepted.take(closed)
        self.rows += new
        return sum(map(len, new))

    def _as_they_came(self, s: Samples) -> Rows:
        slots = int(s.entity.max(initial=-1)) + 1
        self.sessions += [self._keys.name(slot) for slot in range(len(self.sessions), slots)]
        keep = np.flatnonzero(~s.end)
        return Rows(s.entity[keep], s.sensor[keep], s.t_us[keep], s.value[keep], s.offset[keep])

    @property
    def kinds(self) -> set[str]:
        return ({"sensors"} if self.decoder.sensors else set()) | ({"tokens"} if self.decoder.vocabulary else set())

    def numbered(self, kind: str, lists: _Lists) -> Iterator[Rows]:
        """Its samples, numbered as in the lists that all partitions share."""
        entity_of = lists.entities.add(self.sessions)
        words = sorted(self.decoder.vocabulary.items(), key=lambda item: item[1])
        token_of, sensor_of = lists.tokens.add([w for w, _ in words]), lists.sensors.add(list(self.decoder.sensors))
        for r in self.rows:
            value = token_of[r.value.astype(np.int64) - FIRST_TOKEN] if kind == "tokens" else r.value
            sensor = np.zeros(len(r), np.int32) if kind == "tokens" else sensor_of[r.sensor]
            yield Rows(entity_of[r.entity], sensor, r.t_us, np.asarray(value, np.float64), r.row)


class _List:
    """Names met so far. Of sessions each is a name of its own, and the second one of an entity is marked."""

    def __init__(self, distinct: bool) -> None:
        self.names: list[str] = []
        self._place: dict[str, int] = {}
        self._distinct = distinct

    def add(self, names: Sequence[str]) -> I32:
        """The place of each name."""
        return np.array([self._one(name) for name in names], np.int32)

    def _one(self, name: str) -> int:
        n, word = 1, name
        while self._distinct and word in self._place:
            n += 1
            word = f"{name} ({n})"
        if word not in self._place:
            self._place[word] = len(self.names)
            self.names.append(word)
        return self._place[word]


class _Lists:
    """The names of all partitions. Sessions of tokens stay apart; a machine that came back is the same machine."""

    def __init__(self, kind: str) -> None:
        self.entities, self.sensors, self.tokens = _List(kind == "tokens"), _List(False), _List(False)


def _merged(partitions: list[_Partition], kind: str) -> tuple[Named, list[str]]:
    lists = _Lists(kind)
    rows = joined([rows for partition in partitions for rows in partition.numbered(kind, lists)])
    refused: Counter[str] = sum((partition.refused for partition in partitions), Counter())
    notes = [f"{n:,} samples left out: {reason}" for reason, n in sorted(refused.items()) if n]
    return Named(kind, lists.entities.names, lists.sensors.names, lists.tokens.names, rows), notes
