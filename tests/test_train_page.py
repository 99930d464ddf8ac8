"""The report of a training: what it says follows from the data, and it stands beside the bundle, not in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sensor_worlds import trained

from models.bundle import write
from models.sensors_bundle import open_bundle as open_sensors
from stream_app.opening import open_bundle
from stream_app.threshold.population import BORROWED
from training.limits import Given, sensor_limits
from training.train_page import Told, page_of, write_report

GIVEN = Given(span_s=172_800, entities=5, window_s=60, held_out=100_000, risk=1e-3, noise=0.1)
LINEAGE = {"source": "f.parquet", "samples": 10, "entities": 1, "from_us": 0, "to_us": 400_000_000, "seed": 1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (GIVEN, "A weekly pattern needs 3 weeks of data; you gave 2 days"),
        (GIVEN, "A daily pattern needs 3 days of data"),
        (replace(GIVEN, held_out=100), "100 held-out windows can't show whether 1 alarm in 1,000 windows is kept"),
        (replace(GIVEN, entities=1), "trained on 1 entity"),
        (replace(GIVEN, noise=0.6), "60% of the training windows belong to no known behaviour"),
    ],
)
def test_what_too_little_data_can_not_show_is_said(given: Given, words: str) -> None:
    assert any(words in line for line in sensor_limits(given))


def test_what_enough_data_show_is_not_held_against_the_detector() -> None:
    plenty = Given(span_s=40 * 86_400, entities=20, window_s=60, held_out=10**6, risk=1e-3, noise=0.1)
    assert len(list(sensor_limits(plenty))) == 1, "only how long it looks at one time"


@pytest.mark.parametrize("peaks", [[], [1e-30] * 40, [0.0] * 40])
def test_a_tail_without_a_law_is_said_to_be_none(peaks: list[float]) -> None:
    """As of scores that are all the same but for the last digit."""
    made = trained("aligned")
    tail = {name: np.concatenate([np.asarray(v)[: len(BORROWED)], peaks]) for name, v in made.bundle.tail.items()}
    for packed in (tail[name] for name in ("rare", "often")):
        packed[BORROWED.index("tail_scale")] = 0.0
    detector = open_sensors(replace(made.bundle, tail=made.bundle.tail | tail))
    told = Told("pump", detector, dict(made.report), LINEAGE, [], 1.0)
    told.report["limits"] = []
    with np.errstate(all="ignore"):
        (words,) = (section.words for section in page_of(told).sections if section.title == "Tail fit")
    assert "too few" in words[-1]


def test_a_report_beside_a_bundle_leaves_the_bundle_as_it_is(tmp_path: Path) -> None:
    made = trained("aligned")
    digest = write(tmp_path, made.bundle)
    told = Told("pump", open_bundle(tmp_path), dict(made.report), LINEAGE, ["a line that was said"], 1.0)
    write_report(tmp_path, told)
    assert open_bundle(tmp_path).digest == digest
    html = (tmp_path / "report.html").read_text()
    titles = [section.title for section in page_of(told).sections]
    assert all(title in html for title in ("a line that was said", "Tail fit", "Training curve", "Held-out scores"))
    assert titles[0] == "What it can't see"
    assert json.loads((tmp_path / "report.json").read_text())["limits"]
