"""`tailrace clusters`: known behaviours found in embeddings, compared, named, and turned into labels.

In: arguments. Out: as `stream_app.cli.root` says. Remembers: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stream_app.cli.output import note, rows, say
from stream_app.errors import UsageError

METHODS = ("hdbscan", "bayesian_gmm", "gmm", "kmeans", "minibatch_kmeans")
clusters = typer.Typer(help="Known behaviours, from embeddings.", no_args_is_help=True)

Input = Annotated[Path, typer.Option("--input", help="A folder that tailrace embed wrote, or one of its files.")]
Folder = Annotated[Path, typer.Option("--clusters", help="A folder that clusters fit wrote.")]
Labels = Annotated[Path, typer.Option("--labels", help="Parquet or CSV with the columns entity and label.")]
MaybeLabels = Annotated[Path | None, typer.Option("--labels", help="Parquet or CSV with the columns entity and label.")]
Count = Annotated[int | None, typer.Option("--count", min=1, help="Of clusters; default: as many as HDBSCAN finds.")]
Width = Annotated[int, typer.Option(min=0, help="Main directions kept of unit vectors; 0: all.")]
Seed = Annotated[int, typer.Option(min=0)]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@clusters.command("fit", epilog="\b\nExample: tailrace clusters fit --input embedded/ --out behaviours/")
def fit(
    file: Input,
    out: Annotated[Path, typer.Option(help="A folder; it is made.")],
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = "hdbscan",
    count: Count = None,
    width: Width = 16,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds clusters and writes them: arrays and JSON."""
    if method not in METHODS:
        raise UsageError(f"--method is one of {', '.join(METHODS)}, not {method}")
    from training import cluster_files
    from training.clusters import Wish

    found = cluster_files.fit(file, out, Wish(method, count, width=width, seed=seed))
    rows([found], found, as_json)


@clusters.command("compare", epilog="\b\nExample: tailrace clusters compare --input embedded/ --labels types.csv")
def compare(
    file: Input, labels: MaybeLabels = None, count: Count = None, seed: Seed = 0, as_json: Json = False
) -> None:
    """All methods on the same points: by labels, by silhouette, by stability."""
    from training import cluster_files

    found = cluster_files.compared(file, labels, count, seed)
    rows([_flat(row) for row in found], found, as_json)


@clusters.command(
    "assign",
    epilog="\b\nExample: tailrace clusters assign --input embedded/ --clusters behaviours/ --out placed.parquet",
)
def assign(
    file: Input,
    folder: Folder,
    out: Annotated[Path, typer.Option(help="A Parquet file.")],
    false_rate: Annotated[
        float | None, typer.Option(help="Calibrate the membership threshold to this share of normal points.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which cluster each window belongs to, and how firmly."""
    from models.threads import use_all_cores

    use_all_cores()
    from training import cluster_files

    if false_rate is not None and not 0 < false_rate < 1:
        raise UsageError(f"--false-rate is a share above 0 and below 1, not {false_rate:g}")
    found, said = cluster_files.assigned(file, folder, out, false_rate)
    if said:
        note(said)
    rows([found], found, as_json)


@clusters.command("purity", epilog="\b\nExample: tailrace clusters purity --input placed.parquet --labels types.csv")
def purity(file: Input, labels: Labels, as_json: Json = False) -> None:
    """What each cluster is made of, by true labels or a teacher's. The input is what assign wrote."""
    from training import cluster_files

    found = cluster_files.purity(file, labels)
    rows(found, found, as_json)


@clusters.command(
    "name", epilog="\b\nExample: tailrace clusters name --clusters behaviours/ --set 3=start --set 4=idle"
)
def name(
    folder: Folder,
    names: Annotated[list[str] | None, typer.Option("--set", help="NUMBER=NAME; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Gives clusters their meaning, and lists it."""
    from training import cluster_files

    found = cluster_files.named(folder, names or [])
    table = [{"cluster": number, "name": text} for number, text in sorted(found.items())]
    rows(table, found, as_json)


@clusters.command(
    "relabel",
    epilog="\b\nExample: tailrace clusters relabel --input placed.parquet --labels some.csv --out labelled.parquet",
)
def relabel(
    file: Input,
    labels: Labels,
    out: Annotated[Path, typer.Option(help="A Parquet file.")],
    least_purity: Annotated[float, typer.Option("--purity", min=0, max=1, help="Of a cluster, to be believed.")] = 0.9,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="Of a window's membership.")] = 0.5,
) -> None:
    """Writes the windows again with the labels of their clusters, those that can be believed."""
    from training import cluster_files

    n = cluster_files.relabelled(file, labels, out, (least_purity, confidence))
    note(f"{n:,} windows labelled")
    say(str(out))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of one method in one line; what each class is, is in the JSON."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = value if isinstance(value, dict) else {key: value}
        flat |= {k: v for k, v in inner.items() if v is None or isinstance(v, int | float | str)}
    return flat
