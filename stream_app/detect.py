"""`tailrace detect`: the pipeline over a file, without a broker. A file is one partition; its clock is its newest time.

In: a file and a bundle. Out: a folder of results. Remembers: what the pipeline does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.detector import Detector
from models.scenes import I32
from stream_app.cli_output import progress
from stream_app.config import Config, load, parse
from stream_app.errors import ConfigurationError
from stream_app.file_order import Order, arriving, order_of
from stream_app.files import Reader, Rows
from stream_app.names import UNKNOWN_TOKEN
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.refusals import Reason
from stream_app.result_files import ResultFolder
from stream_app.samples import Samples

RELEASE_EVERY = 500_000  # samples; ended entities leave memory then, as they do at a worker's checkpoint


@dataclass(frozen=True)
class Job:
    """What to run. `still_open`: the file goes on, so its last windows and sessions are not closed."""

    file: Path
    model: Path
    out: Path
    risk: float | None = None
    still_open: bool = False
    config: Path | None = None


@dataclass(frozen=True)
class Summary:
    """What there is to say after the run."""

    accounting: dict[str, int]
    n_alerts: int
    notes: tuple[str, ...]


def detect(job: Job) -> Summary:
    """Runs the file and writes the results. Raises ConfigurationError, BundleRefused."""
    return detect_with(open_bundle(job.model), job)


def detect_with(detector: Detector, job: Job) -> Summary:
    """As `detect`, with a detector that is open already."""
    reader = Reader(job.file)
    config = _config(job, detector)
    _must_fit(reader, detector)
    order = order_of(reader, config.windows.lateness)
    run = _Run(Pipeline(PipelineSpec(config, detector, topic=job.file.name)), reader, detector)
    with ResultFolder(job.out, detector, config.detector) as out, progress(job.file.name, order.n_rows) as tell:
        for rows in arriving(reader, order):
            out.add(run.pipeline.step_samples(run.samples(rows, order, ends=not job.still_open)))
            run.release()
            tell(run.n_taken)
        if not job.still_open:
            out.add(run.pipeline.finish())
        accounting = run.accounting()
        out.finish(accounting, run.refused())
    return Summary(accounting, out.n_alerts, tuple(_notes(reader, order, run)))


class _Run:
    """The names of a file as the pipeline's slots and the detector's indices."""

    def __init__(self, pipeline: Pipeline, reader: Reader, detector: Detector) -> None:
        self.pipeline, self._reader, self._detector = pipeline, reader, detector
        self._unknown: Counter[str] = Counter()
        self._n_unknown = self.n_taken = self._n_released = 0
        self._clock_us = np.iinfo(np.int64).min
        self._ended = np.zeros(0, bool)

    def samples(self, rows: Rows, order: Order, ends: bool) -> Samples:
        """A batch as the pipeline takes it; where it holds an entity's last row, the entity's end follows."""
        self.n_taken += len(rows)
        row_end = int(rows.row[-1]) if len(rows) else -1
        rows, value = self._known(rows)
        over = self._over(order, row_end) if ends and order.of_arrival and self._detector.kind == "tokens" else []
        entity = np.concatenate([rows.entity, np.array(over, np.int32)])
        n, n_over = len(rows), len(over)
        t_us = np.concatenate([rows.t_us, np.full(n_over, max(self._clock_us, int(rows.t_us.max(initial=0))))])
        clock_us = np.maximum(np.maximum.accumulate(t_us), self._clock_us)
        self._clock_us = int(clock_us[-1]) if len(clock_us) else self._clock_us
        return Samples(
            entity=self._slots(entity),
            sensor=np.concatenate([rows.sensor, np.zeros(n_over, np.int32)]),
            t_us=t_us,
            value=np.concatenate([value, np.full(n_over, np.nan)]),
            offset=np.concatenate([rows.row, np.full(n_over, row_end)]),
            clock_us=clock_us,
            seq=np.full(n + n_over, -1, np.int64),
            end=np.arange(n + n_over) >= n,
        )

    def release(self) -> None:
        """What a worker does at a checkpoint: entities that ended leave memory."""
        if self.n_taken - self._n_released >= RELEASE_EVERY:
            self._n_released = self.n_taken
            self.pipeline.committed(self.pipeline.checkpoint())

    def refused(self) -> dict[str, int]:
        """Samples that could not be used, by reason."""
        found = Counter(self._reader.refused)
        found[Reason.UNKNOWN_SENSOR.value] += self._n_unknown
        return {reason: n for reason, n in sorted(found.items()) if n}

    def accounting(self) -> dict[str, int]:
        """The pipeline's books, and what never reached it."""
        books, n_refused = self.pipeline.accounting().as_dict(), sum(self.refused().values())
        return books | {
            "samples_read": books["samples_read"] + n_refused,
            "dead_lettered": books["dead_lettered"] + n_refused,
        }

    @property
    def unknown(self) -> dict[str, int]:
        """Sensors that the detector does not know, and how many samples each had."""
        return dict(self._unknown)

    def _known(self, rows: Rows) -> tuple[Rows, np.ndarray]:
        """Sensors as the detector numbers them, without those that it does not know; tokens as its vocabulary does."""
        if self._detector.kind == "tokens":
            vocabulary = self._detector.vocabulary
            ids = np.array([vocabulary.get(token, UNKNOWN_TOKEN) for token in self._reader.tokens], np.float64)
            return rows, ids[rows.value.astype(np.int64)]
        known = {name: i for i, name in enumerate(self._detector.sensors)}
        index = np.array([known.get(name, -1) for name in self._reader.sensors], np.int32)
        sensor = index[rows.sensor]
        if (strange := rows.sensor[sensor < 0]).size:
            self._n_unknown += len(strange)
            for i, n in zip(*np.unique(strange, return_counts=True), strict=True):
                self._unknown[self._reader.sensors[i]] += int(n)
        rows = Rows(rows.entity, sensor, rows.t_us, rows.value, rows.row).take(sensor >= 0)
        return rows, rows.value

    def _slots(self, entity: I32) -> I32:
        distinct, index = np.unique(entity, return_inverse=True)
        names = [self._reader.entities[i].encode() for i in distinct]
        return self.pipeline.keys.slots(names)[index] if len(names) else np.empty(0, np.int32)

    def _over(self, order: Order, row_end: int) -> list[int]:
        if len(self._ended) < len(order.last_row):
            self._ended = np.zeros(len(order.last_row), bool)
        over = np.flatnonzero((order.last_row <= row_end) & ~self._ended)
        self._ended[over] = True
        return [int(entity) for entity in over]


def _config(job: Job, detector: Detector) -> Config:
    config = load(job.config) if job.config else parse({"sources": [{"topic": job.file.name}]})
    if job.risk is not None:
        config = config.model_copy(
            update={"alarms": config.alarms.model_copy(update={"at_most": None, "risk": job.risk})}
        )
    return config


def _must_fit(reader: Reader, detector: Detector) -> None:
    kind = reader.layout.kind
    if kind != detector.kind:
        raise ConfigurationError(f"{reader.path} holds {kind}, but the bundle was trained on {detector.kind}")
    if reader.layout.wide and not set(reader.layout.values) & set(detector.sensors):
        known, found = ", ".join(detector.sensors[:5]), ", ".join(reader.layout.values[:5])
        raise ConfigurationError(f"{reader.path} has none of the bundle's sensors ({known}, ...); it has {found}")


def _notes(reader: Reader, order: Order, run: _Run) -> Iterator[str]:
    """What the reader should know about the file."""
    if not order.n_rows:
        yield f"{reader.path} holds no rows"
    if not order.of_arrival:
        yield f"{reader.path} is not in order of time ({order.n_late:,} of {order.n_rows:,} rows late): sorted"
    if ignored := reader.layout.ignored:
        yield f"columns that hold no numbers were left out: {', '.join(ignored)}"
    for sensor, n in sorted(run.unknown.items()):
        yield f"the bundle does not know the sensor {sensor}: {n:,} samples dead-lettered"
    for reason, n in reader.refused.items():
        yield f"{n:,} rows dead-lettered: {reason}"
