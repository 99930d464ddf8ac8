"""Drift: slow changes are reported, iid scores are not, and a restart from bytes changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river._river_rust.drift import AdaptiveWindowing
from river.drift import ADWIN, KSWIN
from river.drift import PageHinkley as TheirPageHinkley
from scipy.stats import ks_2samp

from models.energy import chance_distance, energy_distance
from stream_app.drift import entities
from stream_app.drift.entities import BLOCK, INITIAL, STAGE, Drift, DriftEvent, anew
from stream_app.drift.fleet import FleetDrift
from stream_app.drift.kswin import ALPHA, RECENT, WINDOW, kswin, steps_needed
from stream_app.drift.page_hinkley import page_hinkley
from stream_app.keys import Keys
from tests.plain_detector import PlainDetector

SECOND = 1_000_000


class Stage:
    def __init__(self, n_entities: int = 1) -> None:
        self.keys = Keys({STAGE: INITIAL})
        self.slots = self.keys.slots([f"e{i}".encode() for i in range(n_entities)])
        self.drift = Drift("pump", PlainDetector(), self.keys)

    def step(self, score: np.ndarray, at: np.ndarray, entity: Any = 0, alarm: Any = False) -> list[DriftEvent]:
        n = len(score)
        scenes: Any = SimpleNamespace(entity=self.slots[np.broadcast_to(entity, n)], end_us=at * SECOND)
        scored: Any = SimpleNamespace(score=score)
        judged: Any = SimpleNamespace(alarm=np.broadcast_to(alarm, n))
        return [event for _, event in self.drift.update(scenes, scored, judged)]

    def all(self, rows: np.ndarray) -> list[DriftEvent]:
        """Rows [entity, window], as one batch."""
        n_entities, n = rows.shape
        return self.step(rows.ravel(), np.tile(np.arange(n), n_entities), np.repeat(np.arange(n_entities), n))


def second_of(event: DriftEvent) -> int:
    return int(np.datetime64(event.at.rstrip("Z"), "s").astype(int))


@pytest.mark.parametrize("law", ["normal", "lognormal", "standard_cauchy", "uniform"])
def test_iid_scores_are_no_drift(law: str) -> None:
    assert Stage(10).all(getattr(np.random.default_rng(0), law)(size=(10, 150 * BLOCK))) == []


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_a_slow_ramp_is_reported_whatever_the_unit_of_the_score(factor: float) -> None:
    x = np.random.default_rng(1).normal(size=(5, 6000))
    x[:, 3000:] += np.minimum(np.arange(3000) / 200, 10.0)
    events = Stage(5).all(factor * x)
    assert {e.entity for e in events} == {f"e{i}" for i in range(5)}
    first = [min(second_of(e) for e in events if e.entity == f"e{i}") for i in range(5)]
    assert all(3000 < second < 3600 for second in first)
    assert all(e.statistic == "level" and e.after > e.before for e in events)


def test_a_doubled_variance_is_reported_once() -> None:
    x = np.random.default_rng(2).normal(size=(5, 6000))
    x[:, 3000:] *= 2
    events = Stage(5).all(x)
    assert sorted(e.entity for e in events) == [f"e{i}" for i in range(5)]
    assert all(e.statistic == "spread" and 1.5 < e.after / e.before < 2.5 for e in events)


def test_alarmed_windows_and_scores_that_are_not_finite_do_not_count() -> None:
    x = np.random.default_rng(3).normal(size=4000)
    clean, dirty = Stage(), Stage()
    holes = np.arange(100, 4000, 40)
    alarm = np.zeros(4000, bool)
    alarm[holes] = True
    spoilt = np.where(alarm, 1e9, x)
    spoilt[holes[::2]] = np.nan
    clean.step(x[~alarm], np.arange(4000)[~alarm])
    assert dirty.step(spoilt, np.arange(4000), alarm=alarm) == []
    assert clean.keys.pack(int(clean.slots[0]), [STAGE]) == dirty.keys.pack(int(dirty.slots[0]), [STAGE])


@pytest.mark.parametrize("value", [0.0, 5.0, -1e300, 1e300])
def test_constant_scores_are_no_drift_and_no_trouble(value: float) -> None:
    assert Stage().step(np.full(3000, value), np.arange(3000)) == []


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 6000), max_size=8), restart=st.integers(0, 8))
def test_events_do_not_depend_on_batches_nor_on_a_restart_from_bytes(cuts: list[int], restart: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 6000))
    x[0, 4000:] += 3
    x[1, 5000:] *= 3
    expected, stage, got = Stage(2).all(x), Stage(2), []
    for k, (a, b) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), 6000], strict=True)):
        if k == restart:
            fresh = Stage(2)
            for old, new in zip(stage.slots.tolist(), fresh.slots.tolist(), strict=True):
                fresh.keys.unpack(new, [STAGE], stage.keys.pack(old, [STAGE]))
            stage = fresh
        n = b - a
        got += stage.step(x[:, a:b].ravel(), np.tile(np.arange(a, b), 2), np.repeat([0, 1], n))
    assert len(expected) >= 2
    assert sorted(got, key=lambda e: (e.entity, e.at)) == sorted(expected, key=lambda e: (e.entity, e.at))


def test_a_row_is_small_and_holds_plain_numbers() -> None:
    assert INITIAL.dtype.itemsize <= 1400
    assert not INITIAL.dtype.hasobject


# --- all entities at once -------------------------------------------------------------------------------------------


def fleet(score: np.ndarray, embedding: np.ndarray, watch: FleetDrift) -> list[DriftEvent]:
    scored: Any = SimpleNamespace(score=score, embedding=embedding.astype(np.float32))
    return watch.update(scored, 0)


def test_embeddings_of_one_law_are_no_drift_and_of_another_are_reported_once() -> None:
    rng = np.random.default_rng(5)
    watch = FleetDrift("pump", "b3c4", rng.normal(size=(1000, 8)))
    assert fleet(rng.normal(size=20_000), rng.normal(size=(20_000, 8)), watch) == []
    assert watch.gauges().energy < watch.gauges().energy_threshold
    events = fleet(rng.normal(size=20_000), rng.normal(0.5, 1, (20_000, 8)), watch)
    assert [e.method for e in events] == ["energy"]
    assert events[0].after > events[0].before


def test_without_a_baseline_the_first_embeddings_stand_for_it() -> None:
    rng = np.random.default_rng(6)
    watch = FleetDrift("pump", "b3c4")
    assert fleet(rng.normal(size=20_000), rng.normal(size=(20_000, 4)), watch) == []
    assert [e.method for e in fleet(rng.normal(size=4_000), rng.normal(size=(4_000, 4)) * 2, watch)] == ["energy"]


def test_a_shift_of_all_scores_is_reported_and_shows_in_the_quantiles() -> None:
    rng = np.random.default_rng(7)
    watch = FleetDrift("pump", "b3c4")
    assert fleet(rng.normal(size=10_000), np.zeros((10_000, 2)), watch) == []
    before = watch.gauges().quantiles
    events = fleet(rng.normal(2, 1, 10_000), np.zeros((10_000, 2)), watch)
    assert {e.method for e in events} == {"kswin"}
    assert all(a > b + 1 for a, b in zip(watch.gauges().quantiles, before, strict=True))


def test_the_energy_distance_of_one_law_stays_below_what_chance_gives_as_often_as_stated() -> None:
    rng = np.random.default_rng(8)
    baseline = rng.normal(size=(300, 3))
    limit = chance_distance(baseline, 60, 0.02, rng)
    above = np.mean([energy_distance(rng.normal(size=(60, 3)), baseline) > limit for _ in range(300)])
    assert above <= 0.06
    assert energy_distance(baseline, baseline) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_sliding_test_says_what_river_says_with_ties_and_jumps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 400), rng.normal(2, 1, 200), rng.normal(2, 3, 300)])
    if seed % 2:
        values = np.round(values)
    theirs, ours = KSWIN(alpha=ALPHA, window_size=WINDOW, stat_size=RECENT, seed=seed), kswin(seed)
    found = []
    for i, value in enumerate(values.tolist()):
        theirs.update(value)
        assert ours(value) == theirs.drift_detected, i
        if theirs.drift_detected:
            theirs, ours = KSWIN(alpha=ALPHA, window_size=WINDOW, stat_size=RECENT, seed=seed), kswin(seed)
            found.append(i)
    assert found, "the jump is meant to be found"


def test_two_samples_must_differ_by_as_many_steps_as_scipys_test_asks_for() -> None:
    one = np.arange(RECENT, dtype=float)
    chance = [ks_2samp(one, one + steps - 0.5).pvalue for steps in (steps_needed() - 1, steps_needed())]
    assert chance[0] > ALPHA >= chance[1]


@pytest.mark.parametrize("seed", range(4))
def test_pages_test_and_adwin_say_what_river_says_and_begin_anew_as_it_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(level, 1, 150) for level in rng.choice([0.0, 1.0, 3.0], 8)])
    ours = [anew(lambda: page_hinkley(entities.PAGE_HINKLEY)), anew(lambda: AdaptiveWindowing(**entities.ADWIN).update)]
    theirs: list[Any] = [TheirPageHinkley(**asdict(entities.PAGE_HINKLEY), alpha=1.0)]
    theirs += [ADWIN(delta=entities.ADWIN["delta"], clock=entities.ADWIN["clock"])]
    found = [0, 0]
    for i, value in enumerate(values.tolist()):
        for k, detector in enumerate(theirs):
            detector.update(value)
            assert ours[k](value) == detector.drift_detected, (i, k)
            found[k] += detector.drift_detected
    assert min(found) > 1, "each is meant to begin anew"
