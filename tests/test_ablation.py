"""The ablation, and the figures that it is told in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.recipe import Recipe
from tests.naive_vus import vus_pr as naive_vus_pr
from training import ablation
from training.ablation_rows import ROWS
from training.detection_metrics import THRESHOLDS, events, found, vus_pr
from training.labelled import cases

MINUTE_US = 60_000_000


@given(seed=st.integers(0, 2**32 - 1), digits=st.integers(0, 2), n=st.integers(20, 40))
@settings(max_examples=6, deadline=None)
def test_the_volume_equals_its_loops(seed: int, digits: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    label = (np.convolve(rng.random(n) < 0.06, np.ones(4))[:n] > 0).astype(np.int64)
    label[n // 2] = 1
    score = np.round(rng.normal(size=n) + label, digits)
    assert vus_pr(label, score, 6) == pytest.approx(naive_vus_pr(label.tolist(), score.tolist(), 6, THRESHOLDS))


def test_a_score_that_is_the_label_has_the_largest_volume() -> None:
    label = np.zeros(400, np.int64)
    label[100:150] = label[300:310] = 1
    score = label + np.random.default_rng(0).normal(0, 0.01, 400)
    assert vus_pr(label, score) > 0.9 > 0.3 > vus_pr(label, -score)
    assert events(label) == [(100, 150), (300, 310)]


def test_an_alert_finds_what_it_overlaps_and_is_false_elsewhere() -> None:
    label, t_us = np.zeros(100, np.int64), np.arange(100) * 1_000
    label[10:20] = label[50:60] = 1
    met = found(label, t_us, [(19_000, 25_000), (70_000, 70_000), (80_000, 81_000)])
    assert met.found == 0.5
    assert met.false_per_1000 == pytest.approx(2000 / 80)


def a_set(folder: Path) -> Path:
    """A set of two series of two sensors, whose second halves hold an anomaly."""
    folder.mkdir()
    rng, t = np.random.default_rng(0), np.arange(600)
    for name in ("a", "b"):
        x = np.stack([np.sin(t / 9), np.cos(t / 9)], 1) + rng.normal(0, 0.1, (600, 2))
        y = np.zeros(600, np.uint8)
        y[450:480], x[450:480] = 1, 4
        np.savez(folder / f"{name}.npz", x=x.astype(np.float32), y=y, channels=["p", "q"], rate_hz=1 / 60, n_train=300)
    return folder


def test_rows_are_run_once_and_told_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = a_set(tmp_path / "made"), tmp_path / "rows.jsonl"
    arguments = ["--data", str(folder.parent), "--sets", "made:1", "--out", str(out)]
    arguments += ["--rows", "without the forecasting network"]
    assert ablation.main(arguments) == 0
    assert "| made | without the forecasting network | 1 |" in capsys.readouterr().out
    written = out.read_text()
    assert json.loads(written)["found"] == 1.0
    assert ablation.main(arguments) == 0
    assert out.read_text() == written


def test_the_default_is_also_told_with_a_fixed_threshold(tmp_path: Path) -> None:
    case = next(iter(cases(a_set(tmp_path / "made"), 2)))
    results = list(ablation.run("default", Recipe(parts=("distance",), encoder="none"), case))
    assert [result["row"] for result in results] == ["default", ablation.FIXED]
    assert results[1]["found"] == 1.0


@pytest.mark.parametrize("single", [True, False])
def test_every_row_is_a_recipe_for_one_sensor_and_for_several(single: bool) -> None:
    made = {name: row(single) for name, row in ROWS.items()}
    assert made["default"] == Recipe()
    assert len({recipe.model_dump_json() for recipe in made.values()}) == len(made)
