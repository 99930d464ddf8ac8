"""The commands around the stream: brokers, topics, configuration, dead letters, schemas, benchmarks.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.cli.output import logs_to_stderr, note, rows, say
from stream_app.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="The detector's YAML file.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", help="The detector's YAML file.")]
Brokers = Annotated[str | None, typer.Option(help="host:port[,...]; default: the configuration, TAILRACE_BROKERS.")]

broker = typer.Typer(help="A local broker: embedded (pip only), or Apache Kafka.", no_args_is_help=True)
topics = typer.Typer(help="The topics of a detector.", no_args_is_help=True)
config = typer.Typer(help="The configuration: checked, shown, described.", no_args_is_help=True)
dlt = typer.Typer(help="Dead letters: what could not be used, and why.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for name, group in (
        ("broker", broker), ("topics", topics), ("config", config), ("dlt", dlt), ("bench", bench)
    ):  # fmt: skip
        app.add_typer(group, name=name, rich_help_panel=None)
    app.command(epilog="\b\nExample: tailrace schemas --out schemas/")(schemas)


@broker.command("start", epilog="\b\nExample: tailrace broker start --kafka --nodes 3")
def broker_start(
    kafka: Annotated[bool, typer.Option("--kafka", help="Apache Kafka; it wants Java and Maven.")] = False,
    nodes: Annotated[int, typer.Option(help="1, or 3 with --kafka.")] = 1,
    port: Annotated[int | None, typer.Option(help="Of the first node.")] = None,
    as_json: Json = False,
) -> None:
    """Starts it, or finds it running, and prints where it answers."""
    from stream_app.brokers.broker import start_broker

    _show_broker(start_broker("kafka" if kafka else "embedded", nodes=nodes, port=port), as_json)


@broker.command("stop", epilog="\b\nExample: tailrace broker stop --erase")
def broker_stop(
    erase: Annotated[bool, typer.Option("--erase", help="Remove its data too.")] = False, as_json: Json = False
) -> None:
    """Stops it; its data stay for the next start."""
    from stream_app.brokers.broker import stop_broker

    _show_broker(stop_broker(erase=erase), as_json)


@broker.command("status", epilog="\b\nExample: tailrace broker status --json")
def broker_status(as_json: Json = False) -> None:
    """Whether it runs, and where."""
    from stream_app.brokers.broker import broker_status

    _show_broker(broker_status(), as_json)


def _show_broker(status: Any, as_json: bool) -> None:
    from dataclasses import asdict

    data = asdict(status)
    line = {"state": status.state, "kind": status.kind, "bootstrap": status.bootstrap, "directory": status.directory}
    rows([line | {"pids": ",".join(map(str, status.pids.values()))}], data, as_json)
    for node, words in status.crashed.items():
        note(f"node {node} ended by itself: {words}")


@topics.command("create", epilog="\b\nExample: tailrace topics create --config pump.yaml --partitions 4")
def topics_create(
    config_file: MaybeConfig = None,
    topic: Annotated[list[str] | None, typer.Option(help="These instead of a detector's; may be repeated.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Of the sources and everything beside them.")] = 4,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Creates all topics of a detector, or those named."""
    from stream_app.cli.connection import connection
    from stream_app.live.detector_topics import create

    if config_file is None and not topic:
        raise UsageError("give --config, for all topics of a detector, or --topic")
    logs_to_stderr()
    created = create(connection(config_file, brokers), partitions, topic or ())
    rows(created, created, as_json)


@config.command("check", epilog="\b\nExample: tailrace config check --config pump.yaml")
def config_check(
    config_file: ConfigFile,
    offline: Annotated[bool, typer.Option("--offline", help="The file alone, without asking the brokers.")] = False,
) -> None:
    """Reads the configuration, connects, and looks for the topics and the bundle."""
    from stream_app.config import load

    found = load(config_file)
    if not offline:
        from stream_app.live.detector_topics import check

        if words := check(found):
            note(words)
    say(f"{config_file}: ok")


@config.command("show", epilog="\b\nExample: tailrace config show --config pump.yaml")
def config_show(config_file: ConfigFile, as_json: Json = False) -> None:
    """The configuration with every default and the environment, secrets masked."""
    import yaml

    from stream_app.config import load

    data = load(config_file).model_dump(mode="json")
    say(json.dumps(data) if as_json else yaml.safe_dump(data, sort_keys=False).rstrip())


@config.command("schema", epilog="\b\nExample: tailrace config schema > config.schema.json")
def config_schema() -> None:
    """JSON Schema of the configuration."""
    from stream_app.config import Config

    say(json.dumps(Config.model_json_schema(), indent=2))


Source = Annotated[
    str | None, typer.Option("--topic", help="The dead-letter topic; default: that of the configuration's source.")
]


@dlt.command("list", epilog="\b\nExample: tailrace dlt list --config pump.yaml --json")
def dlt_list(
    topic: Source = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 100,
    by_reason: Annotated[bool, typer.Option("--by-reason", help="Only how many there are for each reason.")] = False,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """The dead letters: where each came from, and why it could not be used."""
    from stream_app.cli.connection import connection, dead_letters
    from stream_app.records import letters

    config = connection(config_file, brokers)
    topic = dead_letters(topic, config_file, config)
    if by_reason:
        counts = letters.by_reason(config, topic)
        rows([{"reason": reason, "letters": n} for reason, n in counts.items()], counts, as_json)
        return
    found = letters.listed(config, topic, limit)
    rows(found, found, as_json)


@dlt.command("show", epilog="\b\nExample: tailrace dlt show --config pump.yaml --partition 0 --offset 17")
def dlt_show(
    partition: Annotated[int, typer.Option(help="Of the dead-letter topic.")],
    offset: Annotated[int, typer.Option(help="In the dead-letter topic.")],
    topic: Source = None,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """One dead letter with its headers, key and value."""
    from stream_app.cli.connection import connection, dead_letters
    from stream_app.records import letters

    config = connection(config_file, brokers)
    found = letters.shown(config, dead_letters(topic, config_file, config), partition, offset)
    rows([{"name": name, "value": value} for name, value in found.items()], found, as_json)


@dlt.command("redrive", epilog="\b\nExample: tailrace dlt redrive --config pump.yaml --reason unknown_sensor --execute")
def dlt_redrive(
    topic: Source = None,
    reason: Annotated[str | None, typer.Option(help="Only those refused for this reason.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Without it, only what would be sent is said.")] = False,
    config_file: MaybeConfig = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Sends dead letters to their source topic again, once what refused them is mended."""
    from stream_app.cli.connection import connection, dead_letters
    from stream_app.records import letters

    config = connection(config_file, brokers)
    sent = letters.redriven(config, dead_letters(topic, config_file, config), reason, execute=execute)
    rows([sent], sent, as_json)


def schemas(
    out: Annotated[Path, typer.Option(help="A folder; it is made.")],
) -> None:
    """Writes the JSON Schemas of all records, and an AsyncAPI document."""
    from stream_app.schemas import write_schemas

    for path in write_schemas(out):
        say(str(path))


BENCHES = {
    "ingest": "Single samples as JSON: read, decode, window, account, checkpoint.",
    "chunks": "The same in chunks of 100.",
    "arrow": "The same as Arrow records of 1,000.",
    "score": "Windows scored per second through the whole worker.",
    "detect": "Frames of 38 sensors scored per second by the command detect.",
    "tokens": "Tokens scored per second by the command detect.",
    "latency": "From a record's arrival to its alert.",
    "state": "State per entity: its size, and the time to restore it.",
    "age": "The cost per sample of a stream ten times as old.",
    "shadow": "Live throughput with a version in shadow beside that without.",
    "replay": "Replayed records per second beside the live worker's; two processes beside one.",
    "promote": "From the command to the last of three workers' first score of the version.",
}
bench = typer.Typer(help="Measures a figure, and its ratio to references in the same run.", no_args_is_help=True)


def show_figures(found: dict[str, Any], as_json: bool) -> None:
    """A benchmark's figures: name, value, unit, and the ratio to each reference."""
    flat = {"name": found["name"], "value": found["value"], "unit": found["unit"]}
    rows([flat | {f"/ {peer}": ratio for peer, ratio in found["ratios"].items()}], found, as_json)


def _bench(name: str) -> Callable[..., None]:
    def command(as_json: Json = False) -> None:
        from stream_app.bench.figures import run_bench

        show_figures(run_bench(name), as_json)

    return command


for _name, _words in BENCHES.items():
    bench.command(_name, help=_words, epilog=f"\b\nExample: tailrace bench {_name} --json")(_bench(_name))
