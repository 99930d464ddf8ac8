"""Clusters over files: embeddings and labels in, clusters and labelled windows out.

In: paths. Out: plain data for a command to print, and files. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from models.clusters import Clusters, ClustersProblem, place, read_clusters, write_clusters
from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.embed import read_embeddings, vectors
from training.cluster_labels import calibrate_membership, pseudo_labels, purities
from training.clusters import Wish, all_methods, compare, fit_clusters


def fit(file: Path, out: Path, wish: Wish) -> dict[str, Any]:
    """Fits clusters to the embeddings and writes them."""
    points = _points(file)
    clusters = fit_clusters(points, wish)
    write_clusters(out, clusters)
    number, _ = place(clusters, points)
    return {
        "clusters": len(np.unique(number[number >= 0])),
        "noise": float(np.mean(number < 0)),
        "method": wish.method,
        "out": str(out),
    }


def compared(file: Path, labels: Path | None, count: int | None, seed: int) -> list[dict[str, Any]]:
    """A row per method."""
    table = read_embeddings(file)
    truth = _labels_of(table, labels) if labels else None
    return [found.row() for found in compare(vectors(table), truth, all_methods(count, seed))]


def assigned(file: Path, folder: Path, out: Path, false_rate: float | None) -> tuple[dict[str, Any], str]:
    """Writes the table with cluster, membership and name; with a rate, also a threshold and what it reaches."""
    table, clusters = read_embeddings(file), _clusters(folder)
    number, membership = place(clusters, vectors(table))
    names = [clusters.names.get(int(c)) for c in number]
    table = table.drop_columns([name for name in ("cluster", "membership_probability") if name in table.column_names])
    table = table.append_column("cluster", pa.array(number)).append_column(
        "membership_probability", pa.array(membership)
    )
    pa.parquet.write_table(table.append_column("cluster_label", pa.array(names, pa.string())), out)
    found: dict[str, Any] = {"windows": len(number), "noise": float(np.mean(number < 0)), "out": str(out)}
    if false_rate is None:
        return found, ""
    threshold = calibrate_membership(number, membership, false_rate)
    return found | asdict(threshold), threshold.said(false_rate)


def purity(file: Path, labels: Path) -> list[dict[str, Any]]:
    """A row per cluster."""
    table = _placed(file)
    return [asdict(found) for found in purities(table["cluster"].to_numpy(), _labels_of(table, labels))]


def named(folder: Path, assignments: list[str]) -> dict[int, str]:
    """The names after setting those of `NUMBER=NAME`."""
    clusters = _clusters(folder)
    names = dict(clusters.names)
    for text in assignments:
        number, found, name = text.partition("=")
        if not (number.isdecimal() and found and name):
            raise UsageError(f"--set {text}: write 3=start")
        if int(number) >= len(clusters):
            raise UsageError(f"--set {text}: there are {len(clusters)} clusters, numbered from 0")
        names[int(number)] = name
    if assignments:
        write_clusters(folder, replace(clusters, names=names))
    return names


def relabelled(file: Path, labels: Path, out: Path, least: tuple[float, float]) -> int:
    """Writes the windows whose label can be believed, and gives their number."""
    table = _placed(file)
    number, membership = table["cluster"].to_numpy(), table["membership_probability"].to_numpy()
    found = pseudo_labels(number, membership, purities(number, _labels_of(table, labels)), least)
    table = table.append_column("label", pa.array(found.label)).filter(pa.array(found.kept))
    pa.parquet.write_table(table, out)
    return int(table.num_rows)


def _points(file: Path) -> np.ndarray:
    points = vectors(read_embeddings(file))
    if not len(points):
        raise ConfigurationError(f"{file} holds no windows")
    return points


def _clusters(folder: Path) -> Clusters:
    try:
        return read_clusters(folder)
    except (ClustersProblem, OSError) as problem:
        raise ConfigurationError(
            f"{folder} holds no clusters: {problem}; tailrace clusters fit writes them"
        ) from problem


def _placed(file: Path) -> pa.Table:
    table = read_embeddings(file)
    if not {"cluster", "membership_probability"} <= set(table.column_names):
        raise ConfigurationError(
            f"{file} has no columns cluster and membership_probability; clusters assign writes them"
        )
    return table


def _labels_of(table: pa.Table, labels: Path) -> list[str]:
    """The label of each window's entity. Raises ConfigurationError where an entity has none."""
    try:
        given = pa.parquet.read_table(labels) if labels.suffix == ".parquet" else pa.csv.read_csv(labels)
    except (OSError, pa.ArrowInvalid) as problem:
        raise ConfigurationError(f"{labels} can't be read: {problem}") from problem
    if not {"entity", "label"} <= set(given.column_names):
        raise ConfigurationError(f"{labels} needs the columns entity and label; it has {', '.join(given.column_names)}")
    entities, words = (given[name].cast(pa.string()).to_pylist() for name in ("entity", "label"))
    label_of = dict(zip(entities, words, strict=True))
    found = [label_of.get(entity) for entity in table["entity"].to_pylist()]
    if None in found:
        raise ConfigurationError(f"{labels} has no label for {table['entity'][found.index(None)].as_py()}")
    return [str(label) for label in found]
