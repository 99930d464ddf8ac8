"""Embeddings in shards, and clusters over their files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plain_detector import PlainDetector

from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.embed import Job, embed, embed_with, read_embeddings, shard_of, vectors
from training import cluster_files
from training.clusters import Wish

T0_MS = 1_700_000_000_000


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Six entities for three minutes."""
    times = range(T0_MS, T0_MS + 180_000, 2000)
    rows = [
        {"entity": f"e{e}", "sensor": "a", "t": t, "value": math.sin(t / 9000 + e)} for t in times for e in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def shards(file: Path, out: Path, n: int) -> list[Path]:
    paths = [out / f"part-{i}-of-{n}.parquet" for i in range(1, n + 1)]
    for i, path in enumerate(paths, 1):
        embed_with(PlainDetector(), Job(file, file, out, f"{i}/{n}"), path)
    return paths


def test_shards_hold_together_what_one_holds(samples: Path, tmp_path: Path) -> None:
    whole = pq.read_table(shards(samples, tmp_path / "one", 1)[0]).to_pandas()
    shards(samples, tmp_path / "three", 3)
    parts = read_embeddings(tmp_path / "three").to_pandas()
    by = ["entity", "data_start_time"]
    whole, parts = (table.sort_values(by).reset_index(drop=True) for table in (whole, parts))
    assert len(whole) > 0
    assert whole[by].equals(parts[by])
    np.testing.assert_array_equal(np.stack(whole.embedding), np.stack(parts.embedding))


def test_an_entity_lies_in_one_shard(samples: Path, tmp_path: Path) -> None:
    entities = [set(pq.read_table(path)["entity"].to_pylist()) for path in shards(samples, tmp_path / "out", 3)]
    assert sum(map(len, entities)) == len(set().union(*entities)) == 6


def test_a_shard_that_is_there_is_not_made_again(samples: Path, tmp_path: Path) -> None:
    (path,) = shards(samples, tmp_path / "out", 1)
    before = path.stat().st_mtime_ns
    assert embed(Job(samples, tmp_path / "no bundle", tmp_path / "out"))["done_before"]
    assert path.stat().st_mtime_ns == before


def test_a_missing_shard_is_noticed(samples: Path, tmp_path: Path) -> None:
    shards(samples, tmp_path / "out", 3)[1].unlink()
    with pytest.raises(ConfigurationError, match="2 shards of 3"):
        read_embeddings(tmp_path / "out")


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/0", "-1/2"])
def test_a_shard_that_cannot_be_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        shard_of(text)


# --- clusters over files ------------------------------------------------------------------------------------------


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Three kinds of windows, far apart, of one entity each."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.05, (40, 4)) + 4 * np.eye(4)[k] for k in range(3)]).astype(np.float32)
    entity = np.repeat(["x", "y", "z"], 40)
    pq.write_table(pa.table({"entity": entity, "embedding": pa.array(list(points))}), tmp_path / "blobs.parquet")
    return tmp_path / "blobs.parquet"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.csv").write_text("entity,label\nx,idle\ny,start\nz,stop\n")
    return tmp_path / "labels.csv"


@pytest.fixture
def placed(blobs: Path, tmp_path: Path) -> Callable[[], Path]:
    def place() -> Path:
        cluster_files.fit(blobs, tmp_path / "known", Wish(seed=1))
        cluster_files.assigned(blobs, tmp_path / "known", tmp_path / "placed.parquet", None)
        return tmp_path / "placed.parquet"

    return place


def test_clusters_are_fitted_assigned_named_and_pure(placed: Callable[[], Path], labels: Path, tmp_path: Path) -> None:
    file = placed()
    rows = cluster_files.purity(file, labels)
    assert {row["label"] for row in rows} == {"idle", "start", "stop"}
    assert all(row["purity"] == 1 for row in rows)
    assert cluster_files.named(tmp_path / "known", ["0=first"]) == {0: "first"}
    with pytest.raises(UsageError, match="there are 3 clusters"):
        cluster_files.named(tmp_path / "known", ["3=nobody"])
    assert cluster_files.named(tmp_path / "known", []) == {0: "first"}


def test_windows_are_labelled_where_cluster_and_membership_can_be_believed(
    placed: Callable[[], Path], labels: Path, tmp_path: Path
) -> None:
    n = cluster_files.relabelled(placed(), labels, tmp_path / "labelled.parquet", (0.9, 0.5))
    table = pq.read_table(tmp_path / "labelled.parquet").to_pandas()
    assert 0 < n == len(table) <= 120
    assert dict(zip(table.entity, table.label, strict=True)) == {"x": "idle", "y": "start", "z": "stop"}


def test_all_methods_are_compared(blobs: Path, labels: Path) -> None:
    rows = cluster_files.compared(blobs, labels, 3, 0)
    assert {row["method"] for row in rows} >= {"hdbscan", "bayesian_gmm", "gmm", "kmeans", "minibatch_kmeans"}
    assert all(row["truth"]["accuracy"] > 0.9 for row in rows)


def test_a_label_that_is_missing_is_named(placed: Callable[[], Path], tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("entity,label\nx,idle\n")
    with pytest.raises(ConfigurationError, match="no label for y"):
        cluster_files.purity(placed(), tmp_path / "few.csv")


def test_what_is_no_embedding_is_refused_in_a_sentence(samples: Path) -> None:
    with pytest.raises(ConfigurationError, match="entity and embedding"):
        vectors(read_embeddings(samples))


def test_a_folder_without_clusters_is_refused_in_a_sentence(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no clusters"):
        cluster_files.assigned(blobs, tmp_path, tmp_path / "out.parquet", None)
