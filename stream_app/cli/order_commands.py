"""`tailrace control` and `tailrace label`: what people tell the workers and the refits.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.cli.output import logs_to_stderr, rows
from stream_app.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="The detector's YAML file.")]
Brokers = Annotated[str | None, typer.Option(help="host:port[,...]; default: the configuration, TAILRACE_BROKERS.")]
Entity = Annotated[str | None, typer.Option(help="Default: all.")]
Start = Annotated[str | None, typer.Option("--from", help="Event time: RFC 3339 or epoch ms. Default: now.")]
End = Annotated[str | None, typer.Option("--to", help="Exclusive. Default: until it is ended.")]
By = Annotated[str | None, typer.Option(help="Who says so. Default: your login.")]
Comment = Annotated[str, typer.Option(help="For other people.")]

control = typer.Typer(
    help="Orders to workers: pauses and calendars, in which nothing is learned.", no_args_is_help=True
)
label = typer.Typer(help="Labels: what people say of an interval; refits heed them.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.add_typer(control, name="control", rich_help_panel=None)
    app.add_typer(label, name="label", rich_help_panel=None)


@control.command("pause", epilog="\b\nExample: tailrace control pause --config pump.yaml --entity p7")
def control_pause(
    config_file: ConfigFile,
    entity: Entity = None,
    start: Start = None,
    end: End = None,
    by: By = None,
    comment: Comment = "",
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """From now on windows are judged, but teach nothing: no threshold moves, no drift is found."""
    _order("pause_learning", (config_file, brokers, as_json), (start, end), _who(entity, by, comment))


@control.command("resume", epilog="\b\nExample: tailrace control resume --config pump.yaml --entity p7")
def control_resume(
    config_file: ConfigFile,
    entity: Entity = None,
    at: Annotated[str | None, typer.Option("--at", help="Event time. Default: now.")] = None,
    by: By = None,
    comment: Comment = "",
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Ends a pause, of the same entity or of all."""
    _order("resume_learning", (config_file, brokers, as_json), (at, None), _who(entity, by, comment))


@control.command(
    "calendar",
    epilog="\b\nExample: tailrace control calendar --config pump.yaml --from 2026-12-24 --to 2026-12-27",
)
def control_calendar(
    config_file: ConfigFile,
    start: Start = None,
    end: End = None,
    close: Annotated[bool, typer.Option("--close", help="End one that was opened without an end.")] = False,
    entity: Entity = None,
    by: By = None,
    comment: Comment = "",
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Days that are not like others: windows under them are judged, but teach nothing."""
    command = "close_calendar" if close else "open_calendar"
    _order(command, (config_file, brokers, as_json), (start, end), _who(entity, by, comment))


@control.command("list", epilog="\b\nExample: tailrace control list --config pump.yaml")
def control_list(config_file: ConfigFile, brokers: Brokers = None, as_json: Json = False) -> None:
    """All pauses and calendars, past and coming."""
    import asyncio

    from stream_app.alerts.alert import rfc3339
    from stream_app.cli.connection import connection
    from stream_app.intervals import FOREVER_US
    from stream_app.live.orders import in_effect

    found = [
        {
            "entity": i.entity or None,
            "start": rfc3339(i.start_us),
            "end": None if i.end_us == FOREVER_US else rfc3339(i.end_us),
            "why": i.why,
        }
        for i in asyncio.run(in_effect(connection(config_file, brokers)))
    ]
    rows(found, found, as_json)


@label.command(
    "add",
    epilog="\b\nExample: tailrace label add --config p.yaml --entity p7 --from 2026-06-01 --to 2026-06-02 --label ok",
)
def label_add(
    config_file: ConfigFile,
    entity: Annotated[str, typer.Option(help="What is spoken of.")],
    start: Annotated[str, typer.Option("--from", help="Event time: RFC 3339 or epoch ms.")],
    end: Annotated[str, typer.Option("--to", help="Exclusive.")],
    name: Annotated[str, typer.Option("--label", help="normal, anomalous, or the name of a behaviour.")],
    by: By = None,
    comment: Comment = "",
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Says of an interval of an entity what it was. Of labels on the same interval the last stands."""
    from stream_app.cli.connection import connection
    from stream_app.live.orders import send

    if not name.strip():
        raise UsageError("--label is normal, anomalous, or a name")
    config, said = connection(config_file, brokers), _who(entity, by, comment)
    said["annotator"] = said.pop("by")
    bounds = {"start": _moment(start), "end": _moment(end)}
    _check(bounds["start"], bounds["end"])
    logs_to_stderr()
    body = {**said, **bounds, "label": name, "detector": config.detector}
    sent = send(config, config.topics.feedback, entity, body)
    rows([sent], sent, as_json)


@label.command("list", epilog="\b\nExample: tailrace label list --config pump.yaml --json")
def label_list(config_file: ConfigFile, brokers: Brokers = None, as_json: Json = False) -> None:
    """What was said about this detector, in order."""
    from stream_app.cli.connection import connection
    from stream_app.live.orders import listed

    config = connection(config_file, brokers)
    found = listed(config, config.topics.feedback)
    rows(found, found, as_json)


Place = tuple[Path, str | None, bool]


def _order(command: str, place: Place, bounds: tuple[str | None, str | None], who: dict[str, Any]) -> None:
    from stream_app.cli.connection import connection
    from stream_app.live.orders import send

    config_file, brokers, as_json = place
    start, end = map(_moment, bounds)
    _check(start, end)
    config = connection(config_file, brokers)
    logs_to_stderr()
    body = {"detector": config.detector, "command": command, **who, "start": start, "end": end}
    sent = send(config, config.topics.control, config.detector, body)
    rows([sent], sent, as_json)


def _who(entity: str | None, by: str | None, comment: str) -> dict[str, Any]:
    import getpass

    try:
        return {"entity": entity, "by": by or getpass.getuser(), "comment": comment}
    except (KeyError, OSError):  # as in a container whose user has no name
        raise UsageError("nobody is logged in by a name: give --by") from None


def _moment(text: str | None) -> str | None:
    from stream_app.alerts.alert import rfc3339
    from stream_app.replay.ranges import moment_ms

    at_ms = moment_ms(text)
    try:
        return None if at_ms is None else rfc3339(1000 * at_ms)
    except (OverflowError, ValueError, OSError):
        raise UsageError(f"{text} is a time that no calendar has") from None


def _check(start: str | None, end: str | None) -> None:
    if start is not None and end is not None and start >= end:
        raise UsageError(f"--to {end} is not after --from {start}")
