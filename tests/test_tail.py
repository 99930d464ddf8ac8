"""The tail's arithmetic: laws of the generalised Pareto distribution and of its fit; and the threshold over a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from scipy.stats import genpareto

from models import tail
from stream_app.errors import ConfigurationError
from stream_app.threshold import tail_file


@pytest.mark.parametrize("shape", [-0.8, -0.3, 0.0, 0.2, 0.8])
def test_a_fit_finds_the_parameters_within_sampling_error(shape: float) -> None:
    x = genpareto.rvs(shape, scale=2.0, size=4000, random_state=np.random.default_rng(0))
    got = tail.fit_tail(x)
    assert abs(got.shape - shape) < 4 * (1 + shape) / np.sqrt(4000) + 0.03
    assert abs(np.log(got.scale / 2.0)) < 0.1


@given(st.floats(1e-6, 1e6), st.integers(5, 300), st.integers(0, 1000))
def test_a_fit_of_k_times_x_keeps_the_shape_and_multiplies_the_scale(k: float, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).exponential(size=n)
    plain, scaled = tail.fit_tail(x), tail.fit_tail(k * x)
    assert scaled.shape == pytest.approx(plain.shape, rel=1e-6, abs=1e-9)
    assert scaled.scale == pytest.approx(k * plain.scale, rel=1e-6)


@pytest.mark.parametrize("shape", [-0.6, -0.1, 0.0, 0.4, 1.2])
def test_the_scale_at_a_known_shape_is_the_most_likely(shape: float) -> None:
    x = genpareto.rvs(shape, scale=3.0, size=200, random_state=np.random.default_rng(1))
    found = tail.scale_given_shape(x, shape)
    around = found * np.array([0.98, 1.0, 1.02])
    likelihood = [genpareto.logpdf(x, shape, scale=s).sum() for s in around]
    assert np.argmax(likelihood) == 1


@pytest.mark.parametrize(
    "excess",
    [[], [1.0], [2.0] * 50, [1e-300, 1.0, 2.0, 3.0, 4.0], [1e30, 1, 1, 1, 1, 1], np.arange(1, 300.0), [1e-40] * 8],
)
def test_a_fit_of_nasty_excesses_is_finite_and_usable(excess: list[float]) -> None:
    got = tail.fit_tail(np.array(excess, float))
    assert tail.SHAPE_MIN <= got.shape <= tail.SHAPE_MAX
    assert np.isfinite(got.scale)
    assert got.scale > 0


@given(st.floats(0, 30), st.floats(-0.9, 1.5), st.floats(1e-3, 1e3))
def test_the_excess_of_a_depth_has_that_depth(depth: float, shape: float, scale: float) -> None:
    shapes, scales = np.array([shape]), np.array([scale])
    excess = tail.excess_at(np.array([depth]), shapes, scales)
    if depth * -shape < 25:  # nearer to a bounded tail's end than that, the difference is rounding
        assert tail.depth(excess, shapes, scales)[0] == pytest.approx(depth, rel=1e-3, abs=1e-6)


def test_depths_are_those_of_scipy_and_infinite_beyond_a_bounded_tail() -> None:
    e, shape, scale = np.array([0.5, 3.0, 3.0, 3.0]), np.array([0.2, 0.0, -0.1, -0.9]), np.array([1.0, 2.0, 1.0, 1.0])
    with np.errstate(divide="ignore"):
        expected = -genpareto.logsf(e, shape, scale=scale)
    np.testing.assert_allclose(tail.depth(e, shape, scale), expected)
    assert np.isinf(expected[-1])


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=80), st.integers(1, 10))
def test_clusters_are_those_of_a_loop(values: list[float], gap: int) -> None:
    x, last, maxima = np.array(values), -1000, []
    for i, v in enumerate(values):
        if v > 1:
            if i - last > gap:
                maxima.append(v - 1)
            maxima[-1] = max(maxima[-1], v - 1)
            last = i
    np.testing.assert_allclose(tail.cluster_maxima(x, np.arange(len(x)), 1.0, gap), maxima)


def test_the_initial_threshold_has_the_asked_rate_of_clusters() -> None:
    x, at = np.random.default_rng(2).normal(size=10_000), np.arange(10_000)
    u = tail.initial_threshold(x, at, 0.01, 16)
    assert 100 <= len(tail.cluster_maxima(x, at, u, 16)) < 115


def test_a_budget_for_95_percent_of_weeks_is_that_of_poisson_counts() -> None:
    means = [tail.risk_of_budget(n, 1, sure=0.95) for n in (1, 2, 3, 5)]
    np.testing.assert_allclose(means, [0.355, 0.818, 1.37, 2.61], rtol=0.005)


# --- tailrace tail --------------------------------------------------------------------------------------------------


def scores(tmp_path: Path, **columns: object) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_keep_their_order_and_entities_their_own_tails(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(3), 900
    a, b = rng.normal(size=n), 1000 + rng.normal(size=n)
    a[700] = b[700] = 1e6
    entity, score = np.tile(["a", "b"], n), np.column_stack([a, b]).ravel()
    t = np.repeat(np.arange(n), 2)
    summary = tail_file.run(scores(tmp_path, entity=entity, t=t, score=score), 1e-2, tmp_path / "mixed.parquet")
    mixed = pq.read_table(tmp_path / "mixed.parquet").to_pandas()
    tail_file.run(scores(tmp_path, t=np.arange(n)[::-1], score=b[::-1]), 1e-2, tmp_path / "alone.parquet")
    alone = pq.read_table(tmp_path / "alone.parquet").to_pandas()
    names = ["entity", "t", "score", "threshold", "tail_probability", "alarm", "episode"]
    assert list(mixed.columns) == names
    np.testing.assert_array_equal(mixed.score, score)
    np.testing.assert_array_equal(mixed.threshold[1::2], alone.threshold[::-1])
    assert set(alone.entity) == {"in"}
    assert mixed.alarm[1400:1402].all()
    assert summary["rows"] == 2 * n
    assert summary["episodes"] == mixed.episode.sum()


def test_blocks_of_a_large_file_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(4).normal(size=1500)
    path = scores(tmp_path, t=np.arange(1500), score=x, entity=np.repeat(["a", "b", "c"], 500))
    tail_file.run(path, 1e-2, tmp_path / "whole.parquet")
    monkeypatch.setattr(tail_file, "VALUES_AT_ONCE", 100)
    tail_file.run(path, 1e-2, tmp_path / "parts.parquet")
    whole, parts = (pq.read_table(tmp_path / f"{name}.parquet").to_pandas() for name in ("whole", "parts"))
    assert_frame_equal(whole, parts)


def test_a_csv_file_with_gaps_is_judged_where_it_has_scores(tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(size=400).tolist()
    x[300] = None
    table = pa.table({"t": np.arange(400), "score": x})
    pyarrow.csv.write_csv(table, tmp_path / "in.csv")
    summary = tail_file.run(tmp_path / "in.csv", 1e-2, tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert summary["not_finite"] == 1
    assert np.isnan(out.threshold[300])
    assert np.isfinite(out.threshold[301])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"score": [1.0]}, "no column t"),
        ({"t": [1]}, "no column score"),
        ({"t": [1], "score": ["x"]}, "numbers are needed"),
        ({"t": pa.array([], pa.int64()), "score": pa.array([], pa.float64())}, "no rows"),
        ({"t": [None, 1], "score": [1.0, 2.0]}, "have no t"),
        ({"t": ["a"], "score": [1.0]}, "column t holds"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_refused_in_plain_words(
    tmp_path: Path, columns: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        tail_file.run(scores(tmp_path, **columns), 1e-3, tmp_path / "out.parquet")


def test_a_file_that_is_no_parquet_or_not_there_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no parquet")
    for path in (tmp_path / "bad.parquet", tmp_path / "missing.parquet", tmp_path / "missing.csv"):
        with pytest.raises(ConfigurationError, match=path.stem):
            tail_file.run(path, 1e-3, tmp_path / "out.parquet")
    with pytest.raises(ConfigurationError, match="risk"):
        tail_file.run(tmp_path / "bad.parquet", 0.7, tmp_path / "out.parquet")
