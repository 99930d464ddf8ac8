"""The guard: what is held against a version that was promoted, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from plain_detector import PlainDetector

from stream_app.config import Config, parse
from stream_app.live.guarding import Seen, complaint

RISK = 1e-3


def config(**guard: float) -> Config:
    return parse({"sources": [{"topic": "s"}], "alarms": {"risk": RISK}, "guard": guard})


def test_a_version_within_its_contract_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    for windows in (100, 1_000, 10_000):
        seen = Seen(windows, int(rng.poisson(RISK * windows)))
        assert complaint(config(), PlainDetector(), seen) is None


def test_three_times_the_promise_is_borne_and_ten_times_is_not() -> None:
    windows = 10_000
    assert complaint(config(), PlainDetector(), Seen(windows, 30)) is None
    assert complaint(config(), PlainDetector(), Seen(windows, 100)) == (
        "guard: 100 alarm episodes in 10000 windows, where 10 were promised"
    )


def test_one_episode_too_early_is_chance_and_no_reason() -> None:
    assert complaint(config(), PlainDetector(), Seen(10, 1)) is None
    assert complaint(config(), PlainDetector(), Seen(10, 3)) is not None


@pytest.mark.parametrize(("factor", "level", "held"), [(1.0, 1e-2, True), (1.0, 1e-9, False), (5.0, 1e-2, False)])
def test_factor_and_level_are_settings(factor: float, level: float, held: bool) -> None:
    found = complaint(config(factor=factor, level=level), PlainDetector(), Seen(10_000, 22))
    assert (found is not None) == held


def test_a_version_that_gives_no_scores_is_sent_back() -> None:
    assert complaint(config(), PlainDetector(), Seen(windows=50, refused=20)) is None, "too few to say"
    assert complaint(config(), PlainDetector(), Seen(windows=90, refused=20)) == (
        "guard: 20 of 110 windows got no score"
    )
