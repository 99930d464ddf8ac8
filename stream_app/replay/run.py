"""`tailrace replay`: a past range of a topic through the pipeline that runs live, under one model or two.

In: a topic, a range and bundles. Out: a folder; see `stream_app.replay.folder`. Remembers: nothing; it reads without a
group, so the live group, its offsets and its topics are never touched.

    find    the range as offsets per partition, and before it the state: of the changelog's history, or by a warm-up
    parts   each partition under each model, in processes of their own; a part that is done is not done again
    merge   parts end to end, in the order of partitions, so that two replays write the same
    compare alerts of A and of B
    report  a page for people

Windows that are still open at the end of the range stay open, as they would live.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stream_app import __version__
from stream_app.cli.connection import connection
from stream_app.cli.output import progress
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.ledger import Accounting
from stream_app.live.orders import in_effect
from stream_app.live.topic_batches import consumer_of
from stream_app.replay import folder
from stream_app.replay.bundles import Named, open_models
from stream_app.replay.difference import Difference, difference, write
from stream_app.replay.finding import Plan, Slice, find
from stream_app.replay.history import Search
from stream_app.replay.merging import ACCOUNTING, alerts_of, merge
from stream_app.replay.parts import Part, Place, is_done, run_part
from stream_app.replay.processes import Shared, run_parts
from stream_app.replay.ranges import Range
from stream_app.replay.report.model import Model
from stream_app.replay.report.write import Subject, write_report
from stream_app.replay.settings import of_topic

WARM_WINDOWS = 4_000  # the threshold's longest memory but for its largest peaks
WARM_MS_MIN = 3_600_000
AUTO, CHANGELOG, WARM_UP = STATES_FROM = ("auto", "changelog", "warm-up")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is asked for. `warm_up_ms`: None chooses; `models`: one bundle, or two to be compared; `state`: from what it
    is rebuilt, one of STATES_FROM."""

    topic: str
    models: tuple[str, ...]
    out: Path
    span: Range = field(default_factory=Range)
    warm_up_ms: int | None = None
    config: Path | None = None
    brokers: str | None = None
    processes: int = 1
    state: str = AUTO


@dataclass(frozen=True)
class Replayed:
    """What there is to say after the run; accounting and alerts per model, in order."""

    plan: Plan
    records: int
    accounting: tuple[Accounting, ...]
    n_alerts: tuple[int, ...]
    difference: Difference | None = None
    resumed: int = 0  # parts that an earlier run had done
    header: dict[str, Any] = field(default_factory=dict)


def replay(order: Order, say: Say = lambda line: None) -> Replayed:
    """Replays in processes. Raises UsageError, ConfigurationError, BundleRefused, BrokerUnreachable."""
    config = of_topic(connection(order.config, order.brokers), order.topic)
    models = open_models(config, order.topic, order.models)
    place = str(order.config) if order.config else None
    shared = Shared(order.topic, str(order.out / folder.WORK), place, order.brokers, order.processes)

    def parts(waiting: list[Part], tell: Callable[[int], None]) -> None:
        asyncio.run(run_parts(shared, waiting, order.processes, tell))

    return _replay(_Run(order, config, models, parts, say))


def replay_here(order: Order, config: Config, models: tuple[Named, ...], say: Say = lambda line: None) -> Replayed:
    """As `replay`, in this process, with detectors that are open already."""
    config, opened = of_topic(config, order.topic), {named.path: named.detector for named in models}
    work = order.out / folder.WORK

    async def all_of(waiting: list[Part], tell: Callable[[int], None]) -> None:
        place = Place(config, order.topic, work, lambda used: opened[used.path], folder.quiet_of(work))
        async with consumer_of(config) as consumer:
            for part in waiting:
                await run_part(place, part, consumer, tell)

    def parts(waiting: list[Part], tell: Callable[[int], None]) -> None:
        asyncio.run(all_of(waiting, tell))

    return _replay(_Run(order, config, models, parts, say))


def dry_run(order: Order) -> Plan:
    """What a replay would read. Raises as `replay` does."""
    config = of_topic(connection(order.config, order.brokers), order.topic)
    return _find(order, Search(config, open_models(config, order.topic, order.models), None))


@dataclass(frozen=True)
class _Run:
    """A replay and how its parts are done."""

    order: Order
    config: Config
    models: tuple[Named, ...]
    do: Callable[[list[Part], Callable[[int], None]], None]
    say: Say

    @property
    def request(self) -> dict[str, Any]:
        """What must be the same for a replay to be gone on with."""
        models = [[named.name, named.detector.digest, sorted(named.taken.items())] for named in self.models]
        config = self.config.model_dump(mode="json")
        span, warm = self.order.span.as_dict(), self.order.warm_up_ms
        asked = {"topic": self.order.topic, "range": span, "warm_up_ms": warm, "models": models, "config": config}
        asked["state"] = self.order.state
        return dict(json.loads(json.dumps(asked | {"tailrace": __version__}, default=asdict)))

    @property
    def folders(self) -> dict[str, Path]:
        """Where each model's results go."""
        several = len(self.models) > 1
        return {named.label: self.order.out / named.label if several else self.order.out for named in self.models}


def _replay(run: _Run) -> Replayed:
    out, began = run.order.out, time.monotonic()
    with folder.held(out):
        plan = folder.begun(out, run.request)
        if plan is None:
            if folder.is_finished(out):
                run.say(f"{out} holds an earlier replay, which is replaced")
            plan = _find(run.order, Search(run.config, run.models, out / folder.WORK))
            folder.begin(out, run.request, plan, asyncio.run(in_effect(run.config)))
        for note in plan.notes:
            run.say(note)
        parts = [_part(named, s) for named in run.models for s in plan.slices]
        waiting = [part for part in parts if is_done(out / folder.WORK, part) is None]
        if resumed := len(parts) - len(waiting):
            run.say(f"{resumed} of {len(parts)} parts were done before and are not done again")
        total = sum(part.slice.end - part.slice.warm_up for part in waiting)
        with progress(f"{run.order.topic}, {len(waiting)} parts", total) as tell:
            run.do(waiting, tell)
        return _results(run, plan, parts, (resumed, began))


def _part(named: Named, s: Slice) -> Part:
    if s.history is None:
        return Part(named.label, s, named.within(s.partition, s.warm_up, s.end))
    used = named.within(s.partition, s.history.reach, s.end)  # what closed below was judged before, by whichever bundle
    return Part(named.label, s, tuple(replace(u, at=s.warm_up) if u.at == s.history.reach else u for u in used))


def _results(run: _Run, plan: Plan, parts: list[Part], course: tuple[int, float]) -> Replayed:
    """Merges, compares, reports."""
    out, (resumed, began) = run.order.out, course
    facts = [done for part in parts if (done := is_done(out / folder.WORK, part)) is not None]
    assert len(facts) == len(parts)
    for named in run.models:
        own = [out / folder.WORK / part.name for part in parts if part.label == named.label]
        merge(own, run.folders[named.label])
    books = tuple(_accounting(path) for path in run.folders.values())
    found = [alerts_of(path) for path in run.folders.values()]
    compared = difference(found[0].values(), found[1].values()) if len(found) > 1 else None
    if compared is not None:
        write(compared, out)
    records = sum(done["records"] for done in facts) // len(run.models)
    shown = tuple(Model(n.label, n.name, run.folders[n.label], n.detector) for n in run.models)
    write_report(Subject(out, run.config, plan, shown, compared, warm_up_said(plan), records))
    read = [done for done in facts if done["records"]]
    reading = max((d["ended"] for d in read), default=0.0) - min((d["began"] for d in read), default=0.0)
    clock = {"made_at": round(time.time()), "seconds": round(time.monotonic() - began, 1)}
    header = {
        "header": clock
        | {"reading_seconds": round(reading, 3), "cpu_seconds": round(sum(d["cpu_seconds"] for d in facts), 3)}
        | {"processes": run.order.processes},
        "tailrace": __version__,
        "topic": plan.topic,
        "models": {n.label: {"name": n.name, "digest": n.detector.digest} for n in run.models},
        "taken_over": {part.name: [asdict(used) for used in part.bundles[1:]] for part in parts if part.bundles[1:]},
        "range": run.order.span.as_dict(),
        "records": records,
        "warm_up": warm_up_said(plan),
        "slices": plan.as_dict()["slices"],
        "notes": list(plan.notes),
    }
    folder.finish(out, header)
    return Replayed(plan, records, books, tuple(map(len, found)), compared, resumed, header)


def warm_up_said(plan: Plan) -> str:
    """From what the state at the beginning of the range was rebuilt."""
    written = [s for s in plan.slices if s.history is not None]
    rest = [s for s in plan.slices if s.history is None]
    if not written:
        return _said(rest)
    n = sum(s.begin - s.warm_up for s in written)
    said = f"the live one: what workers had written to the changelog, taken on by {n:,} records before the range"
    if not rest:
        return said
    return f"in {_names(written)} {said}; in {_names(rest)} {_said(rest)}"


def _names(slices: list[Slice]) -> str:
    return f"partition{'s' if len(slices) > 1 else ''} {', '.join(str(s.partition) for s in slices)}"


def _said(slices: list[Slice]) -> str:
    """Of partitions whose workers' states are not used."""
    n, exact = sum(s.begin - s.warm_up for s in slices), all(s.warm_up == 0 for s in slices)
    if exact and not n:
        return "new, since the range begins with the topic's first record, so it is the live one"
    if exact:
        return f"rebuilt from the topic's first record on ({n:,} before the range), so it is the live one"
    if not n:
        return "none: entities begin with the population's tail, as if never seen"
    return f"rebuilt from a warm-up of {n:,} records before the range; what was remembered of earlier ones is missing"


def _accounting(path: Path) -> Accounting:
    books = json.loads((path / ACCOUNTING).read_text())
    names = ("samples_read", "scored", "late", "duplicate", "dead_lettered")
    return Accounting(*(int(books[name]) for name in names))


def _find(order: Order, search: Search) -> Plan:
    config, models = search.config, search.models
    kinds = {named.detector.kind for named in models}
    if len(kinds) > 1:
        raise ConfigurationError("one of the models is of sensors and the other of tokens; they read different topics")
    warm = order.warm_up_ms if order.warm_up_ms is not None else warm_up_ms(models)
    plan = asyncio.run(find(config, order.topic, order.span, warm))
    if order.state == CHANGELOG or (order.state == AUTO and order.warm_up_ms is None):
        plan = asyncio.run(search.remembered(plan, order.state == CHANGELOG))
    ranges = {s.partition: (s.warm_up, s.end) for s in plan.slices}
    return replace(plan, notes=(*plan.notes, *(note for named in models for note in named.notes(ranges))))


def warm_up_ms(models: Sequence[Named]) -> int:
    """So long that the threshold has seen as many windows as it remembers, and an hour at least."""
    windows = [named.detector.windows for named in models]
    longest = max(WARM_WINDOWS * spec.stride_us + spec.length_us for spec in windows)
    return max(WARM_MS_MIN, longest // 1000)
