"""The command line: the root, its rules for output and errors, and the commands that talk to a running system.

In: arguments. Out: data on stdout, everything else on stderr, an exit code (`stream_app.errors` holds the tree).
Remembers: nothing. Whatever is heavy is imported by the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from stream_app.cli import file_commands as cli_files
from stream_app.cli import local_commands as cli_local
from stream_app.cli import model_commands as cli_models
from stream_app.cli import order_commands as cli_orders
from stream_app.cli import replay_command as cli_replay
from stream_app.cli.output import note, rows, say
from stream_app.errors import TailraceError, UsageError

EXIT_CODES = "Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 broker unreachable, 5 check or gate failed"

# Of a path that was given, as a rule of an output: it can't be made there, or is something else.
_PATHS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

# As they are met: a first look, running, training, looking into files, the rest.
ORDER = ("demo", "broker", "topics", "train", "worker", "produce", "alerts", "status", "refit", "models", "detect")


class InOrder(TyperGroup):
    """Lists the commands in the order in which a newcomer meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Those of ORDER first."""
        rest = [name for name in self.commands if name not in ORDER]
        return [name for name in ORDER if name in self.commands] + sorted(rest)


app = typer.Typer(
    cls=InOrder,
    name="tailrace",
    help="Watches streams on Kafka and says when something is wrong.",
    epilog=f"\b\nFirst steps: tailrace demo\n{EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there in half the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
cli_local.add_to(app)
cli_files.add_to(app)
cli_models.add_to(app)
cli_orders.add_to(app)
cli_replay.add_to(app)

ConfigFile = Annotated[Path, typer.Option("--config", help="The detector's YAML file.")]
Brokers = Annotated[str | None, typer.Option(help="host:port[,...]; default: the configuration, TAILRACE_BROKERS.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def run(application: typer.Typer) -> NoReturn:
    """Runs a command line and ends the process. Whatever goes wrong is one sentence on stderr and an exit code."""
    debug = bool(os.environ.get("TAILRACE_DEBUG"))
    if not debug:  # both are for whoever develops; what an operator must know is said in a sentence
        warnings.simplefilter("ignore")
        logging.lastResort = logging.NullHandler()
    try:
        application()
    except TailraceError as problem:
        code, sentence = problem.exit_code, str(problem)
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted"
    except _PATHS as problem:
        code, sentence = 3, f"{problem.filename or 'a file'}: {problem.strerror or problem}"
    except MemoryError:
        code, sentence = 1, "not enough memory for this input; give it in parts"
    except Exception as problem:
        code, sentence = 1, f"unexpected {type(problem).__name__}: {problem}; TAILRACE_DEBUG=1 shows where"
    if debug:
        traceback.print_exc()
    note(f"tailrace: {sentence}")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from stream_app import __version__

        say(__version__)
        raise typer.Exit
    # Libraries' threads spin while they wait for each other: beside other work training took five times as long. They
    # read this when imported; what uses more cores does so with threads of its own (models.threads).
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@app.command(epilog="\b\nExample: tailrace worker --config pump.yaml --until-end")
def worker(
    config: ConfigFile,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="To the end offsets seen at start, then exit.")
    ] = False,
) -> None:
    """The stream processor: source records in, alerts out."""
    import asyncio

    from stream_app.config import load
    from stream_app.live.following import is_followed
    from stream_app.live.observe import start_log
    from stream_app.live.worker import run_worker
    from stream_app.opening import configured_detector

    start_log(verbose=bool(os.environ.get("TAILRACE_DEBUG")))
    settings = load(config)
    detector = None if is_followed(settings) else configured_detector(settings)
    raise typer.Exit(asyncio.run(run_worker(settings, detector, until_end=until_end)))


@app.command(epilog="\b\nExample: tailrace status --config pump.yaml --json")
def status(config: ConfigFile, as_json: Json = False) -> None:
    """What became of every sample, as of the last checkpoint."""
    from stream_app.config import load
    from stream_app.live.status import status as ask

    partitions = ask(load(config))["partitions"]
    flat = [{**{k: v for k, v in p.items() if k != "accounting"}, **p["accounting"]} for p in partitions]
    rows(flat, {"partitions": partitions}, as_json)


@app.command(epilog="\b\nExample: tailrace alerts --config pump.yaml --follow")
def alerts(
    config: Annotated[Path | None, typer.Option(help="The detector's YAML file.")] = None,
    brokers: Brokers = None,
    topic: Annotated[str | None, typer.Option(help="Default: that of the configuration, or alerts.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more.")] = False,
    as_json: Json = False,
) -> None:
    """Alerts as they lie on their topic, one line each."""
    from stream_app.cli.alert_lines import print_alerts
    from stream_app.cli.connection import connection

    print_alerts(connection(config, brokers), topic, follow=follow, as_json=as_json)


@app.command(epilog="\b\nExample: tailrace produce --input pump.parquet --topic pump-samples --speed 60")
def produce(
    file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, long or wide.")],
    topic: Annotated[str, typer.Option(help="It must exist: tailrace topics create.")],
    speed: Annotated[float | None, typer.Option(help="Times real time; default: as fast as it goes.")] = None,
    form: Annotated[str, typer.Option("--format", help="json, chunks (of up to 100 values) or arrow.")] = "json",
    end: Annotated[
        bool | None,
        typer.Option("--end/--open", help="End every entity with a tombstone; default: tokens yes, sensors no."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="For the brokers and their credentials.")] = None,
    brokers: Brokers = None,
    as_json: Json = False,
) -> None:
    """Puts a file's rows on a topic, as a producer would."""
    from stream_app.cli.connection import connection
    from stream_app.files.produce import Job, produce

    if speed is not None and not speed > 0:
        raise UsageError(f"--speed is how many times real time, above zero, not {speed:g}")
    sent = produce(Job(file, topic, form, speed, end), connection(config, brokers))
    rows([sent], sent, as_json)
