"""The commands over files, without a broker: detect, tail.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.cli.output import note, rows, say
from stream_app.errors import UsageError

Input = Annotated[Path, typer.Option("--input", help="Parquet or CSV, long or wide.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    app.command(epilog="\b\nExample: tailrace detect --input pump.parquet --model bundles/pump --out out/")(detect)
    app.command(epilog="\b\nExample: tailrace tail --input scores.parquet --risk 1e-3 --out tail.parquet")(tail)


def detect(
    model: Annotated[Path, typer.Option(help="A bundle, as train writes it.")],
    file: Annotated[Path | None, typer.Option("--input", help="Parquet or CSV, long or wide.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the results; it is made.")] = None,
    risk: Annotated[float | None, typer.Option(help="Probability of alarm of a normal window.")] = None,
    still_open: Annotated[bool, typer.Option("--open", help="The file goes on: leave the last windows open.")] = False,
    config: Annotated[Path | None, typer.Option(help="For lateness, limits, alarms and the detector's name.")] = None,
    codes: Annotated[str | None, typer.Option(help='One sequence instead of a file: "5,5,22".')] = None,
    sequence: Annotated[Path | None, typer.Option("--json", help="One sequence: a JSON file with a list.")] = None,
) -> None:
    """The worker's pipeline over a file, without a broker.

    Writes scores, frames, entities, alerts and the accounting into a folder.
    """
    if risk is not None and not 0 < risk < 0.5:
        raise UsageError(f"--risk is a probability above 0 and below 0.5, not {risk:g}")
    if sum(given is not None for given in (file, codes, sequence)) != 1:
        raise UsageError("give one of --input, --codes and --json")
    if codes is not None:
        _detect_one([code.strip() for code in codes.split(",")], model, risk)
        return
    if sequence is not None:
        from stream_app.files.detect_one import read_sequence

        _detect_one(read_sequence(sequence), model, risk)
        return
    if file is None or out is None:
        raise UsageError("--input needs --out, a folder for the results")
    from models.threads import use_all_cores

    use_all_cores()
    from stream_app.files.arrow_alone import load_arrow_alone

    load_arrow_alone()
    from stream_app.files.detect import Job, detect

    summary = detect(Job(file, model, out, risk, still_open, config))
    for line in summary.notes:
        note(line)
    say(str(out))
    _show(summary.accounting, summary.n_alerts)


def tail(
    file: Annotated[
        Path, typer.Option("--input", help="Parquet or CSV with a column score; entity and t if it has them.")
    ],
    out: Annotated[Path, typer.Option(help="A Parquet file: what the threshold says of each row.")],
    risk: Annotated[float, typer.Option(help="Probability of alarm of a normal value.")] = 1e-3,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """The rolling extreme-value threshold alone, over anybody's scores."""
    from stream_app.files.arrow_alone import load_arrow_alone

    load_arrow_alone()
    from stream_app.threshold import tail_file

    if not 0 < risk < 0.5:
        raise UsageError(f"--risk is a probability above 0 and below 0.5, not {risk:g}")
    found = tail_file.run(file, risk, out)
    if as_json:
        rows([], found, as_json=True)
        return
    say(str(out))
    note(", ".join(f"{value:,.6g} {name.replace('_', ' ')}" for name, value in found.items()))


def _detect_one(tokens: list[str], model: Path, risk: float | None) -> None:
    from stream_app.files.detect_one import judge_sequence

    found = judge_sequence(tokens, model, risk)
    rows([found], found, as_json=True)


def _show(accounting: dict[str, Any], n_alerts: int) -> None:
    rest = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in accounting.items() if name != "samples_read")
    note(f"{accounting['samples_read']:,} samples read = {rest}; {n_alerts} alerts")
