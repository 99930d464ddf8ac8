"""`tailrace detect`: the pipeline over a file, without a broker. A file is one partition; its clock is its newest time.

In: a file and a bundle. Out: a folder of results. Remembers: what the pipeline does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.detector import Detector
from stream_app.cli.output import progress
from stream_app.config import Config, load, parse
from stream_app.errors import ConfigurationError
from stream_app.files.order import Order, arriving, order_of
from stream_app.files.reader import Reader
from stream_app.files.results import ResultFolder
from stream_app.files.run import FileRun
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec, Unjudged
from stream_app.windows.extents import misfit

SWITCH_S = 0.0005  # judging is Python's own work, and by default a product that is done waits for it ten times as long


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
    must_fit(reader, detector)
    order = order_of(reader, config.windows.lateness)
    # River takes 2 s to load.
    spec = PipelineSpec(config, detector, topic=job.file.name, watches_drift="drift" in config.alarms.also)
    run = FileRun(Pipeline(spec), reader, detector)
    with ResultFolder(job.out, detector, config.detector) as out, progress(job.file.name, order.n_rows) as tell:
        with _Judging(run.pipeline, out) as judging:
            for rows in arriving(reader, order):
                judging.take(run.pipeline.rate_samples(run.samples(rows, order, ends=not job.still_open)))
                if run.holds_much:
                    judging.wait()
                    run.release()
                tell(run.n_taken)
        if not job.still_open:
            out.add(run.pipeline.finish())
        accounting = run.accounting()
        out.finish(accounting, run.refused())
    words = misfit(config, detector)
    return Summary(accounting, out.n_alerts, (*([words] if words else ()), *_notes(reader, order, run)))


class _Judging:
    """Judges and writes a batch while the next one is read and scored."""

    def __init__(self, pipeline: Pipeline, out: ResultFolder) -> None:
        self._pipeline, self._out, self._thread = pipeline, out, ThreadPoolExecutor(1, "judging")
        self._at_work: Future[None] | None = None

    def __enter__(self) -> _Judging:
        self._patience = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()
            sys.setswitchinterval(self._patience)

    def take(self, unjudged: Unjudged) -> None:
        self.wait()
        self._at_work = self._thread.submit(lambda: self._out.add(self._pipeline.judge(unjudged)))

    def wait(self) -> None:
        """Until nothing is at work. Raises what went wrong there."""
        at_work, self._at_work = self._at_work, None
        if at_work is not None:
            at_work.result()


def _config(job: Job, detector: Detector) -> Config:
    config = load(job.config) if job.config else parse({"sources": [{"topic": job.file.name}]})
    if job.risk is not None:
        config = config.model_copy(
            update={"alarms": config.alarms.model_copy(update={"at_most": None, "risk": job.risk})}
        )
    return config


def must_fit(reader: Reader, detector: Detector) -> None:
    """Raises ConfigurationError where a file holds nothing that a detector knows."""
    kind = reader.layout.kind
    if kind != detector.kind:
        raise ConfigurationError(f"{reader.path} holds {kind}, but the bundle was trained on {detector.kind}")
    if reader.layout.wide and not set(reader.layout.values) & set(detector.sensors):
        known, found = ", ".join(detector.sensors[:5]), ", ".join(reader.layout.values[:5])
        raise ConfigurationError(f"{reader.path} has none of the bundle's sensors ({known}, ...); it has {found}")


def _notes(reader: Reader, order: Order, run: FileRun) -> Iterator[str]:
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
