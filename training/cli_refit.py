"""`tailrace refit`, for the command line.

In: options. Out: the version on stdout, everything else on stderr. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_app.cli.output import note, rows
from stream_app.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(epilog="\b\nExample: tailrace refit --config pump.yaml --last 7d")(refit)


def refit(
    config: Annotated[Path, typer.Option(help="The detector's YAML file.")],
    start: Annotated[str | None, typer.Option("--from", help="Kafka timestamp: RFC 3339 or epoch ms.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Exclusive; default: the end of now.")] = None,
    last: Annotated[str | None, typer.Option(help="Instead of both: the time before now, such as 7d.")] = None,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Go on from the live bundle instead of anew.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and records give the same bundle.")] = 0,
    budget: Annotated[str | None, typer.Option(help="Time for training, such as 90s or 2m.")] = None,
    out: Annotated[Path | None, typer.Option(help="The work folder; default refit-DETECTOR.")] = None,
    no_publish: Annotated[bool, typer.Option("--no-publish", help="Leave the bundle in the work folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last run was cut short.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """A new bundle from the sources' own records, measured against the live one, published as a candidate."""
    import time

    from stream_app.cli.output import logs_to_stderr
    from stream_app.config import load
    from stream_app.replay.ranges import duration_ms, moment_ms
    from training.refit import Refit
    from training.refit import refit as run
    from training.train import budget_s

    if last is not None and (start or end):
        raise UsageError("give --last, or --from and --to")
    logs_to_stderr()
    settings = load(config)
    first = moment_ms(start) if last is None else round(time.time() * 1000) - duration_ms(last)
    wanted = Refit(first, moment_ms(end), seed, fine_tune, budget_s(budget), not no_publish, resume)
    done = run(settings, wanted, out or Path(f"refit-{settings.detector}"), note)
    data = {
        "bundle": str(done.folder / "bundle"),
        "digest": done.digest,
        "version": done.version,
        "left_out": done.left_out,
        "gate": {check.name: check.value for check in done.gate.checks},
    }
    flat = {"bundle": data["bundle"], "version": done.version, "digest": done.digest}
    rows([flat], data, as_json)
