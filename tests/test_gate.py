"""The gate: numbers in, checks out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from stream_app.config import Gates
from stream_app.model_store.gate import Figures, gate, most_episodes, refused

GOOD = Figures(
    windows=5000,
    episodes=1,
    promised=1.0,
    alarmed=0.001,
    agreement=0.999,
    labelled=3,
    lost=0,
    golden=1e-9,
    clusters=4,
    noise=0.2,
    placement=1.0,
    still=0,
    latency_ms=0.5,
)


def missed(limits: Gates | None = None, **changes: Any) -> list[str]:
    made = gate(replace(GOOD, **changes), limits or Gates())
    assert made.passed == all(check.passed for check in made.checks)
    return [check.name for check in made.checks if not check.passed]


def test_a_good_candidate_passes_every_check() -> None:
    assert missed() == []
    assert len(gate(GOOD, Gates()).checks) == 11


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("windows", {"windows": 10}),
        ("alarm_rate", {"episodes": 6}),
        ("time_in_alarm", {"alarmed": 0.5}),
        ("agreement", {"agreement": 0.5}),
        ("episodes_lost", {"lost": 1}),
        ("golden", {"golden": 1e-3}),
        ("golden", {"golden": float("nan")}),
        ("clusters", {"clusters": 0}),
        ("noise", {"noise": 1.0}),
        ("placement", {"placement": 0.9}),
        ("variance", {"still": 1}),
        ("variance", {"still": -1}),
        ("latency_ms", {"latency_ms": 500.0}),
    ],
)
def test_each_check_refuses_what_it_is_for_and_nothing_else_does(name: str, changes: dict[str, Any]) -> None:
    assert missed(**changes) == [name]


def test_a_limit_of_null_leaves_its_check_out() -> None:
    limits = Gates(noise=None, clusters=None)
    assert missed(limits, noise=1.0, clusters=0) == []
    assert not {"noise", "clusters"} & {check.name for check in gate(GOOD, limits).checks}


def test_without_a_live_bundle_there_is_nothing_to_agree_with() -> None:
    assert missed(agreement=None, labelled=0) == []


def test_what_could_not_be_made_is_refused_with_its_reason() -> None:
    made = refused("data", "3 frames; at least 24 are needed")
    assert not made.passed
    assert made.checks[0].detail.startswith("3 frames")


@given(st.floats(0, 1000))
def test_as_many_episodes_are_allowed_as_chance_gives_in_nineteen_cases_of_twenty(promised: float) -> None:
    allowed = most_episodes(promised)
    assert poisson.cdf(allowed, promised) >= 0.95 - 0.005
    assert allowed == 0 or poisson.cdf(allowed - 2, promised) < 0.95
