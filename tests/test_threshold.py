"""The threshold stage is its slow twin, however windows are batched and whatever the unit of the score."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.threshold.judgement import Judged
from stream_app.threshold.population import LAYOUT, fit_population
from stream_app.threshold.stage import STAGE
from tests.naive_threshold import NaiveThreshold
from tests.threshold_rig import KINDS, Stage, assert_same, join, nasty


@pytest.mark.parametrize("risk", [1e-2, 1e-3])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_slow_twin(kind: str, risk: float) -> None:
    x = nasty(kind, 5000, np.random.default_rng(1))
    got, twin = Stage(risk=risk).one(x), NaiveThreshold(risk)
    said = [twin.say(float(v)) for v in x]
    np.testing.assert_array_equal(got.alarm, [s.alarm for s in said])
    np.testing.assert_array_equal(got.episode_start, [s.episode_start for s in said])
    np.testing.assert_array_equal(got.episode_worse, [s.episode_worse for s in said])
    np.testing.assert_allclose(got.threshold, [s.threshold for s in said], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got.tail_probability, [s.tail_probability for s in said], rtol=1e-5, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 700), max_size=12),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    pauses=st.booleans(),
)
def test_what_it_says_does_not_depend_on_how_windows_fall_into_batches(
    cuts: list[int], kinds: list[str], seed: int, pauses: bool
) -> None:
    rng = np.random.default_rng(seed)
    columns = [nasty(kind, 700, rng) for kind in kinds]
    columns[0][rng.random(700) < 0.02] = np.nan
    feeds = [rng.random(700) > 0.1 if pauses else np.ones(700, bool) for _ in kinds]
    alone = [Stage().one(x, f) for x, f in zip(columns, feeds, strict=True)]
    stage, parts = Stage(len(kinds)), []
    borders = [0, *sorted(cuts), 700]
    # Entity i lags i cuts behind, so that batches hold runs of different length, and some entities none.
    for step in range(len(borders) + len(kinds)):
        batch = [
            (i, borders[step - i], borders[step - i + 1]) for i in range(len(kinds)) if 0 <= step - i < len(borders) - 1
        ]
        if batch:
            entity = np.concatenate([np.full(b - a, i) for i, a, b in batch])
            score = np.concatenate([columns[i][a:b] for i, a, b in batch])
            fed = np.concatenate([feeds[i][a:b] for i, a, b in batch])
            parts.append((entity, stage.update(entity, score, fed)))
    together = join([p for _, p in parts])
    entity = np.concatenate([e for e, _ in parts])
    for i, expected in enumerate(alone):
        own = Judged(*(getattr(together, f.name)[entity == i] for f in fields(Judged)))
        assert_same(own, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_entity_alone_is_judged_to_the_last_bit_as_in_a_crowd(kind: str) -> None:
    rng = np.random.default_rng(3)
    population = fit_population(rng.normal(size=3000), np.repeat(np.arange(3), 1000))
    x, n_others = nasty(kind, 1200, rng), 30  # so many that all of them take each step at once
    alone, crowd = Stage(tail=population), Stage(n_others, tail=population)
    for part in np.split(x, [500, 501, 900]):
        own = alone.one(part)
        entity = np.repeat(np.arange(n_others), len(part))
        among = crowd.update(entity, np.tile(part, n_others))
        assert_same(own, Judged(*(getattr(among, f.name)[entity == 7] for f in fields(Judged))))
    assert alone.keys[STAGE][alone.slots[0]] == crowd.keys[STAGE][crowd.slots[7]]


def test_a_snapshot_anywhere_changes_nothing() -> None:
    x = nasty("bursts", 1500, np.random.default_rng(2))
    whole, first = Stage().one(x), Stage()
    before = first.one(x[:777])
    second = Stage()
    second.keys.unpack(int(second.slots[0]), [STAGE], first.keys.pack(int(first.slots[0]), [STAGE]))
    assert_same(join([before, second.one(x[777:])]), whole)


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 0.0), (8.0, 1e6), (3.7, -250.0)])
def test_alarms_do_not_depend_on_the_unit_of_the_score(factor: float, offset: float) -> None:
    x = nasty("bursts", 6000, np.random.default_rng(3))
    plain, other = Stage().one(x), Stage().one(factor * x + offset)
    np.testing.assert_array_equal(plain.alarm, other.alarm)
    np.testing.assert_allclose(other.threshold, factor * plain.threshold + offset, rtol=1e-4, atol=1e-3 * factor)


def test_a_score_that_is_not_finite_gets_no_verdict_and_changes_nothing() -> None:
    x = nasty("normal", 1000, np.random.default_rng(4))
    holes = np.insert(x, [300, 600, 600], [np.nan, np.inf, -np.inf])
    finite = np.isfinite(holes)
    got, expected = Stage().one(holes), Stage().one(x)
    assert_same(Judged(*(getattr(got, f.name)[finite] for f in fields(Judged))), expected)
    assert np.isnan(got.threshold[~finite]).all()
    assert not got.alarm[~finite].any()


def test_windows_that_do_not_feed_are_judged_and_leave_the_tail_as_it_was() -> None:
    x = nasty("normal", 3000, np.random.default_rng(5))
    stage = Stage()
    stage.one(x)
    before = stage.keys[STAGE][stage.slots[0]].copy()
    judged = stage.one(np.full(50, 100.0), np.zeros(50, bool))
    after = stage.keys[STAGE][stage.slots[0]]
    assert judged.alarm.all()
    assert judged.episode_start.sum() == 1
    for name in ("level", "scale", "initial", "tail_scale", "margin", "fatigue", "age", "largest"):
        assert before[name] == after[name], name
    np.testing.assert_array_equal(before["ring"], after["ring"])


def test_the_input_is_not_changed_and_nothing_in_gives_nothing_out() -> None:
    x = nasty("normal", 300, np.random.default_rng(6))
    kept, stage = x.copy(), Stage()
    stage.one(x)
    np.testing.assert_array_equal(x, kept)
    assert len(stage.one(np.empty(0)).alarm) == 0


def test_a_row_is_small_and_holds_plain_numbers() -> None:
    assert LAYOUT.itemsize <= 1400
    assert not LAYOUT.hasobject
