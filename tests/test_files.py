"""Files in: layouts, times, bad rows, order; and a file's rows as records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.as_records import CHUNK_SAMPLES, SPAN_US, Message, Recorder
from stream_app.files.order import arriving, order_of
from stream_app.files.reader import Reader
from stream_app.files.times import times_us
from tests import naive_files
from tests.naive_files import Sample

T0_MS = 1_700_000_000_000
LATENESS_US = 5_000_000
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)

values = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([math.inf, -math.inf]))
times_ms = st.integers(T0_MS, T0_MS + 20_000)
long_rows = st.lists(
    st.fixed_dictionaries(
        {
            "entity": st.sampled_from(["a", "b", "ü"]),
            "sensor": st.sampled_from(["x", "y"]),
            "t": times_ms,
            "value": values,
        }
    ),
    min_size=1,
    max_size=60,
)
wide_rows = st.lists(
    st.fixed_dictionaries({"t": times_ms, "x": st.one_of(st.none(), st.floats(-9, 9)), "y": st.floats(-9, 9)}),
    min_size=1,
    max_size=40,
)


def save(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    table = pa.Table.from_pylist(list(rows))
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def samples(reader: Reader) -> list[Sample]:
    found = []
    for rows in arriving(reader, order_of(reader, LATENESS_US)):
        columns = zip(rows.entity, rows.sensor, rows.t_us, rows.value, strict=True)
        found += [(reader.entities[e], reader.sensors[s], int(t), float(v)) for e, s, t, v in columns]
    return found


def same(got: Sequence[Sample], wanted: Sequence[Sample]) -> bool:
    return repr(sorted(map(repr, got))) == repr(sorted(map(repr, wanted)))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@in_a_folder
@given(rows=long_rows)
def test_a_long_file_gives_the_samples_of_its_rows(tmp_path: Path, suffix: str, rows: list[dict[str, Any]]) -> None:
    reader = Reader(save(rows, tmp_path / f"long{suffix}"))
    assert same(samples(reader), naive_files.long_samples(rows))
    infinite = sum(row["value"] is not None and math.isinf(row["value"]) for row in rows)
    assert dict(reader.refused) == ({"not_finite": infinite} if infinite else {})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@in_a_folder
@given(rows=wide_rows)
def test_a_wide_file_gives_a_sample_per_cell_that_is_not_empty(
    tmp_path: Path, suffix: str, rows: list[dict[str, Any]]
) -> None:
    reader = Reader(save(rows, tmp_path / f"wide{suffix}"))
    assert same(samples(reader), naive_files.wide_samples(rows))


@in_a_folder
@given(rows=long_rows)
def test_rows_are_late_where_a_plain_loop_says_so(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    reader = Reader(save(rows, tmp_path / "order.parquet"))
    times = [(row["entity"], row["t"] * 1000) for row in rows]
    order = order_of(reader, LATENESS_US)
    assert (order.n_rows, order.n_late) == (len(rows), naive_files.late(times, LATENESS_US))
    last = {reader.entities[i]: int(row) for i, row in enumerate(order.last_row)}
    assert last == {row["entity"]: i for i, row in enumerate(rows)}


def test_a_file_sorted_by_sensor_is_sorted_by_time(tmp_path: Path) -> None:
    rows = [{"sensor": s, "t": T0_MS + 1000 * i, "value": float(i)} for s in "xy" for i in range(100)]
    reader = Reader(save(rows, tmp_path / "by_sensor.parquet"))
    order = order_of(reader, LATENESS_US)
    assert not order.of_arrival
    t_us = np.concatenate([rows.t_us for rows in arriving(reader, order)])
    assert (np.diff(t_us) >= 0).all()


def test_a_recording_with_a_few_late_rows_keeps_its_order(tmp_path: Path) -> None:
    rows = [{"sensor": "x", "t": T0_MS + 1000 * i, "value": 0.0} for i in range(100)]
    rows[50]["t"] = T0_MS
    reader = Reader(save(rows, tmp_path / "late.parquet"))
    order = order_of(reader, LATENESS_US)
    assert order.of_arrival
    assert order.n_late == 1
    assert [int(t) for rows in arriving(reader, order) for t in rows.t_us][50] == T0_MS * 1000


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "t_us"),
    [
        (pa.array([1_700_000_000_000.5]), 1_700_000_000_000_500),
        (pa.array([1_700_000_000_000]), 1_700_000_000_000_000),
        (pa.array(["1700000000000.25"]), 1_700_000_000_000_250),
        (pa.array(["2023-11-14T22:13:20Z"]), 1_700_000_000_000_000),
        (pa.array(["2023-11-14 23:13:20.5+01:00"]), 1_700_000_000_500_000),
        (pa.array(["2023-11-14T22:13:20"]), 1_700_000_000_000_000),
        (pa.array(["2023-11-14T22:13:20.123456789Z"]), 1_700_000_000_123_456),
        (pa.array([1_700_000_000_000_000_000], pa.timestamp("ns", tz="Europe/Berlin")), 1_700_000_000_000_000),
        (pa.array([1_700_000_000], pa.timestamp("s")), 1_700_000_000_000_000),
        (pa.array([0], pa.date32()), 0),
        (pa.array([-1], pa.timestamp("us")), -1),
    ],
)
def test_a_time_is_a_timestamp_or_milliseconds_or_rfc_3339(column: pa.Array, t_us: int) -> None:
    found, bad = times_us(pa.chunked_array([column]))
    assert found.tolist() == [t_us]
    assert not bad.any()


@pytest.mark.parametrize("text", ["", "yesterday", "2023-13-45T00:00:00Z", "nan", "1e999", "2023-11-14T25:00:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    _, bad = times_us(pa.chunked_array([[text, "2023-11-14T22:13:20Z", None]]))
    assert bad.tolist() == [True, False, True]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("far", [2**62, -(2**62)])
def test_a_timestamp_that_no_calendar_has_is_refused(unit: str, far: int) -> None:
    """Alerts and scores are dated in RFC 3339. Nanoseconds reach no further than the year 2262."""
    column = pa.array([far, 0, None], pa.timestamp(unit))
    t_us, bad = times_us(pa.chunked_array([column]))
    assert t_us[1] == 0
    assert bad.tolist() == [unit != "ns", False, True]


def test_numbers_that_can_be_no_milliseconds_are_refused() -> None:
    _, bad = times_us(pa.chunked_array([[1_700_000_000_000_000_000, 1_700_000_000_000]]))
    assert bad.tolist() == [True, False]


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("time,flow\n1,2\n", "no column `t`"),
        ("t\n1\n", "laid out in no known way"),
        ("t,name\n1,a\n", "laid out in no known way"),
        ("t,x,x\n1,2,3\n", "several columns are named x"),
        ("t,x\n1,2,3\n", "neither Parquet nor CSV"),
        ("\x00\x01\x02", "neither Parquet nor CSV"),
    ],
)
def test_a_file_in_no_known_layout_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Reader(write(tmp_path / "bad.csv", text))


def test_a_missing_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Reader(tmp_path / "none.parquet")


def test_a_truncated_parquet_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = save([{"t": T0_MS, "x": 1.0}], tmp_path / "cut.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigurationError):
        Reader(path)


def test_every_bad_row_is_counted_under_its_reason(tmp_path: Path) -> None:
    text = f"""entity,sensor,t,value
a,x,{T0_MS},1
a,x,never,1
a,,{T0_MS},1
,x,{T0_MS},1
a,x,{T0_MS},inf
a,x,{T0_MS},NaN
"""
    reader = Reader(write(tmp_path / "bad.csv", text))
    assert sum(len(rows) for rows in reader.batches()) == 2
    assert dict(reader.refused) == {"invalid_time": 1, "missing_sensor": 1, "missing_key": 1, "not_finite": 1}


def test_text_among_numbers_is_a_row_of_the_wrong_type(tmp_path: Path) -> None:
    rows = "\n".join(f"x,{T0_MS + i},{value}" for i, value in enumerate(["1.5", "broken", "-2e3", "", "7"]))
    reader = Reader(write(tmp_path / "text.csv", "sensor,t,value\n" + rows + "\n"))
    found = np.concatenate([batch.value for batch in reader.batches()])
    np.testing.assert_array_equal(found, [1.5, -2000.0, np.nan, 7.0])
    assert dict(reader.refused) == {"wrong_type": 1}


def test_a_file_without_rows_gives_none(tmp_path: Path) -> None:
    reader = Reader(write(tmp_path / "none.csv", "t,x\n"))
    assert samples(reader) == []
    assert order_of(reader, LATENESS_US).of_arrival


def test_columns_without_numbers_are_left_out_and_named(tmp_path: Path) -> None:
    reader = Reader(write(tmp_path / "label.csv", f"t,x,label\n{T0_MS},1,ok\n"))
    assert reader.layout.ignored == ("label",)
    assert list(reader.sensors) == ["x"]


def test_a_token_is_the_same_whether_a_number_or_its_digits(tmp_path: Path) -> None:
    for column in (pa.array([5, 22]), pa.array(["5", "22"]), pa.array([5.0, 22.0])):
        path = tmp_path / "tokens.parquet"
        pa.parquet.write_table(pa.table({"t": [T0_MS, T0_MS], "token": column}), path)
        reader = Reader(path)
        list(reader.batches())
        assert list(reader.tokens) == ["5", "22"]


# --- rows as records ----------------------------------------------------------------------------------------------


def messages(path: Path, form: str, numbered: bool = False) -> list[Message]:
    reader = Reader(path)
    recorder = Recorder(reader, form, numbered)
    return [m for rows in arriving(reader, order_of(reader, LATENESS_US)) for m in recorder.messages(rows)]


@pytest.mark.parametrize("form", ["json", "chunks"])
@in_a_folder
@given(rows=long_rows)
def test_records_say_what_the_rows_of_a_long_file_say(tmp_path: Path, form: str, rows: list[dict[str, Any]]) -> None:
    sent = messages(save(rows, tmp_path / "sent.parquet"), form)
    assert same(naive_files.sent_samples(sent, orjson.loads), naive_files.long_samples(rows))


@in_a_folder
@given(rows=wide_rows)
def test_records_say_what_the_rows_of_a_wide_file_say(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    sent = messages(save(rows, tmp_path / "sent.parquet"), "json")
    assert same(naive_files.sent_samples(sent, orjson.loads), naive_files.wide_samples(rows))


@in_a_folder
@given(rows=long_rows)
def test_arrow_records_say_what_the_rows_say(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    found: list[Sample] = []
    for message in messages(save(rows, tmp_path / "sent.parquet"), "arrow"):
        assert ("content-type", b"application/vnd.apache.arrow.stream") in message.headers
        for row in pa.ipc.open_stream(message.value).read_all().to_pylist():
            value = math.nan if row["value"] is None else row["value"]
            found.append((message.key.decode(), row["sensor"], row["t_us"], value))
    assert same(found, naive_files.long_samples(rows))


def test_a_chunk_spans_at_most_a_second_and_a_hundred_values(tmp_path: Path) -> None:
    fast = [{"sensor": "fast", "t": T0_MS + i, "value": 0.0} for i in range(1000)]
    slow = [{"sensor": "slow", "t": T0_MS + 400 * i, "value": 0.0} for i in range(10)]
    rows = sorted(fast + slow, key=lambda row: row["t"])
    sent = [(m, orjson.loads(m.value or b"")) for m in messages(save(rows, tmp_path / "rates.parquet"), "chunks")]
    assert max(m.n_samples for m, _ in sent) == CHUNK_SAMPLES
    for message, record in sent:
        assert message.t_us - record["t"] * 1000 <= SPAN_US


def test_tokens_are_numbered_only_where_the_file_holds_whole_sessions(tmp_path: Path) -> None:
    rows = [{"entity": e, "t": T0_MS + i, "token": t} for i, (e, t) in enumerate([("a", "x"), ("b", "y"), ("a", "z")])]
    path = save(rows, tmp_path / "tokens.parquet")
    numbered = [orjson.loads(m.value or b"") for m in messages(path, "json", numbered=True)]
    assert [record["seq"] for record in numbered] == [0, 0, 1]
    assert "seq" not in orjson.loads(messages(path, "json")[0].value or b"")


def test_tokens_have_no_arrow_form(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="arrow"):
        messages(save([{"t": T0_MS, "token": "x"}], tmp_path / "tokens.parquet"), "arrow")
