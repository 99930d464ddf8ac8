"""Training data from a topic: the records stage of the worker over everything that the topic holds now.

In: a topic. Out: samples with names, as a file's. Remembers: nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import numpy as np

from models.scenes import I32
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.files.reader import Rows
from stream_app.keys import Keys
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.records.decoder import Decoder, DecoderSettings
from stream_app.records.names import FIRST_TOKEN
from stream_app.samples import Decoded, RawBatch, Samples
from training.reading import Named, joined

_NO_STATE = {"training": np.zeros(1, [("nothing", np.int8)])}


def read_topic(topic: str, config: Config) -> tuple[Named, list[str]]:
    """The samples of a topic until its present end. Raises BrokerUnreachable, ConfigurationError."""
    return asyncio.run(_read(topic, config))


async def _read(topic: str, config: Config) -> tuple[Named, list[str]]:
    gathered: dict[int, _Partition] = {}
    async with consumer_of(config) as consumer:
        async for batch in batches(consumer, partitions_of(config, topic)):
            gathered.setdefault(batch.partition, _Partition(topic, config)).add(batch)
    kinds = {kind for partition in gathered.values() for kind in partition.kinds}
    if len(kinds) > 1:
        raise ConfigurationError(f"{topic} holds sensors' samples and tokens; a detector is trained on one of them")
    return _merged(list(gathered.values()), (kinds or {"sensors"}).pop())


class _Partition:
    """What one partition gave, with its own numbers for entities, sensors and tokens."""

    def __init__(self, topic: str, config: Config) -> None:
        self._keys = Keys(_NO_STATE)
        source = next((source for source in config.sources if source.topic == topic), None)
        settings = DecoderSettings(default_entity=source.default_entity if source else None, limits=config.limits)
        self.decoder = Decoder(settings, self._keys)
        self.samples: list[Samples] = []
        self.refused: Counter[str] = Counter()
        self.sessions: list[str] = []  # the entity of each session; a tombstone begins another

    def add(self, batch: RawBatch) -> None:
        decoded: Decoded = self.decoder.decode(batch)
        self.samples.append(decoded.samples)
        slots = int(decoded.samples.runs.entity.max(initial=-1)) + 1
        self.sessions += [self._keys.name(slot) for slot in range(len(self.sessions), slots)]
        for letter in decoded.dead_letters:
            self.refused[letter.reason] += letter.n_samples

    @property
    def kinds(self) -> set[str]:
        return ({"sensors"} if self.decoder.sensors else set()) | ({"tokens"} if self.decoder.vocabulary else set())

    def rows(self, kind: str, lists: _Lists) -> Iterator[Rows]:
        """Its samples, numbered as in the lists that all partitions share."""
        entity_of = lists.entities.add(self.sessions)
        words = sorted(self.decoder.vocabulary.items(), key=lambda item: item[1])
        token_of, sensor_of = lists.tokens.add([w for w, _ in words]), lists.sensors.add(list(self.decoder.sensors))
        for s in self.samples:
            keep = np.flatnonzero(~s.end)
            value = token_of[s.value[keep].astype(np.int64) - FIRST_TOKEN] if kind == "tokens" else s.value[keep]
            sensor = np.zeros(len(keep), np.int32) if kind == "tokens" else sensor_of[s.sensor[keep]]
            yield Rows(entity_of[s.entity[keep]], sensor, s.t_us[keep], np.asarray(value, np.float64), s.offset[keep])


class _List:
    """Names met so far. Of sessions each is a name of its own, and the second one of an entity is marked."""

    def __init__(self, distinct: bool) -> None:
        self.names: list[str] = []
        self._place: dict[str, int] = {}
        self._distinct = distinct

    def add(self, names: list[str]) -> I32:
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
    rows = joined([rows for partition in partitions for rows in partition.rows(kind, lists)])
    refused: Counter[str] = sum((partition.refused for partition in partitions), Counter())
    notes = [f"{n:,} samples left out: {reason}" for reason, n in sorted(refused.items())]
    return Named(kind, lists.entities.names, lists.sensors.names, lists.tokens.names, rows), notes
