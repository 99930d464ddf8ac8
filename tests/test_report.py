"""Reports: what stands on the page is escaped, what is drawn is not changed, and chance is computed exactly."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from stream_app.report import figures
from stream_app.report.decimate import Envelope, highest, zigzag
from stream_app.report.page import Chart, Page, Row, Section, Table, render, safe_json
from stream_app.report.statistics import cluster_peaks, exponential_quantiles, garwood, poisson_quantile, stability

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'\u2028"


def page(text: str) -> str:
    figure = figures.plot([figures.line([1, 2], [3, 4], "a", text)], text, "y")
    table = Table((text,), (Row((text,), (text, 0.0, 1.0), "lost"),), words=text)
    return render(
        Page(text, text, ((text, text),), (text,), (Section(text, (text,), (Chart(figure, 100, text), table)),))
    )


def test_a_name_that_is_markup_stays_a_name() -> None:
    html = page(NASTY)
    assert html.count("<script") == page("plain").count("<script")
    assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    data = re.search(r'id="figures">(.*?)</script>', html, re.S)
    assert data is not None
    name = json.loads(data[1])[0]["data"][0]["name"]
    assert "<" not in name, "plotly would take it for its own markup"


def test_a_page_may_ask_for_nothing_and_run_nothing_but_its_own_scripts() -> None:
    html = page("plain")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy[1].split("script-src")[1].split(";")[0]
    assert not re.search(r'(src|href)="(?!#)', html.split("<script")[0])


@given(st.recursive(st.floats() | st.text() | st.none(), st.lists))
def test_what_is_put_into_a_page_comes_out_of_its_json(value: object) -> None:
    text = safe_json(value)
    assert not set("<>&\u2028") & set(text)
    json.loads(text)


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_the_interval_of_a_count_is_where_chance_gives_it_too_rarely(count: int) -> None:
    interval = garwood(count)
    assert poisson.cdf(count, interval.high) == pytest.approx(0.025)
    if count:
        assert poisson.sf(count - 1, interval.low) == pytest.approx(0.025)


@pytest.mark.parametrize("level", [0.025, 0.5, 0.975])
def test_quantiles_of_counts_are_scipys(level: float) -> None:
    mean = np.concatenate([[0.0], np.geomspace(1e-6, 1e5, 400), np.arange(50)])
    np.testing.assert_array_equal(poisson_quantile(level, mean), poisson.ppf(level, mean))


def test_an_exponential_tail_lies_on_the_line_and_keeps_its_law_above_every_threshold() -> None:
    depth = np.random.default_rng(0).exponential(size=4_000)
    q = exponential_quantiles(depth)
    assert np.mean((q.low <= q.seen) & (q.seen <= q.high)) > 0.9
    law = stability(depth + 3.0, 3.0)
    assert np.mean(np.abs(law.shape) < 3 * law.shape_error) > 0.9
    assert np.mean(np.abs(law.scale - 1) < 3 * law.scale_error) > 0.9


def test_windows_of_one_run_are_one_peak_and_of_two_entities_two() -> None:
    peaks = cluster_peaks(np.array([1.0, 3.0, 2.0, 5.0]), np.array([0, 0, 0, 1]), np.array([0, 1, 30, 31]), gap=16)
    assert peaks.tolist() == [3.0, 2.0, 5.0]


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-1e6, 1e6)), min_size=1), st.integers(1, 40))
def test_a_drawn_series_keeps_its_extremes(rows: list[tuple[int, float]], buckets: int) -> None:
    t, value = (np.array(column) for column in zip(*rows, strict=True))
    envelope = Envelope(1, 0, 1000, buckets)
    for part in np.array_split(np.arange(len(t)), 3):
        envelope.add(np.zeros(len(part), np.int64), t[part].astype(np.int64), value[part].astype(float))
    at, low, high = envelope.series(0)
    assert (low.min(), high.max()) == (value.min(), value.max())
    x, y = zigzag(at, low, high)
    assert len(x) == len(y) <= 2 * buckets
    assert np.all(np.diff(x) >= 0)
    order = np.argsort(t, kind="stable")
    kept = highest(t[order].astype(np.int64), value[order].astype(float), buckets)
    assert value[order][kept].max() == value.max()


@pytest.mark.parametrize("peaks", [[], [1.0], [0.5] * 40, [0.5] * 30 + [2.0] * 30])
def test_peaks_that_are_the_same_have_no_law_above_the_highest(peaks: list[float]) -> None:
    found = stability(np.array(peaks), 0.0)
    assert len(found.threshold) == len(found.shape) == len(found.n)
    assert (found.n > 0).all()
