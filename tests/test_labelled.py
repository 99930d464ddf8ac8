"""Labelled files, disturbed data and classical peers: what the measurements rest on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_app.errors import ConfigurationError
from training.bench_quality import run_case, table
from training.dataset import Dataset, from_indices
from training.disturbances import constant, contaminated, gone, thinned, to_table
from training.labelled import Judged
from training.labelled_file import labelled_case
from training.peer_windows import fit_peers, gridded
from training.robustness import ROWS, summary
from training.robustness import run_case as robust_case

SECOND = 1_000_000
START = 1_600_000_000 * SECOND


def series(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sensors that move together, and apart in the last part of the second half."""
    rng, t = np.random.default_rng(seed), np.arange(n)
    x = np.stack([np.sin(t / 9), np.cos(t / 9)], 1) + rng.normal(0, 0.05, (n, 2))
    wrong = (t > 0.8 * n) & (t < 0.85 * n)
    x[wrong, 0] += 2
    return x, wrong


def wide_file(path: Path, label: str = "label", extra: dict | None = None) -> Path:
    x, wrong = series()
    t = pa.array(START + np.arange(len(x)) * SECOND, pa.timestamp("us", tz="UTC"))
    columns = {"t": t, "a": x[:, 0], "b": x[:, 1], label: wrong.astype(int)} | (extra or {})
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def data(n: int = 400) -> Dataset:
    x, _ = series(n)
    at = np.arange(n)
    columns = (np.zeros(2 * n, np.int64), np.repeat([0, 1], n), START + np.tile(at, 2) * SECOND, x.T.ravel())
    return from_indices(("e",), ("a", "b"), columns)


def test_what_precedes_the_first_anomaly_is_trained_on_at_most_the_first_half(tmp_path: Path) -> None:
    case = labelled_case(wide_file(tmp_path / "x.parquet"))
    assert case.train.num_rows == 300
    assert case.train.column_names == ["t", "a", "b"]
    assert (case.judged[0].table.num_rows, int(case.judged[0].label.sum())) == (300, 29)
    assert not case.single


def test_a_csv_with_entities_is_judged_entity_by_entity(tmp_path: Path) -> None:
    lines = ["entity,sensor,t,value,anomaly"]
    for entity in ("p", "q"):
        lines += [f"{entity},a,{1000 * i},{i % 7},{int(entity == 'q' and i > 90)}" for i in range(100)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    case = labelled_case(tmp_path / "x.csv")
    assert [(judged.name, len(judged.t_us), int(judged.label.sum())) for judged in case.judged] == [("q", 50, 9)]
    assert "anomaly" not in case.train.column_names


@pytest.mark.parametrize(("label", "words"), [("other", "has no labels"), ("token", "holds tokens")])
def test_a_file_that_cannot_be_measured_on_is_refused_in_words(tmp_path: Path, label: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        labelled_case(wide_file(tmp_path / "x.parquet", label))


def test_disturbances_do_what_they_say() -> None:
    normal, rng = data(), np.random.default_rng(0)
    assert 0.6 < len(thinned(normal, 0.3, rng)) / len(normal) < 0.8
    assert set(gone(normal, "a").sensor.tolist()) == {1}
    stuck = constant(normal, "b", normal)
    assert len(set(stuck.value[stuck.sensor == 1].tolist())) == 1
    np.testing.assert_array_equal(stuck.value[stuck.sensor == 0], normal.value[normal.sensor == 0])
    assert to_table(normal).num_rows == len(normal)


def test_a_share_of_the_training_time_becomes_anomalous_and_no_more() -> None:
    normal = data()
    odd = from_indices(normal.entities, normal.sensors, (*_columns(normal), np.full(len(normal), 99.0)))
    label = np.zeros(400, np.int64)
    label[100:300] = 1
    judged = Judged("e", to_table(odd), START + np.arange(400) * SECOND, label)
    spoiled = contaminated(normal, [(judged, odd)], 0.05, np.random.default_rng(1))
    share = np.mean(spoiled.value == 99.0)
    assert 0.03 < share < 0.07
    assert abs(len(spoiled) - len(normal)) <= 20


def _columns(of: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return of.entity.astype(np.int64), of.sensor.astype(np.int64), of.t_us


def test_a_grid_carries_values_forward() -> None:
    t = START + np.array([0, 1, 4]) * SECOND
    one = from_indices(("e",), ("a",), (np.zeros(3, np.int64), np.zeros(3, np.int64), t, np.array([1.0, 2.0, 5.0])))
    assert gridded(one, SECOND)[0].x[:, 0].tolist() == [1, 2, 2, 2, 5]


def test_peers_rank_what_is_far_from_all_they_know_first() -> None:
    normal, odd = data(), data()
    value = odd.value.copy()
    value[(odd.sensor == 0) & (odd.t_us == START + 200 * SECOND)] = 9.0
    odd = from_indices(odd.entities, odd.sensors, (*_columns(odd), value))
    for peer in fit_peers(normal, SECOND, (1, 5)):
        score = peer.scores(odd, SECOND, START + np.arange(400) * SECOND)
        assert 200 <= int(np.argmax(score)) < 200 + peer.width


def test_our_detector_and_its_peers_are_measured_on_the_same_times(tmp_path: Path) -> None:
    case = labelled_case(wide_file(tmp_path / "x.parquet"))
    found = run_case(case)
    assert table(found)[0]["detector"] == "Tailrace"
    assert found["value"] == pytest.approx(found["runs"]["Tailrace"]["vus_pr"], abs=1e-4)
    assert found["value"] > 0.5


@pytest.mark.soak
def test_every_disturbance_is_measured_beside_the_clean_series(tmp_path: Path) -> None:
    case = labelled_case(wide_file(tmp_path / "x.parquet"))
    shown = summary([{"case": "x"} | row for row in robust_case(case)])
    assert [row["data"] for row in shown] == list(ROWS)
    assert shown[0]["share"] == 1
