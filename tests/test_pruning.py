"""Pruning: which bundles are kept, and that the rest is gone from the topic, the store and the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from live import read_all
from models_rig import PASSED, bundle, configuration, finished
from test_model_topic import BACK, BESIDE, UP, after, published

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config
from stream_app.errors import BundleRefused
from stream_app.model_store import pruning
from stream_app.model_store.fetching import FILES, fetch, history
from stream_app.model_store.history import History
from stream_app.model_store.places import cache_folder, data_topic
from stream_app.model_store.pointers import PRUNED
from stream_app.model_store.pruning import gone, prune
from stream_app.model_store.storage import load
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish


def versions(known: History, retired: int) -> list[int]:
    return [pointer.version for pointer in gone(known, retired)]


def test_live_shadow_candidates_and_the_last_that_retired_are_kept() -> None:
    known = after(published(8), *((UP, version) for version in range(1, 7)), (BESIDE, 7))
    assert versions(known, 1) == [1, 2, 3, 4]
    assert versions(known, 3) == [1, 2]
    assert versions(known, 9) == []


def test_what_a_rollback_would_bring_back_is_kept() -> None:
    known = after(published(4), (UP, 1), (UP, 2), (UP, 3), (UP, 4), (BACK, None))
    assert {v: p.state for v, p in known.versions("pump").items()}[3] == "live"
    assert versions(known, 1) == [1], "4 retired last, and 2 is where the way back leads"


def test_the_last_to_retire_are_those_that_were_live_last() -> None:
    known = after(published(4), (UP, 1), (UP, 2), (UP, 3), (BACK, 1), (UP, 4))
    assert versions(known, 1) == [3], "it was rolled back from; 1 was live after it, and 2 is where the way back leads"


def chunks(config: Config) -> set[bytes]:
    """What is left on the data topic after compaction."""
    left = {record.key: record.value for record in read_all(config.brokers, data_topic(config))}
    return {key for key, value in left.items() if value is not None}


def live_one_after_the_other(config: Config, folder: Path, n: int) -> None:
    for i in range(n):
        finished(publish(config, Publication("pump", bundle(folder, i), gate=PASSED)))
        finished(promote(config, Wish("pump", i + 1)))


@pytest.mark.kafka
def test_pruned_bundles_are_gone_and_the_others_can_be_fetched(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(kafka.bootstrap, unique_name("m"), tmp_path, keep=1)
    live_one_after_the_other(config, tmp_path, 4)
    known, before = history(config), chunks(config)
    cached = {v: cache_folder(config) / p.digest.removeprefix("sha256:") for v, p in known.versions("pump").items()}
    for path in cached.values():
        os.utime(path, (0, 0))
    assert finished(prune(config, dry_run=True)).versions == ("pump@1", "pump@2")
    assert chunks(config) == before

    monkeypatch.setattr(pruning, "_bury", killed)
    with pytest.raises(KeyboardInterrupt):
        finished(prune(config))
    monkeypatch.undo()
    done = finished(prune(config))
    assert (done.versions, done.unclaimed, done.cached) == (("pump@1", "pump@2"), 0, 2)
    assert len(chunks(config)) == len(before) - done.chunks == len(before) / 2
    assert [v for v, path in cached.items() if path.is_dir()] == [3, 4]
    known = history(config)
    for version, pointer in known.versions("pump").items():
        if version < 3:
            assert pointer.reason == PRUNED
            with pytest.raises(BundleRefused, match="chunks are missing"):
                finished(load(config, pointer, FILES, whole=True))
        else:
            fetch(config, pointer, tmp_path / "elsewhere")
    assert finished(prune(config)).versions == ()

    again = finished(publish(config, Publication("pump", bundle(tmp_path, 0))))
    assert (again.version, again.reason) == (1, None)
    finished(load(config, again, FILES, whole=True))


async def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.kafka
def test_bundles_behind_a_url_are_deleted_there(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    config = configuration(kafka.bootstrap, unique_name("m"), tmp_path, keep=1, store=f"file://{store}")
    live_one_after_the_other(config, tmp_path, 3)
    assert finished(prune(config)).versions == ("pump@1",)
    left = {path.name for path in (store / "pump").iterdir()}
    assert left == {p.digest.removeprefix("sha256:") for v, p in history(config).versions("pump").items() if v > 1}
