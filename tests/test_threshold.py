"""The threshold stage: it is its slow twin, however windows are batched, and it keeps the rate that it promises."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.keys import Keys
from stream_app.threshold.judgement import Judged
from stream_app.threshold.population import LAYOUT, fit_population
from stream_app.threshold.stage import STAGE, Threshold, initial
from tests.naive_threshold import NaiveThreshold


class Stage:
    """The stage and its entities, numbered 0, 1, ..."""

    def __init__(self, n_entities: int = 1, risk: float = 1e-2, tail: dict | None = None) -> None:
        self.keys = Keys({STAGE: initial(tail or {}, risk)})
        self.slots = self.keys.slots([str(i).encode() for i in range(n_entities)])
        self.threshold = Threshold(risk, self.keys, tail)

    def update(self, entity: np.ndarray, scores: np.ndarray, feeds: np.ndarray | None = None) -> Judged:
        feeds = np.ones(len(scores), bool) if feeds is None else feeds
        return self.threshold.update(self.slots[entity], np.asarray(scores, float), feeds)

    def one(self, scores: np.ndarray, feeds: np.ndarray | None = None) -> Judged:
        return self.update(np.zeros(len(scores), int), scores, feeds)


def join(parts: list[Judged]) -> Judged:
    return Judged(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Judged)))


def assert_same(a: Judged, b: Judged) -> None:
    for f in fields(Judged):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), f.name)


def nasty(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=n)
    match kind:
        case "normal":
            return x
        case "heavy":
            return rng.standard_t(1.5, n) * 1e-6
        case "bounded":
            return rng.random(n)
        case "rounded":
            return np.round(rng.gamma(2, 1, n), 1)
        case "rare":
            return (rng.random(n) < 0.01).astype(float)
        case "steps":
            return 10 + np.cumsum(np.where(rng.random(n) < 0.01, rng.choice([-1.0, 1.0], n), 0.0))
        case "constant":
            return np.full(n, 3.0)
        case "stuck in between":
            x[n // 3 : 2 * n // 3] = 0.5
            return x
        case "bursts":
            x[400::250] += 8
            for at in range(500, n - 100, 700):
                x[at : at + 90] += 6
            return x
        case "shift":
            x[n // 2 :] += 20
            return x
        case "huge":
            x[300::190] = 1e300
            return x
        case "clipped":
            return np.minimum(x, 1.5)
    raise AssertionError(kind)


KINDS = ["normal", "heavy", "bounded", "rounded", "rare", "steps", "constant", "stuck in between", "bursts", "shift"]
KINDS += ["huge", "clipped"]


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


@pytest.mark.parametrize("kind", ["normal", "heavy", "bounded", "rounded"])
def test_episodes_come_at_the_promised_rate(kind: str) -> None:
    rng = np.random.default_rng(7)
    columns = np.stack([nasty(kind, 6000, rng) for _ in range(30)])
    judged = Stage(30).update(np.repeat(np.arange(30), 6000), columns.ravel())
    episodes = judged.episode_start.reshape(30, 6000)[:, 1000:].sum()
    assert 0.7 < episodes / (1e-2 * 30 * 5000) < 1.4


def test_ties_never_alarm_more_often_than_promised() -> None:
    rng = np.random.default_rng(8)
    columns = np.stack([nasty(kind, 6000, rng) for kind in ("rare", "steps", "clipped") for _ in range(10)])
    judged = Stage(30).update(np.repeat(np.arange(30), 6000), columns.ravel())
    per_kind = judged.episode_start.reshape(3, 10, 6000)[:, :, 1000:].sum(axis=(1, 2)) / (1e-2 * 10 * 5000)
    assert (per_kind < 2).all()


def test_a_constant_alarms_at_its_first_change_and_accepts_the_new_level() -> None:
    x = np.concatenate([np.zeros(2000), np.ones(2000)])
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.alarm).tolist() == [2000, 2001, 2002]
    assert np.flatnonzero(judged.episode_start).tolist() == [2000]


def test_a_lasting_shift_is_one_episode_and_is_accepted_after_about_200_values() -> None:
    x = nasty("normal", 8000, np.random.default_rng(9))
    x[5000:] += 10
    judged = Stage(risk=1e-3).one(x)
    at = np.flatnonzero(judged.alarm[5000:])
    assert at[0] == 0
    assert 150 < len(at) < 350
    assert judged.episode_start[5000:].sum() <= 6
    assert judged.alarm[5600:].sum() <= 10


def test_bursts_are_found_and_do_not_make_it_deaf() -> None:
    x = nasty("normal", 12_000, np.random.default_rng(10))
    starts = np.arange(2000, 11_500, 2500)
    for at in starts:
        x[at : at + 60] += 6
    judged = Stage(risk=1e-3).one(x)
    assert all(judged.alarm[at : at + 60].any() for at in starts)


def test_a_grave_rise_within_an_open_episode_is_an_episode_of_its_own_and_the_only_one() -> None:
    x = nasty("normal", 8000, np.random.default_rng(16))
    x[5000:5030] = 3.2
    x[5030:5060] = 30.0
    x[5060:5090] = 90.0
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.episode_start[4990:5100]).tolist() == [10, 40]
    assert np.flatnonzero(judged.episode_worse).tolist() == [5030]
    assert judged.episode_open[5000:5090].all()


def test_what_is_grave_within_its_first_values_is_one_episode() -> None:
    x = nasty("normal", 8000, np.random.default_rng(16))
    x[5000:5010] = 3.2
    x[5010:5090] = 30.0
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.episode_start[4990:5100]).tolist() == [10]


def test_the_verdict_is_consistent() -> None:
    rng = np.random.default_rng(11)
    x = nasty("bursts", 5000, rng)
    judged = Stage(risk=1e-2).one(x)
    told = np.isfinite(judged.threshold)
    assert (judged.alarm <= told).all()
    assert (x[judged.alarm] > judged.threshold[judged.alarm]).all()
    assert (judged.tail_probability[judged.alarm] <= 1e-2 * (1 + 1e-9)).all()
    assert ((judged.tail_probability[told] >= 0) & (judged.tail_probability[told] <= 1)).all()
    assert (judged.episode_start <= judged.alarm).all()
    assert ((judged.grade > 0) == judged.alarm).all()


def test_a_new_entity_borrows_the_population_and_says_that_it_is_warming() -> None:
    rng = np.random.default_rng(12)
    tail = fit_population(rng.normal(5, 2, 20_000), np.repeat(np.arange(20), 1000))
    stage = Stage(200, risk=1e-3, tail=tail)
    judged = stage.update(np.repeat(np.arange(200), 600), rng.normal(5, 2, 200 * 600))
    told = judged.episode_start.reshape(200, 600)
    assert np.isfinite(judged.threshold).all()
    assert 0.4 < told[:, :300].sum() / (1e-3 * 200 * 300) < 2
    assert judged.warming.reshape(200, 600)[:, 499].all()
    assert not judged.warming.reshape(200, 600)[:, 501].any()
    assert Stage(risk=1e-3, tail=tail).one(np.array([60.0])).alarm.all()


def test_a_population_keeps_the_unit_of_its_scores() -> None:
    x = np.random.default_rng(13).gamma(2, 1, 5000)
    small, large = (fit_population(f * x, np.zeros(5000, int))["rare"] for f in (1.0, 1e3))
    np.testing.assert_allclose(large[:3], 1e3 * small[:3])
    np.testing.assert_allclose(large[3:], small[3:])


def test_scores_that_remember_for_long_have_rarer_clusters_and_a_longer_horizon() -> None:
    rng = np.random.default_rng(17)
    noise = rng.normal(size=(8, 1000))
    slow = np.stack([np.convolve(row, np.ones(60) / 60, "same") for row in noise])
    entity = np.repeat(np.arange(8), 1000)
    brief, long = (fit_population(np.exp(x).ravel(), entity) for x in (noise, slow))
    assert brief["form"][0] == 0.01
    assert brief["form"][1] > 0.02
    assert brief["form"][2] == 128
    assert long["form"][0] < 0.01
    assert long["form"][2] == 512
    assert long["rare"][3] > 0.5  # the initial threshold lies above what is usual, in mean deviations


def test_too_few_scores_are_no_population() -> None:
    assert fit_population(np.arange(10.0), np.zeros(10, int)) == {}
    assert fit_population(np.full(500, 2.0), np.zeros(500, int)) == {}
    assert fit_population(np.empty(0), np.empty(0, int)) == {}


def test_a_warming_entity_without_a_population_shows_few_episodes() -> None:
    x = nasty("normal", 700, np.random.default_rng(14))
    x[260::20] += 30
    judged = Stage(risk=1e-4).one(x)
    assert 1 <= judged.episode_start.sum() <= 2
    assert judged.warming.all()


@pytest.mark.parametrize("between", [0.0, 1.0, 5.0])
def test_short_sessions_alarm_at_the_promised_rate_from_their_first_window(between: float) -> None:
    rng = np.random.default_rng(15)

    def sessions(n: int) -> np.ndarray:
        return rng.gamma(2, 1, (n, 10)) + between * rng.normal(size=(n, 1))

    tail = fit_population(sessions(2000).ravel(), np.repeat(np.arange(2000), 10))
    judged = Stage(8000, tail=tail).update(np.repeat(np.arange(8000), 10), sessions(8000).ravel())
    assert 0.7 < judged.episode_start.sum() / (1e-2 * 80_000) < 1.4
