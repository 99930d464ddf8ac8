"""The state at the beginning of a range, from the changelog: what workers wrote before they had read that far.

In: a plan, and the changelog of the detector's group. Out: the plan, with the states of its slices in files. Remembers:
while it reads a changelog, what a worker does: the newest state of each session.

A changelog is read from its beginning to the first record that knows of the range (`Past`). What was written by then is
what a worker would have found that had been started there; it reads on from the offset then committed, and so does the
replay. That holds only where nothing of it is gone: compaction removes a state for the sake of a newer one, which may
lie behind. What is needed is there

    where no offset is missing;
    where every session told of behind is known before, or began later: of a session the older states go first, so one
    that is left is the newest of then, and tombstones stay for delete.retention.ms;
    where the topic's min.compaction.lag.ms has kept compaction from records as old as the first that lies behind.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from stream_app.checkpoint import split_key
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.judging import PipelineSpec, layout_of, layouts
from stream_app.keys import Keys
from stream_app.live.preflight import changelog_topic
from stream_app.live.security import security_settings
from stream_app.live.topic_batches import batches_between, bounds, consumer_of
from stream_app.live.topics import partition_counts
from stream_app.replay.bundles import Named
from stream_app.replay.finding import History, Plan, Slice, setting
from stream_app.samples import RawBatch
from stream_app.stamps import Stamp
from stream_app.states import StateCodec

STATES = "states"
_CLOCKS_APART_MS = 60_000  # of brokers, workers and ours, at most


class Past:
    """What a changelog's partition said before any of its records knew of the source's offset `begin`."""

    def __init__(self, begin: int) -> None:
        self.states: dict[bytes, bytes] = {}
        self.last: Stamp | None = None
        self.reach = 0  # of all states; a worker that starts again writes with less than the one before it
        self.newest: list[bytes] = []  # states of the last checkpoint that wrote any
        self.doubtful: set[bytes] = set()  # states by who had lost the partition, over those of who had it
        self.n, self.end = 0, 0  # records of then, and the offset behind them
        self.whole = True  # no offset is missing
        self.unstamped = False  # there is a record by an earlier version: nobody knows when it was written
        self.beyond_us: int | None = None  # when the first record was written that is not of then
        self.missed = False  # a later record is of a session that began before `begin`, and of which no state is known
        self._begin = begin
        self._checkpoint: tuple[bytes, int] | None = None
        self._former: set[bytes] = set()

    def take(self, batch: RawBatch) -> bool:
        """Takes the next records; gives whether there is more to be known."""
        rows = zip(
            batch.keys, batch.values, batch.offsets.tolist(), batch.clock_us.tolist(), batch.headers, strict=True
        )
        for key, value, offset, written_us, headers in rows:
            if self.beyond_us is None:
                self.whole &= offset == self.end
                stamp = Stamp.of(headers)
                if stamp is not None and stamp.reach <= self._begin:
                    self._put(key or b"", value, stamp)
                    self.n, self.end = self.n + 1, offset + 1
                    continue
                self.beyond_us, self.unstamped = written_us, stamp is None
            if self.whole or self.unstamped or self.missed:
                return False
            self.missed = key not in self.states and _began(key) < self._begin
        return True

    def _put(self, session: bytes, state: bytes | None, stamp: Stamp) -> None:
        stale = stamp.writer in self._former
        if not stale and self.last is not None and self.last.writer != stamp.writer:
            self._former.add(self.last.writer)
        self.last = self.last if stale else stamp
        self.reach = max(self.reach, stamp.reach)
        self.doubtful.discard(session)
        if state is None:  # whoever deletes has committed that the session is over
            self.states.pop(session, None)
            return
        if stale:
            self.doubtful.add(session)
        if self._checkpoint != (stamp.writer, stamp.reach):
            self._checkpoint, self.newest = (stamp.writer, stamp.reach), []
        self.newest.append(state)
        self.states[session] = state


@dataclass(frozen=True)
class Search:
    """What a history is looked for: `folder` is the replay's work folder; None where only the plan is wanted."""

    config: Config
    models: Sequence[Named]
    folder: Path | None

    async def remembered(self, plan: Plan, must: bool) -> Plan:
        """The plan, from the changelog where that is possible; why it is not elsewhere stands in its notes.

        must: there is no other way. Raises ConfigurationError where that is so, BrokerUnreachable.
        """
        changelog = changelog_topic(self.config, plan.topic)
        slices, refused = list(plan.slices), defaultdict[str, list[int]](list)
        there = partition_counts(self.config.brokers, [changelog], **security_settings(self.config.security))
        async with consumer_of(self.config) as consumer:
            for i, s in enumerate(slices):
                if s.begin == s.end or not (s.begin if must else s.warm_up):
                    continue  # nothing is asked for, or the topic's first record is read
                try:
                    if s.partition >= there.get(changelog, 0):
                        raise _Refused("there is no such topic; --config names the detector and its group")
                    slices[i] = await self._slice(consumer, s, plan.topic, changelog)
                except _Refused as problem:
                    refused[str(problem)].append(s.partition)
        notes = [f"{changelog}{_named(ps, plan)} does not give the live state: {why}" for why, ps in refused.items()]
        if must and notes:
            raise ConfigurationError("; ".join(notes))
        exact = all(s.history is not None or s.warm_up == 0 for s in slices)
        return replace(plan, slices=tuple(slices), exact=exact, notes=(*plan.notes, *notes))

    async def _slice(self, consumer: AIOKafkaConsumer, s: Slice, topic: str, changelog: str) -> Slice:
        """The slice, begun from the changelog. Raises _Refused."""
        past = await self._past(consumer, TopicPartition(changelog, s.partition), s.begin)
        if past.last is None:
            raise _Refused("it holds no state from before the range")
        if past.doubtful:
            raise _Refused("a worker wrote states after it had lost the partition to another")
        source = TopicPartition(topic, s.partition)
        first = (await consumer.beginning_offsets([source]))[source]
        if past.last.committed < first:
            raise _Refused(f"its states go on from offset {past.last.committed:,}, which {topic} holds no longer")
        for named in self.models:
            self._must_fit(past, past.last, named, s)
        if self.folder is not None:
            _write(self.folder, s.partition, past.states)
        history = History(past.reach, past.last.clock_us, len(past.states))
        return replace(s, warm_up=past.last.committed, history=history)

    async def _past(self, consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int) -> Past:
        """Raises _Refused where something of it is gone."""
        past, range_of = Past(begin), await bounds(consumer, [tp])
        try:
            async with aclosing(batches_between(consumer, range_of)) as found:
                async for batch in found:
                    if not past.take(batch):
                        break
        except TopicAuthorizationFailedError:
            raise _Refused("it may not be read") from None
        if past.unstamped:
            raise _Refused("it holds states written by an earlier version, which did not say of which offset they are")
        first, end = range_of[tp]
        if first > 0:
            raise _Refused("its first records were deleted")
        if not (past.whole or await self._is_enough(consumer, tp, past, end)):
            raise _Refused("compaction may have removed states of then; min.compaction.lag.ms of the topic keeps them")
        return past

    async def _is_enough(self, consumer: AIOKafkaConsumer, tp: TopicPartition, past: Past, end: int) -> bool:
        """Whether what compaction has left is all that is needed; `end`: of the changelog when it was read."""
        if past.beyond_us is None:  # all is of then, and stands for what is gone
            return bool((await consumer.end_offsets([tp]))[tp] == end)
        if self._is_younger(past.beyond_us, tp.topic, "min.compaction.lag.ms"):
            return True
        if past.missed or not self._is_younger(past.beyond_us, tp.topic, "delete.retention.ms"):
            return False
        again = batches_between(consumer, {tp: (0, past.end)})
        return sum([len(batch) async for batch in again]) == past.n  # otherwise it was at work while we read

    def _is_younger(self, written_us: int, changelog: str, setting_ms: str) -> bool:
        age_ms = time.time() * 1000 - written_us / 1000 + _CLOCKS_APART_MS
        return age_ms < int(setting(self.config, changelog, setting_ms) or 0)

    def _must_fit(self, past: Past, last: Stamp, named: Named, s: Slice) -> None:
        """Raises _Refused where the model can't go on from these states."""
        spec = PipelineSpec(self.config, named.detector, partition=s.partition)
        codec = StateCodec(Keys(layouts(spec)), layout_of(spec))
        try:
            fit = all(codec.fits(state, last.committed) for state in past.states.values())
            known = bool(named.taken) or all(map(codec.has_own, past.newest))
        except ConfigurationError:
            raise _Refused("its states were written by another version, or for other windows") from None
        if not fit:
            raise _Refused("its states do not belong to one commit; the group's offsets may have been reset")
        if not known:
            raise _Refused(f"its states hold nothing that {named.name} has learned")
        used = named.within(s.partition, past.reach, s.end)
        if last.missed and any(one.shadow and one.path and one.at == past.reach for one in used):
            raise _Refused(f"a version that goes live in the range had {last.missed:,} windows to judge yet")


def _began(session: bytes | None) -> int:
    """The offset of its first record."""
    try:
        return split_key(session or b"")[1]
    except ValueError:  # none of ours
        return -1


class _Refused(Exception):
    """Why the changelog does not give the state."""


def states_of(folder: Path, s: Slice) -> MutableMapping[bytes, bytes]:
    """The states that a slice begins with, by session; none where there is no history. `folder`: the work folder."""
    if s.history is None:
        return {}
    import pyarrow.parquet as pq

    table = pq.read_table(_file(folder, s.partition))
    return dict(zip(table["session"].to_pylist(), table["state"].to_pylist(), strict=True))


def _write(folder: Path, partition: int, states: dict[bytes, bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _file(folder, partition)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"session": list(states.keys()), "state": list(states.values())}
    schema = pa.schema({"session": pa.binary(), "state": pa.large_binary()})
    pq.write_table(pa.table(columns, schema), file, compression="none")


def _file(folder: Path, partition: int) -> Path:
    return folder / STATES / f"{partition}.parquet"


def _named(partitions: Sequence[int], plan: Plan) -> str:
    """Which of the changelog's partitions are meant, where not all are."""
    return "" if len(partitions) == len(plan.slices) else str(list(partitions))
