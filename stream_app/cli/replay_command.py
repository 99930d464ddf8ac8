"""The command replay: what one model, or two, say of a past range of a topic.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_app.cli.output import note, rows, say
from stream_app.errors import UsageError

if TYPE_CHECKING:
    from stream_app.replay.ranges import Range
    from stream_app.replay.run import Order, Replayed

MODELS_MAX = 2


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    example = (
        "tailrace replay --topic pump --from 2026-01-01T00:00:00Z --model bundles/pump --model bundles/new --out r/"
    )
    app.command(epilog=f"\b\nExample: {example}")(replay)


def replay(
    model: Annotated[list[str], typer.Option(help="A bundle, as train writes it; a second one is compared with it.")],
    topic: Annotated[str, typer.Option(help="The source topic.")],
    out: Annotated[Path | None, typer.Option(help="A folder for the results; it is made.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", "--to-datetime", help="Kafka timestamp: RFC 3339 or epoch ms.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Exclusive; default: the end of now.")] = None,
    by_duration: Annotated[str | None, typer.Option(help="Begin so long before now: 1h, PT1H.")] = None,
    from_file: Annotated[Path | None, typer.Option(help="Where to begin: CSV of topic,partition,offset.")] = None,
    partition: Annotated[int | None, typer.Option(help="Of one partition only.")] = None,
    from_offset: Annotated[int | None, typer.Option(help="With --partition.")] = None,
    to_offset: Annotated[int | None, typer.Option(help="With --partition; inclusive.")] = None,
    warm_up: Annotated[
        str | None, typer.Option(help="Before the range, to rebuild the state: 1h, 0, all. Default: 4,000 windows.")
    ] = None,
    state: Annotated[
        str,
        typer.Option(
            help="The state at the beginning, from: changelog (what workers wrote by then, if compaction has left it), "
            "warm-up, or auto: warm-up where that is given or reaches the topic's first record, else changelog, "
            "where it can't be had warm-up."
        ),
    ] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Partitions replayed at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, and read nothing.")] = False,
    config: Annotated[Path | None, typer.Option(help="For lateness, alarms, brokers and the detector's name.")] = None,
    brokers: Annotated[str | None, typer.Option(help="host:port[,...]; default: the configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """What a model says of a past range of a topic, or two models; groups and topics are not touched.

    Writes scores, frames, entities, alerts, the accounting and report.html into a folder; of two models into a/ and b/,
    with diff.json. A replay that was killed goes on where it was when it is asked for again. Two replays write the same
    bytes, unless compaction removes from the changelog, before the second, what --state auto took from it for the
    first: the report says from what the state was rebuilt.
    """
    from stream_app.files.arrow_alone import load_arrow_alone

    load_arrow_alone()
    from stream_app.replay import run
    from stream_app.replay.run import Order

    if len(model) > MODELS_MAX:
        raise UsageError(f"{len(model)} models are given; two can be compared")
    if out is None and not dry_run:
        raise UsageError("--out is needed, a folder for the results")
    span = _range({"from": start, "by_duration": by_duration, "from_file": from_file}, topic, end)
    span = _of_partition(span, partition, from_offset, to_offset)
    place, warm_up_ms = out or Path("unused"), _warm_up_ms(warm_up)
    order = Order(topic, tuple(model), place, span, warm_up_ms, config, brokers, processes, _state(state, warm_up))
    if dry_run:
        _show_plan(order, as_json)
        return
    done = run.replay(order, note)
    _show(order, done, as_json)


def _range(begin: dict[str, Any], topic: str, end: str | None) -> Range:
    """The range, begun in one of the ways there are."""
    from stream_app.replay.ranges import Range, duration_ms, moment_ms, starts_of

    given = [name for name, value in begin.items() if value is not None]
    if len(given) > 1:
        options = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{options} both say where to begin; give one of them")
    if begin["by_duration"] is not None:
        return Range(end_ms=moment_ms(end), last_ms=duration_ms(begin["by_duration"]))
    starts = starts_of(begin["from_file"], topic) if begin["from_file"] is not None else ()
    return Range(moment_ms(begin["from"]), moment_ms(end), starts=starts)


def _of_partition(span: Range, partition: int | None, first: int | None, last: int | None) -> Range:
    from dataclasses import replace

    return replace(span, partition=partition, first_offset=first, last_offset=last)


def _state(text: str, warm_up: str | None) -> str:
    from stream_app.replay.run import CHANGELOG, STATES_FROM

    if text not in STATES_FROM:
        raise UsageError(f"--state is one of {', '.join(STATES_FROM)}, not {text!r}")
    if text == CHANGELOG and warm_up is not None:
        raise UsageError("--warm-up is not read with --state changelog; leave one of them out")
    return text


def _warm_up_ms(text: str | None) -> int | None:
    from stream_app.replay.ranges import ALL_MS, duration_ms

    if text is None:
        return None
    return ALL_MS if text == "all" else 0 if text == "0" else duration_ms(text)


def _show_plan(order: Order, as_json: bool) -> None:
    from stream_app.replay import run

    plan = run.dry_run(order)
    table = [
        {"partition": s.partition, "warm_up": s.warm_up, "begin": s.begin, "end": s.end}
        | {"records": s.records, "warm_up_records": s.begin - s.warm_up}
        | {"state": run.CHANGELOG if s.history else run.WARM_UP}
        for s in plan.slices
    ]
    rows(table, plan.as_dict() | {"records": plan.records, "warm_up_records": plan.warm_up_records}, as_json)
    for line in plan.notes:
        note(line)
    note(f"{plan.records:,} offsets of {plan.topic} would be replayed, state {run.warm_up_said(plan)}")


def _show(order: Order, done: Replayed, as_json: bool) -> None:
    from stream_app.replay import run

    compared = done.difference
    if as_json:
        books = [{"model": m, "alerts": n} | b.as_dict() for m, n, b in _each(order, done)]
        counts = compared.counts if compared else None
        rows([], {"out": str(order.out), "models": books, "difference": counts} | done.header, as_json=True)
        return
    say(str(order.out))
    note(f"{done.records:,} records of {order.topic} replayed, state {run.warm_up_said(done.plan)}")
    for name, n, books in _each(order, done):
        rest = ", ".join(f"{v:,} {k.replace('_', '-')}" for k, v in books.as_dict().items() if k != "samples_read")
        note(f"{name}: {n} alerts; {books.samples_read:,} samples read = {rest}")
    if compared is not None:
        note(
            "B against A: "
            + ", ".join(f"{compared.counts[k]} {k}" for k in ("added", "lost", "moved", "changed", "same"))
        )


def _each(order: Order, done: Replayed) -> Any:
    return zip(order.models, done.n_alerts, done.accounting, strict=True)
