"""`tailrace refit`, for the command line.

In: options. Out: the version on stdout, everything else on stderr. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_app.cli.output import note, rows
from stream_app.errors import UsageError

if TYPE_CHECKING:
    from stream_app.config import Config
    from training.refit import Refit


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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
    on_drift: Annotated[bool, typer.Option("--on-drift", help="Wait for drift, and refit by itself.")] = False,
    settle: Annotated[str, typer.Option(help="With --on-drift: how much of the new normal to collect first.")] = "1h",
    at_most: Annotated[str, typer.Option(help="With --on-drift: no oftener than once in this time.")] = "1d",
    promote_after: Annotated[
        str | None, typer.Option(help="With --on-drift: time in shadow, after which it goes live; 0s: none.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="With --on-drift: end after the first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """A new bundle from the sources' own records, measured against the live one, published as a candidate."""
    from models.threads import use_all_cores
    from stream_app.cli.output import logs_to_stderr
    from stream_app.config import load
    from stream_app.replay.ranges import duration_ms, moment_ms
    from training.refit import Refit
    from training.refit import refit as run
    from training.train import budget_s

    if last is not None and (start or end):
        raise UsageError("give --last, or --from and --to")
    logs_to_stderr()
    use_all_cores()
    settings = load(config)
    last_ms = None if last is None else duration_ms(last)
    wanted = Refit(moment_ms(start), moment_ms(end), last_ms, seed, fine_tune, budget_s(budget), not no_publish, resume)
    folder = out or Path(f"refit-{settings.detector}")
    if on_drift:
        _on_drift(settings, wanted, folder, (settle, at_most, promote_after), once)
        return
    done = run(settings, wanted, folder, note)
    data = {
        "bundle": str(done.folder / "bundle"),
        "digest": done.digest,
        "version": done.version,
        "left_out": done.left_out,
        "gate": {check.name: check.value for check in done.gate.checks},
    }
    flat = {"bundle": data["bundle"], "version": done.version, "digest": done.digest}
    rows([flat], data, as_json)


def _on_drift(config: Config, wanted: Refit, folder: Path, times: tuple[str, str, str | None], once: bool) -> None:
    from stream_app.model_store.refitting import Patience
    from stream_app.replay.ranges import duration_ms
    from training.on_drift import OnDrift, on_drift

    if not wanted.publish or any((wanted.start_ms, wanted.end_ms, wanted.last_ms)):
        raise UsageError("--on-drift takes the range since the drift and publishes: leave out --from, --to, --last")
    settle, at_most, promote_after = times
    after_ms = None if promote_after is None else duration_ms(promote_after)
    on_drift(config, OnDrift(wanted, Patience(duration_ms(settle), duration_ms(at_most), after_ms), once), folder, note)
