"""`tailrace refit`: a new bundle from what the topics hold, measured against the live one, published as a candidate.

In: a detector's configuration and a range of its sources. Out: a bundle, its gate, its version. Remembers: in a work
folder the steps that were finished: order, samples, intervals, bundle, gate, publication.

The windows are the worker's own; those under an alert, a calendar, a pause or a label *anomalous* are left out. The end
of the range is held out: the bundle is judged on it, beside the live one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from models.bundle import read
from models.bundle import write as write_bundle
from models.detector import Detector
from stream_app import __version__
from stream_app.config import Config
from stream_app.errors import CheckFailed, ConfigurationError, UsageError
from stream_app.intervals import Interval
from stream_app.live.interval_topics import read_intervals
from stream_app.model_store.gate import gate, refused
from stream_app.model_store.pointers import Check, Gate
from stream_app.opening import open_bundle
from stream_app.replay.finding import find
from stream_app.replay.ranges import Range
from training import samples_file, token_rehearsal
from training.dataset import Dataset, varies
from training.gates import Trial, figures, held_out
from training.making import Making, make
from training.parents import Parent, parent_of
from training.reading import dataset, summary
from training.rehearsal import Sample, stored
from training.token_sessions import Sessions
from training.topic_reading import TopicRead, read_topics
from training.train_page import JSON_FILE as REPORT
from training.work import Work

SAMPLES, INTERVALS, BUNDLE, GATE, VERSION = "samples.parquet", "intervals.json", "bundle", "gate.json", "version.json"


@dataclass(frozen=True)
class Refit:
    """What is wanted. Times are Kafka's timestamps, as in a replay."""

    start_ms: int | None = None
    end_ms: int | None = None
    last_ms: int | None = None  # instead of both: the time before the run began
    seed: int = 0
    fine_tune: bool = False
    budget_s: float | None = None
    publish: bool = True
    resume: bool = False
    why: str = "refit"  # for the record


@dataclass(frozen=True)
class Done:
    """What came of it. `version` is None where nothing was published."""

    folder: Path
    digest: str
    gate: Gate
    version: int | None
    left_out: dict[str, int]


def refit(config: Config, wanted: Refit, folder: Path, say: Callable[[str], None]) -> Done:
    """Raises CheckFailed where the gate refuses, ConfigurationError, BrokerUnreachable; the live bundle stays then."""
    parent = parent_of(config)
    work = Work.begin(folder, _order(config, wanted, parent), wanted.resume, say)
    try:
        done = _run(config, wanted, parent, work)
    except CheckFailed:
        work.finish()
        raise
    work.finish()
    return done


def _run(config: Config, wanted: Refit, parent: Parent, work: Work) -> Done:
    """Step by step; what is there already is not made again."""
    say = work.say
    plan = work.json("plan.json", lambda: _plan(config, wanted, say))
    samples = work.path(SAMPLES, lambda path: _read(config, plan, parent, path, say))
    data = samples_file.read(samples)
    known = work.json(INTERVALS, lambda: _intervals(config, parent))
    intervals = tuple(Interval(**one) for one in known["intervals"])
    trial = Trial(config, data, intervals, held_out(data, config.gates.held_out))
    step = _Step(config, wanted, parent, plan, say)
    bundle = work.path(BUNDLE, lambda path: _guarded(work, lambda: _fit(step, trial, path)))
    report = json.loads((bundle / REPORT).read_text())
    passed = _gate_of(work.json(GATE, lambda: _judge(bundle, report, parent.detector, trial)))
    for check in passed.checks:
        say(line(check))
    if not passed.passed:
        raise CheckFailed(_refusal(passed))
    version = work.json(VERSION, lambda: _publish(step, bundle, passed)) if wanted.publish else {}
    return Done(work.folder, report["digest"], passed, version.get("version"), report["left_out"])


@dataclass(frozen=True)
class _Step:
    config: Config
    wanted: Refit
    parent: Parent
    plan: dict[str, Any]
    say: Callable[[str], None]


def _order(config: Config, wanted: Refit, parent: Parent) -> dict[str, Any]:
    """What a run that is resumed must have in common with the one that was cut short."""
    asked = asdict(wanted)
    del asked["resume"], asked["publish"]
    return asked | {"detector": config.detector, "parent": parent.digest, "tailrace": __version__}


def _plan(config: Config, wanted: Refit, say: Callable[[str], None]) -> dict[str, Any]:
    """Offsets per topic and partition, half-open: a run that is resumed reads the same records."""
    now_ms = time.time_ns() // 1_000_000
    span = Range(wanted.start_ms if wanted.last_ms is None else now_ms - wanted.last_ms, wanted.end_ms)
    topics: dict[str, dict[str, tuple[int, int]]] = {}
    for source in config.sources:
        found = asyncio.run(find(config, source.topic, span, 0))
        for words in found.notes:
            say(words)
        topics[source.topic] = {str(s.partition): (s.begin, s.end) for s in found.slices}
    return {"topics": topics}


def _read(config: Config, plan: dict[str, Any], parent: Parent, path: Path, say: Callable[[str], None]) -> None:
    bounds = {
        TopicPartition(topic, int(partition)): (begin, end)
        for topic, partitions in plan["topics"].items()
        for partition, (begin, end) in partitions.items()
    }
    named, notes = read_topics(TopicRead(bounds, parent.detector), config)
    for words in notes:
        say(words)
    if not len(named.rows):
        raise CheckFailed(
            f"no window has closed in the range ({sum(e - b for b, e in bounds.values()):,} records): "
            "too little to learn from; the live bundle stays"
        )
    data = dataset(named, named.rows)
    say(summary(data))
    samples_file.write(data, path)


def _intervals(config: Config, parent: Parent) -> dict[str, Any]:
    spec = parent.detector.windows if parent.detector else None
    stride_us = None if spec is None or spec.counted else spec.stride_us
    known = asyncio.run(read_intervals(config, stride_us))
    return {"intervals": [asdict(one) for one in known.intervals]}


def _fit(step: _Step, trial: Trial, path: Path) -> None:
    """Fits, and writes the bundle with its report."""
    wanted, parent = step.wanted, step.parent
    if not varies(trial.data):
        raise ConfigurationError("no sensor ever changes in the range")
    making = Making(
        wanted.seed,
        wanted.budget_s,
        config=step.config,
        without=(*trial.intervals, *trial.held_out),
        like=parent.detector,
        sample=_sample(parent) if wanted.fine_tune else None,
        trim=True,
    )
    bundle, report = make(trial.data, making, _lineage(step, trial.data), step.say)
    report["digest"] = write_bundle(path, bundle)
    (path / REPORT).write_text(json.dumps(report, indent=1, default=float) + "\n")
    open_bundle(path)


def _sample(parent: Parent) -> Sample | Sessions:
    """What the live bundle was trained on, as far as it carries it. Raises UsageError."""
    arrays = read(parent.folder).arrays if parent.folder is not None else {}
    found = stored(arrays) or token_rehearsal.stored(arrays)
    if found is None:
        raise UsageError(f"{parent} carries no sample of its training to go on from: leave out --fine-tune")
    return found


def _guarded(work: Work, fit: Callable[[], None]) -> None:
    """Data that carry no bundle are refused like a bundle that is no good."""
    try:
        fit()
    except ConfigurationError as problem:
        raise CheckFailed(_refusal(refused("data", str(problem)))) from problem


def _lineage(step: _Step, data: Dataset) -> dict[str, Any]:
    """What the bundle was made of, and how."""
    topics = {
        topic: {partition: [begin, end - 1] for partition, (begin, end) in partitions.items() if begin < end}
        for topic, partitions in step.plan["topics"].items()
    }
    return {
        "tailrace": __version__,
        "how": "fine-tuned" if step.wanted.fine_tune else "refitted",
        "topics": topics,
        "settings": {
            "windows": step.config.windows.model_dump(exclude_defaults=True),
            "alarms": step.config.alarms.model_dump(exclude_defaults=True),
            "held_out": step.config.gates.held_out,
        },
        "samples": len(data),
        "entities": len(data.entities),
        "from_us": int(data.t_us.min()),
        "to_us": int(data.t_us.max()),
        "seed": step.wanted.seed,
        "parent": step.parent.as_dict(),
    }


def _judge(bundle: Path, report: dict[str, Any], live: Detector | None, trial: Trial) -> dict[str, Any]:
    found = figures(bundle, report, live, trial)
    made = gate(found, trial.config.gates)
    checks = [{name: getattr(check, name) for name in Check.__struct_fields__} for check in made.checks]
    return {"passed": made.passed, "checks": checks, "figures": asdict(found)}


def _gate_of(data: dict[str, Any]) -> Gate:
    return Gate(data["passed"], tuple(Check(**check) for check in data["checks"]))


def _publish(step: _Step, bundle: Path, passed: Gate) -> dict[str, Any]:
    from stream_app.model_store.verbs import Publication, publish

    what = Publication(step.parent.name, bundle, gate=passed, reason=f"{step.wanted.why} of {step.parent}")
    pointer = asyncio.run(publish(step.config, what))
    return {"detector": pointer.detector, "version": pointer.version, "state": pointer.state}


def line(check: Check) -> str:
    """A check for people."""
    value = "-" if check.value is None else f"{check.value:.4g}"
    limit = "" if check.limit is None else f" (limit {check.limit:.4g})"
    return f"{'ok  ' if check.passed else 'MISS'} {check.name} {value}{limit} {check.detail}".rstrip()


def _refusal(gate: Gate) -> str:
    missed = "; ".join(line(check).removeprefix("MISS ") for check in gate.checks if not check.passed)
    return f"the gate refuses the candidate, and the live bundle stays: {missed}"
