"""A file through the pipeline: what is written, and that everything read is accounted for."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_detector import PlainDetector

from models.detector import WindowSpec
from stream_app.errors import ConfigurationError
from stream_app.files.detect import Job, Summary, detect_with

T0_MS = 1_700_000_000_000
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)

rows_of_anything = st.lists(
    st.fixed_dictionaries(
        {
            "entity": st.sampled_from(["p", "q", None]),
            "sensor": st.sampled_from(["a", "b", "stranger"]),
            "t": st.integers(T0_MS, T0_MS + 300_000),
            "value": st.one_of(st.none(), st.floats(-5, 5), st.just(math.inf)),
        }
    ),
    min_size=1,
    max_size=80,
)


def run(rows: list[dict[str, Any]], folder: Path, detector: Any = None, **options: Any) -> Summary:
    file = folder / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return detect_with(detector or PlainDetector(), Job(file, folder, folder / "out", **options))


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()


def minute_of(entity: str, sensors: str = "ab", minutes: int = 5) -> list[dict[str, Any]]:
    times = range(T0_MS, T0_MS + 60_000 * minutes, 1000)
    return [{"entity": entity, "sensor": s, "t": t, "value": math.sin(t / 7000)} for t in times for s in sensors]


@in_a_folder
@given(rows=rows_of_anything, still_open=st.booleans())
def test_every_row_is_accounted_for_exactly_once(tmp_path: Path, rows: list[dict[str, Any]], still_open: bool) -> None:
    try:
        books = run(rows, tmp_path, still_open=still_open).accounting
    except ConfigurationError:  # a column of nothing but nulls has no type
        return
    lost = Counter()
    for row in rows:
        infinite = row["value"] is not None and math.isinf(row["value"])
        lost["dead"] += row["entity"] is None or row["sensor"] == "stranger" or infinite
    assert books["samples_read"] == len(rows)
    assert books["dead_lettered"] == lost["dead"]
    assert still_open or books["open"] == 0
    assert sum(n for name, n in books.items() if name != "samples_read") == len(rows)
    assert json.loads((tmp_path / "out" / "accounting.json").read_text()).items() >= books.items()


def test_a_folder_holds_scores_frames_entities_alerts_and_accounting(tmp_path: Path) -> None:
    run(minute_of("p") + minute_of("q"), tmp_path)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "scores.parquet", "frames.parquet", "entities.parquet", "alerts.jsonl", "accounting.json",
    }  # fmt: skip
    scores, frames, entities = (read(tmp_path, name) for name in ("scores", "frames", "entities"))
    names = {
        "entity",
        "data_start_time",
        "data_end_time",
        "anomaly_score",
        "threshold",
        "tail_probability",
        "anomalous",
    }
    assert names <= set(scores[0])
    assert set(frames[0]) == {"entity", "frame_start_time", "frame_end_time", "anomaly_score"}
    assert {row["entity"] for row in scores} == {row["entity"] for row in frames} == {"p", "q"}
    for entity in entities:
        mine = [row for row in scores if row["entity"] == entity["entity"]]
        assert entity["windows"] == len(mine)
        assert entity["anomalous_windows"] == sum(row["anomalous"] for row in mine)
        assert entity["anomaly_score"] == max(row["anomaly_score"] for row in mine)


def test_the_order_of_a_table_does_not_change_its_scores(tmp_path: Path) -> None:
    rows = minute_of("p")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run(rows, tmp_path / "one")
    run(sorted(rows, key=lambda row: row["sensor"]), tmp_path / "two")
    one, two = (pq.read_table(tmp_path / name / "out" / "scores.parquet").to_pandas() for name in ("one", "two"))
    offsets = ["first_offset", "last_offset"]  # number the rows as they lie, or as they were sorted
    pd.testing.assert_frame_equal(one.drop(columns=offsets), two.drop(columns=offsets))


def test_the_last_windows_stay_open_when_the_file_goes_on(tmp_path: Path) -> None:
    books = run(minute_of("p"), tmp_path, still_open=True).accounting
    assert books["open"] > 0


def test_a_file_without_rows_gives_empty_results(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("t,a\n")
    summary = detect_with(PlainDetector(), Job(tmp_path / "in.csv", tmp_path, tmp_path / "out"))
    assert set(summary.accounting.values()) == {0}
    assert "no rows" in " ".join(summary.notes)
    assert read(tmp_path, "scores") == read(tmp_path, "entities") == []


def test_one_row_gives_a_result(tmp_path: Path) -> None:
    summary = run(minute_of("p")[:1], tmp_path)
    assert summary.accounting["scored"] == 1


def test_a_file_of_unknown_sensors_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"t,x,y\n{T0_MS},1,2\n")
    with pytest.raises(ConfigurationError, match="none of the bundle's sensors"):
        detect_with(PlainDetector(), Job(tmp_path / "in.csv", tmp_path, tmp_path / "out"))


def test_tokens_are_refused_by_a_detector_of_sensors(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"t,token\n{T0_MS},x\n")
    with pytest.raises(ConfigurationError, match="holds tokens"):
        detect_with(PlainDetector(), Job(tmp_path / "in.csv", tmp_path, tmp_path / "out"))


def test_an_unknown_sensor_is_named_and_its_samples_dead_lettered(tmp_path: Path) -> None:
    summary = run(minute_of("p", sensors="ax"), tmp_path)
    assert summary.accounting["dead_lettered"] == 300
    assert any("sensor x: 300 samples" in note for note in summary.notes)
    refused = json.loads((tmp_path / "out" / "accounting.json").read_text())["refused"]
    assert refused == {"unknown_sensor": 300}


TOKENS = PlainDetector(
    kind="tokens",
    sensors=("token",),
    vocabulary={"x": 3, "y": 4},
    windows=WindowSpec(length_tokens=10, stride_tokens=10),
)


def session(entity: str, n: int) -> list[dict[str, Any]]:
    return [{"entity": entity, "t": T0_MS + i, "token": "xyz"[i % 3]} for i in range(n)]


def test_a_session_ends_with_its_last_row_and_is_as_strange_as_its_windows_on_average(tmp_path: Path) -> None:
    books = run(session("s", 25) + session("t", 3), tmp_path, TOKENS).accounting
    assert books["open"] == 0
    assert books["scored"] == 28
    scores, entities = read(tmp_path, "scores"), read(tmp_path, "entities")
    for entity in entities:
        mine = [row["anomaly_score"] for row in scores if row["entity"] == entity["entity"]]
        assert entity["anomaly_score"] == pytest.approx(np.mean(mine))
    assert {entity["entity"] for entity in entities} == {"s", "t"}


def test_a_session_stays_open_when_asked(tmp_path: Path) -> None:
    assert run(session("s", 25), tmp_path, TOKENS, still_open=True).accounting["open"] > 0
