"""A part of a replay: one partition under one model, through the pipeline that runs live, into a folder of its own.

In: a slice of the topic and a detector. Out: what `tailrace detect` writes, the drift events, a sample of embeddings,
and `done.json`, written last: a part that has it is whole, one that lacks it is done again. Remembers: nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import AIOKafkaConsumer, TopicPartition

from models.detector import Detector
from models.scenes import I64
from stream_app.checkpoint import Books, Swap, metadata
from stream_app.config import Config
from stream_app.files.results import ResultFolder
from stream_app.pipeline import Pipeline, PipelineSpec, Result, ScoredWindows, Unjudged
from stream_app.quiet import Quiet
from stream_app.replay.bundles import Used
from stream_app.replay.finding import Slice
from stream_app.replay.history import states_of
from stream_app.replay.reading import ahead, records
from stream_app.samples import RawBatch

DONE, EMBEDDINGS, DRIFT = "done.json", "embeddings.parquet", "drift.jsonl"
CHECKPOINT_EVERY = 20  # batches; nothing is written then, but ended entities leave memory
EMBEDDINGS_MAX = 2_048  # windows of a part whose embeddings are kept, evenly over it
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Part:
    """`label` names the model within the replay; `bundles` are those it uses, by offset, at least one."""

    label: str
    slice: Slice
    bundles: tuple[Used, ...]

    @property
    def name(self) -> str:
        return f"{self.label}-{self.slice.partition}"

    @classmethod
    def of(cls, data: dict[str, Any]) -> Part:
        """From `asdict`, or its JSON."""
        return cls(data["label"], Slice.of(data["slice"]), tuple(Used(**used) for used in data["bundles"]))


@dataclass(frozen=True)
class Place:
    """What all parts of a replay share. `folder` holds a folder per part, `opened` the detectors by path; `quiet`: what
    workers do not learn from, nor does a replay."""

    config: Config
    topic: str
    folder: Path
    opened: Callable[[Used], Detector]
    quiet: Quiet = field(default_factory=Quiet)


async def run_part(place: Place, part: Part, consumer: AIOKafkaConsumer, tell: Tell) -> None:
    """Does the part anew. `tell` hears how many records have been read. Raises what the consumer raises."""
    folder, s = place.folder / part.name, part.slice
    shutil.rmtree(folder, ignore_errors=True)
    known = [place.opened(used) for used in part.bundles if not used.shadow]
    names = [name for detector in known for name in detector.part_names]
    pipeline = Pipeline(_spec(place, part, part.bundles[0], states_of(place.folder, s)))
    pipeline.restore(s.warm_up, metadata(Books(clock_us=s.history.clock_us)) if s.history else "")
    threads = ThreadPoolExecutor(1, "scoring"), ThreadPoolExecutor(1, "judging")
    with ResultFolder(folder, known[0], place.config.detector, names) as results, threads[0], threads[1]:
        run = _Run(place, part, pipeline, results, _Sample(folder), tell, threads)
        warm = await run.read(consumer, s.warm_up, s.begin, reported=False)
        began, cpu = time.time(), time.process_time()
        said = await run.read(consumer, s.begin, s.end, reported=True)
        ended, busy = time.time(), time.process_time() - cpu
        results.finish(run.pipeline.accounting().as_dict(), {})
    run.sample.write()
    facts = {"part": asdict(part), "records": said, "warm_up_records": warm, "alerts": results.n_alerts}
    done = facts | {"began": began, "ended": ended, "cpu_seconds": round(busy, 3)}
    (folder / "unfinished.json").write_text(json.dumps(done))
    (folder / "unfinished.json").rename(folder / DONE)


def _spec(place: Place, part: Part, used: Used, store: MutableMapping[bytes, bytes]) -> PipelineSpec:
    known = (place.config, place.opened(used), place.topic, part.slice.partition, store, used.name)
    return PipelineSpec(*known, quiet=place.quiet)


def is_done(folder: Path, part: Part) -> dict[str, Any] | None:
    """The facts of a part that is whole; None where it must be done."""
    try:
        facts: dict[str, Any] = json.loads((folder / part.name / DONE).read_text())
        return facts if Part.of(facts["part"]) == part else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass
class _Run:
    """A pipeline on its way through a slice; at the offsets where a bundle was taken over it is followed by another."""

    place: Place
    part: Part
    pipeline: Pipeline
    results: ResultFolder
    sample: _Sample
    tell: Tell
    threads: tuple[Executor, Executor]  # of the two halves of a step
    judging: asyncio.Future[None] | None = None
    n_read: int = 0
    batches: int = 0
    using: int = 0  # the last of the part's bundles that was turned to

    async def read(self, consumer: AIOKafkaConsumer, begin: int, end: int, *, reported: bool) -> int:
        """Takes the records at offsets [begin, end); gives how many there were."""
        before = self.n_read
        while begin < end:
            later = self.part.bundles[self.using + 1 :]
            stop = min(end, later[0].at) if later else end
            async for batch in ahead(self._records(consumer, begin, stop)):
                await self._take(batch, reported=reported)
                self.n_read += len(batch)
                self.tell(self.n_read)
            await self._judged()
            if later and stop == later[0].at:
                await self._turn(consumer, later[0])
            begin = stop
        return self.n_read - before

    def _records(self, consumer: AIOKafkaConsumer, begin: int, end: int) -> AsyncIterator[RawBatch]:
        return records(consumer, TopicPartition(self.place.topic, self.part.slice.partition), begin, end)

    async def _take(self, batch: RawBatch, *, reported: bool) -> None:
        """The windows of a batch are scored while those of the one before are judged."""
        loop = asyncio.get_running_loop()
        unjudged = await loop.run_in_executor(self.threads[0], self.pipeline.rate, batch)
        await self._judged()
        self.judging = loop.run_in_executor(self.threads[1], self._judge, unjudged, reported)
        self.batches += 1
        if self.batches % CHECKPOINT_EVERY == 0:
            await self._judged()
            self.pipeline.committed(self.pipeline.checkpoint())

    async def _judged(self) -> None:
        """Nothing is at work any more."""
        judging, self.judging = self.judging, None
        if judging is not None:
            await judging

    def _judge(self, unjudged: Unjudged, reported: bool) -> None:
        result = self.pipeline.judge(unjudged)
        if reported:
            self.results.add(timeless(result))
            self.sample.add(result)
        while self.pipeline.shadow is not None and self.pipeline.shadow.work() is not None:
            pass  # what it says nobody asked for; what it learns counts once it is live

    async def _turn(self, consumer: AIOKafkaConsumer, used: Used) -> None:
        self.using += 1
        if used.shadow:
            self._set_shadow(used)
        else:
            await self._hand_over(consumer, used)

    def _set_shadow(self, used: Used) -> None:
        """As a worker does it, right after a checkpoint: what is known of an earlier time is in the states."""
        self.pipeline.committed(self.pipeline.checkpoint())
        spec = _spec(self.place, self.part, used, self.pipeline.spec.store) if used.path else None
        self.pipeline.set_shadow(spec)
        if self.pipeline.shadow is not None:
            self.pipeline.shadow.bound = math.inf

    async def _hand_over(self, consumer: AIOKafkaConsumer, used: Used) -> None:
        """As a worker does it: steps 5 and 6 of `stream_app.checkpoint`. What is read again says nothing twice."""
        last = self.pipeline.checkpoint(Swap(used.digest, 0, used.at, 0, self.pipeline.spec.bundle))
        self.pipeline.committed(last)
        self.pipeline = Pipeline(_spec(self.place, self.part, used, self.pipeline.spec.store))
        self.pipeline.restore(last.offset, last.metadata)
        self.results.turn_to(self.place.opened(used))
        async for batch in ahead(self._records(consumer, last.offset, used.at)):
            await self._take(batch, reported=False)
        await self._judged()


def timeless(result: Result) -> Result:
    """Alerts as of no day: `published_at` is the wall clock's, which no two replays share, and becomes their end."""
    return replace(result, alerts=tuple(replace(a, published_at=a.data_end_time) for a in result.alerts))


class _Sample:
    """Every n-th window's embedding, n doubling when there are too many; and all drift events."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._every, self._seen = folder, 1, 0
        self._kept: list[tuple[int, dict[str, Any]]] = []
        self._drift: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        self._drift += [asdict(event) for event in result.drift]
        if result.windows is None:
            return
        n = len(result.windows.entities)
        while self._seen + n > self._every * EMBEDDINGS_MAX:
            self._every *= 2
            self._kept = [(i, row) for i, row in self._kept if i % self._every == 0]
        at = np.arange(-self._seen % self._every, n, self._every)
        self._kept += [(self._seen + int(i), row) for i, row in zip(at, _rows(result.windows, at), strict=True)]
        self._seen += n

    def write(self) -> None:
        rows = [row for _, row in self._kept]
        kinds = {"entity": pa.string(), "data_end_time": pa.timestamp("us", tz="UTC"), "cluster": pa.int32()}
        schema = pa.schema(kinds | {"anomalous": pa.bool_(), "embedding": pa.list_(pa.float32())})
        pq.write_table(pa.Table.from_pylist(rows, schema), self._folder / EMBEDDINGS)
        text = "".join(json.dumps(event) + "\n" for event in self._drift)
        (self._folder / DRIFT).write_text(text)


def _rows(windows: ScoredWindows, at: I64) -> list[dict[str, Any]]:
    scored = windows.scored
    return [
        {
            "entity": windows.entities[i],
            "data_end_time": int(windows.scenes.end_us[i]),
            "cluster": int(scored.cluster[i]),
            "anomalous": bool(windows.judged.alarm[i]),
            "embedding": scored.embedding[i],
        }
        for i in at.tolist()
    ]
