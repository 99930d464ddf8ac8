"""The command `tailrace`: the commands of `stream_app.cli.root`, and those that fit.

In: the command line. Out: data on stdout, everything else on stderr, an exit code. Remembers: nothing.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stream_app.cli.local_commands import bench, show_figures
from stream_app.cli.output import note, rows, say
from stream_app.cli.root import app, run
from stream_app.errors import UsageError
from training import cli_refit
from training.cli_clusters import clusters

BEGAN = time.monotonic()  # of the process, nearly: what loading takes is part of a time budget
DEVICES = ("auto", "cpu", "cuda")
app.add_typer(clusters, name="clusters")
cli_refit.add_to(app)


def main() -> None:
    """The console script."""
    run(app)


@app.command(epilog="\b\nExample: tailrace train --input pump.parquet --out bundles/pump --budget 2m")
def train(
    source: Annotated[str, typer.Option("--input", help="A file, or a topic: kafka://NAME.")],
    out: Annotated[Path, typer.Option(help="The bundle: a folder that is not there yet, or a bundle to replace.")],
    config: Annotated[Path | None, typer.Option(help="Windows and alarms; brokers for a topic.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Leave out what is earlier; RFC 3339 or epoch ms.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Leave out what is not earlier.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same bundle.")] = 0,
    budget: Annotated[str | None, typer.Option(help="Time for training, such as 90s or 2m.")] = None,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Looks at the data, fits a detector to it, and writes the bundle.

    What it is made of can be set in the section `training` of --config. On several processors or machines:
    torchrun --nproc-per-node 2 --no-python tailrace train ...
    """
    from models.threads import use_all_cores
    from training.train import Order, train

    use_all_cores()
    if device not in DEVICES:
        raise UsageError(f"--device is one of {', '.join(DEVICES)}, not {device}")
    made = train(Order(source, out, config, start, until, seed, budget, device, BEGAN), note)
    if not made.facts:  # one of torchrun's processes, but the first
        return
    if as_json:
        rows([], made.facts, as_json=True)
    else:
        say(str(out))


@app.command(epilog="\b\nExample: tailrace embed --input pump.parquet --model bundles/pump --out embedded/ --shard 2/8")
def embed(
    file: Annotated[Path, typer.Option("--input", help="Parquet or CSV, long or wide.")],
    model: Annotated[Path, typer.Option(help="A bundle, as train writes it.")],
    out: Annotated[Path, typer.Option(help="A folder for the shards; one that is there is not made again.")],
    shard: Annotated[str | None, typer.Option(help="i/n: the entities of one of n shards. Default: 1/1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """The embedding of every window of a file, in shards."""
    from models.threads import use_all_cores

    use_all_cores()
    from stream_app.files.embed import Job
    from stream_app.files.embed import embed as run_embed

    made = run_embed(Job(file, model, out, shard))
    rows([made], made, as_json)


Labelled = Annotated[Path, typer.Option("--input", help="As for train, with a column `label`: 1 where it is wrong.")]
Normal = Annotated[
    Path | None, typer.Option("--train", help="Normal data. Default: of the input what precedes its first anomaly.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@bench.command("quality", epilog="\b\nExample: tailrace bench quality --input pump-labelled.parquet")
def bench_quality(file: Labelled, train: Normal = None, as_json: Json = False) -> None:
    """Tailrace beside PCA and kNN windows of scikit-learn, on your own labelled file."""
    from training import bench_quality

    found = bench_quality.run(file, train)
    rows(bench_quality.table(found), found, as_json)


@bench.command("placement", epilog="\b\nExample: tailrace bench placement --json")
def bench_placement(as_json: Json = False) -> None:
    """Points placed among known behaviours per second, beside HDBSCAN's own approximate_predict."""
    from models.threads import use_all_cores

    use_all_cores()
    from training import bench_placement

    show_figures(bench_placement.run(), as_json)


@bench.command("robustness", epilog="\b\nExample: tailrace bench robustness --input pump-labelled.parquet")
def bench_robustness(file: Labelled, train: Normal = None, as_json: Json = False) -> None:
    """What is left of the quality with samples lost, sensors dead or stuck, and anomalies in the training data."""
    from training.labelled_file import labelled_case
    from training.robustness import run_case, summary

    case = labelled_case(file, train)
    found = summary([{"case": case.name} | row for row in run_case(case)])
    rows(found, found, as_json)


@app.command(epilog="\b\nExample: tailrace demo --real")
def demo(
    real: Annotated[bool, typer.Option("--real", help="On a real series: water flow through a pipe.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="The world changes, and the model with it.")] = False,
    kafka: Annotated[bool, typer.Option("--kafka", help="With --drift: on Apache Kafka.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep data, bundles and logs in this folder.")] = None,
) -> None:
    """Everything on an embedded broker, ending with real alerts.

    A fleet is made up, detectors are trained on its normal part, a worker runs, faults appear and alerts arrive.
    """
    if (kafka and not drift) or (real and drift):
        raise UsageError("--kafka goes with --drift, and --real without it")
    if drift:
        from training.demo_drift import run_drift_demo

        run_drift_demo("kafka" if kafka else "embedded", keep)
        return
    from training.demo import run_demo

    run_demo(real=real, folder=keep)
