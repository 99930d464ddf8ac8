"""Every refusal of the records stage by its name, and that none depends on neighbours."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.config import Limits, parse
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.records.decoder import Decoder, DecoderSettings, Reason
from tests.records_rig import ARROW_HEADERS, CLOCK_US, T_MS, arrow, batch, decode, keys, one, without
from training.topic_reading import _Partition

# Refusals

LONG = "x" * 1_001
REFUSED: list[tuple[Reason, Any, dict[str, Any]]] = [
    (Reason.MISSING_KEY, one(), {"key": None}),
    (Reason.MISSING_KEY, None, {"key": b""}),
    (Reason.KEY_NOT_UTF8, one(), {"key": b"\xff"}),
    (Reason.KEY_WITH_NUL, one(), {"key": b"a\0"}),
    (Reason.KEY_TOO_LONG, one(), {"key": b"a" * 1_001}),
    (Reason.TOO_LARGE, one(), {"limits": Limits(record_bytes=20)}),
    (Reason.EMPTY_VALUE, b"", {}),
    (Reason.EMPTY_VALUE, b" \n", {}),
    (Reason.SCHEMA_REGISTRY_NOT_CONFIGURED, b'\0\0\0\0\x01{"t":1}', {}),
    (Reason.NOT_UTF8, b'{"sensor":"\xff","t":1,"value":1}', {}),
    (Reason.NOT_UTF8, b'{"x":"\xff","sensor":"a","t":1700000000000,"value":1}', {}),
    (Reason.NOT_JSON, b"ps1,1700000000000,151.2", {}),
    (Reason.NOT_JSON, b'{"sensor":"a","t":1700000000000,"value":01}', {}),
    (Reason.NOT_JSON, json.dumps(one()).encode() * 2, {}),
    (Reason.NOT_JSON, json.dumps(one()).encode() + b"\n" + json.dumps(one()).encode(), {}),
    (Reason.NOT_JSON, b"\xef\xbb\xbf" + json.dumps(one()).encode(), {}),
    (Reason.LONE_SURROGATE, b'{"sensor":"\\ud800","t":1700000000000,"value":1}', {}),
    (Reason.LONE_SURROGATE, b'{"t":1700000000000,"values":{"\\udc00":1}}', {}),
    (Reason.TOO_DEEP, b'{"x":' + b"[" * 100 + b"]" * 100 + b',"sensor":"a","t":1700000000000,"value":1}', {}),
    (Reason.TOO_DEEP, b"[" * 400_000 + b"]" * 400_000, {}),
    (Reason.NOT_AN_OBJECT, [one()], {}),
    (Reason.NOT_AN_OBJECT, b"151.2", {}),
    (Reason.SCHEMA_VERSION, one(schema_version=2), {}),
    (Reason.SCHEMA_VERSION, one(schema_version="1"), {}),
    (Reason.SCHEMA_VERSION, one(schema_version=True), {}),
    (Reason.WRONG_TYPE, one(value="NaN"), {}),
    (Reason.WRONG_TYPE, one(value="151.2"), {}),
    (Reason.WRONG_TYPE, one(value=True), {}),
    (Reason.WRONG_TYPE, one(value=[1]), {}),
    (Reason.WRONG_TYPE, one(sensor=5), {}),
    (Reason.WRONG_TYPE, one(type="word8"), {}),
    (Reason.WRONG_TYPE, {"t": T_MS, "token": 5.0}, {}),
    (Reason.WRONG_TYPE, {"t": T_MS, "tokens": [1, True]}, {}),
    (Reason.WRONG_TYPE, {"t": T_MS, "tokens": [1], "seq": -1}, {}),
    (Reason.WRONG_TYPE, {"t": T_MS, "values": {"a": "1"}}, {}),
    (Reason.NO_VALUES, without("value", one()), {}),
    (Reason.NO_VALUES, {}, {}),
    (Reason.NO_VALUES, {"sensor": "a", "t": T_MS, "rate_hz": 1, "values": []}, {}),
    (Reason.NO_VALUES, {"t": T_MS, "values": {}}, {}),
    (Reason.NO_VALUES, {"t": T_MS, "tokens": []}, {}),
    (Reason.SEVERAL_VALUES, one(values=[1], rate_hz=1), {}),
    (Reason.SEVERAL_VALUES, one(token="a"), {}),
    (Reason.WRONG_KIND, {"t": T_MS, "token": "a"}, {"kind": "sensors"}),
    (Reason.WRONG_KIND, one(), {"kind": "tokens"}),
    (Reason.MISSING_TIME, without("t", one()), {}),
    (Reason.MISSING_TIME, one(t=None), {}),
    (Reason.INVALID_TIME, one(t="yesterday"), {}),
    (Reason.INVALID_TIME, one(t="2023-11-14T22:13:20"), {}),
    (Reason.INVALID_TIME, one(t=str(T_MS)), {}),
    (Reason.INVALID_TIME, one(t=True), {}),
    (Reason.INVALID_TIME, one(t=math.nan), {}),
    (Reason.INVALID_TIME, one(t=-math.inf), {}),
    (Reason.MISSING_SENSOR, without("sensor", one()), {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1]}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": 0}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": -5}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": 1e7}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": math.nan}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": math.inf}, {}),
    (Reason.INVALID_RATE, {"sensor": "a", "t": T_MS, "values": [1], "rate_hz": "fast"}, {}),
    (Reason.UNKNOWN_SENSOR, one(), {"sensors": {"fs1": 0}}),
    (Reason.TOO_MANY_SENSORS, one(), {"limits": Limits(sensors=0)}),
    (Reason.TOO_MANY_TOKENS, {"t": T_MS, "token": "a"}, {"limits": Limits(tokens=0)}),
    (Reason.NAME_TOO_LONG, one(sensor=LONG), {}),
    (Reason.NAME_TOO_LONG, {"t": T_MS, "token": LONG}, {}),
    (Reason.NAME_TOO_LONG, {"t": T_MS, "token": int("9" * 1_001)}, {}),
    (Reason.NOT_FINITE, one(value=math.inf), {}),
    (Reason.NOT_FINITE, b'{"sensor":"a","t":1700000000000,"value":-1e999}', {}),
    (Reason.NOT_FINITE, b'{"sensor":"a","t":1700000000000,"value":1%s}' % (b"0" * 5_000), {}),
    (Reason.OUTSIDE_TYPE, one(type="word16", value=65_536), {}),
    (Reason.OUTSIDE_TYPE, one(type="word16", value=1.5), {}),
    (Reason.OUTSIDE_TYPE, one(type="bits", value=-1), {}),
    (Reason.TIME_AHEAD, one(t=T_MS + 3_600_001), {}),
    (Reason.TIME_AHEAD, one(t="2099-01-01T00:00:00Z"), {}),
    (Reason.TIME_AHEAD, one(t=1e308), {}),
    (Reason.TIME_BEHIND, one(t=T_MS // 1_000), {}),
    (Reason.TIME_BEHIND, one(t=0), {}),
    (Reason.TIME_BEHIND, one(t=-5), {}),
]


@pytest.mark.parametrize(("reason", "value", "how"), REFUSED, ids=[f"{r}-{i}" for i, (r, _, _) in enumerate(REFUSED)])
def test_what_cannot_be_used_is_refused_by_name_and_its_neighbours_are_not(
    reason: Reason, value: Any, how: Any
) -> None:
    how = dict(how)
    key = how.pop("key", b"pump")
    alone = decode(value, key=key, **how)
    assert [letter.reason for letter in alone.dead_letters] == [reason]
    assert len(alone.samples) == 0
    assert isinstance(alone.dead_letters[0].reason, Reason)
    assert alone.dead_letters[0].detail
    if key == b"pump" and not how:
        among = decode(*[one(value=i) for i in range(300)], value, *[one(value=i) for i in range(300)])
        assert [(letter.index, letter.reason) for letter in among.dead_letters] == [(300, reason)]
        assert among.samples.value.tolist() == [*range(300), *range(300)]


ARROW_REFUSED: list[tuple[Reason, bytes]] = [
    (Reason.INVALID_ARROW, b""),
    (Reason.INVALID_ARROW, b"nope"),
    (Reason.INVALID_ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
    (Reason.INVALID_ARROW, arrow({"sensor": ["a"], "t_us": [CLOCK_US], "value": [1.0]})[:200]),
    (Reason.COMPRESSED_ARROW, arrow({"sensor": ["a"], "t_us": [CLOCK_US], "value": [1.0]}, compression="zstd")),
    (
        Reason.NO_VALUES,
        arrow({"sensor": pa.array([], "string"), "t_us": pa.array([], "int64"), "value": pa.array([], "double")}),
    ),
    (Reason.NO_VALUES, arrow({"sensor": ["a"], "t_us": [CLOCK_US]})),
    (Reason.MISSING_TIME, arrow({"sensor": ["a"], "value": [1.0]})),
    (Reason.MISSING_TIME, arrow({"sensor": ["a"], "t_us": pa.array([None], "int64"), "value": [1.0]})),
    (Reason.INVALID_TIME, arrow({"sensor": ["a"], "t_us": [1.5], "value": [1.0]})),
    (Reason.MISSING_SENSOR, arrow({"t_us": [CLOCK_US], "value": [1.0]})),
    (Reason.MISSING_SENSOR, arrow({"sensor": pa.array([None], "string"), "t_us": [CLOCK_US], "value": [1.0]})),
    (Reason.WRONG_TYPE, arrow({"sensor": [1], "t_us": [CLOCK_US], "value": [1.0]})),
    (Reason.WRONG_TYPE, arrow({"sensor": ["a"], "t_us": [CLOCK_US], "value": ["1.0"]})),
    (Reason.NOT_FINITE, arrow({"sensor": ["a"], "t_us": [CLOCK_US], "value": [math.inf]})),
    (Reason.TIME_AHEAD, arrow({"sensor": ["a"], "t_us": [2**63 - 1], "value": [1.0]})),
    (Reason.TIME_BEHIND, arrow({"sensor": ["a"], "t_us": [-(2**63)], "value": [1.0]})),
]


@pytest.mark.parametrize(("reason", "value"), ARROW_REFUSED, ids=[f"{r}-{i}" for i, (r, _) in enumerate(ARROW_REFUSED)])
def test_arrow_that_cannot_be_used_is_refused_by_name(reason: Reason, value: bytes) -> None:
    decoded = decode(value, headers=ARROW_HEADERS)
    assert [(letter.reason, letter.n_samples) for letter in decoded.dead_letters] == [(reason, 1)]
    assert len(decoded.samples) == 0


@settings(deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), dictionary=st.booleans())
def test_arrow_with_a_flipped_bit_is_read_or_refused(at: int, bit: int, dictionary: bool) -> None:
    sensor = pa.array(["a", "b"] * 4)
    good = arrow(
        {"sensor": sensor.dictionary_encode() if dictionary else sensor, "t_us": [CLOCK_US] * 8, "value": [1.0] * 8}
    )
    bad = bytearray(good)
    bad[at % len(good)] ^= 1 << bit
    decoded = decode(bytes(bad), headers=ARROW_HEADERS)
    assert len(decoded.samples) + sum(letter.n_samples for letter in decoded.dead_letters) >= 1


def test_only_the_samples_that_cannot_be_used_are_refused() -> None:
    decoded = decode({"t": T_MS, "values": {"a": 1, "z": 2, "b": 3, "y": 4}}, sensors={"a": 0, "b": 1})
    assert decoded.samples.value.tolist() == [1, 3]
    assert [(letter.index, letter.reason, letter.n_samples) for letter in decoded.dead_letters] == [
        (0, "unknown_sensor", 2)
    ]


def test_chunk_that_reaches_too_far_ahead_keeps_its_beginning() -> None:
    decoded = decode({"sensor": "a", "t": T_MS, "rate_hz": 1, "values": [0, 1, 2]}, max_ahead_us=1_000_000)
    assert decoded.samples.value.tolist() == [0, 1]
    assert [(letter.reason, letter.n_samples) for letter in decoded.dead_letters] == [("time_ahead", 1)]


def test_a_record_whose_form_is_plain_counts_its_samples() -> None:
    decoded = decode({"sensor": "a", "values": [1, 2, 3], "rate_hz": 1})
    assert [(letter.reason, letter.n_samples) for letter in decoded.dead_letters] == [("missing_time", 3)]
    limited = decode({"t": T_MS, "tokens": [1, 2, 3]}, limits=Limits(samples_per_record=2))
    assert [(letter.reason, letter.n_samples) for letter in limited.dead_letters] == [("too_many_samples", 3)]


def test_detail_holds_nothing_of_the_payload() -> None:
    secret = "s3cr3t"
    values = [one(type=secret), one(value=secret), one(t=secret), {secret: 1}, {"t": T_MS, "values": {secret: "1"}}]
    for value in values:
        for letter in decode(value, json.dumps(value).encode() + secret.encode()).dead_letters:
            assert secret not in letter.detail


def test_without_any_kafka_timestamp_only_the_calendar_bounds_time() -> None:
    decoded = decode(one(), one(t=-1), one(t=1e15), clock_us=-1)
    assert decoded.samples.t_us.tolist() == [CLOCK_US]
    assert [letter.reason for letter in decoded.dead_letters] == ["time_behind", "time_ahead"]


@pytest.mark.parametrize("clock_us", [CLOCK_US * 1_000, 2**63 - 1])
def test_kafka_timestamps_in_another_unit_move_no_clock_and_let_nothing_beyond_the_calendar_in(clock_us: int) -> None:
    """Microseconds for milliseconds: the year 55,840. It would be the partition's clock for ever, and no alert could be
    dated."""
    decoder = Decoder(DecoderSettings(), keys())
    decoded = decoder.decode(batch(one(t=T_MS * 1_000), one(), clock_us=[clock_us, clock_us]))
    assert [letter.reason for letter in decoded.dead_letters] == ["time_ahead"]
    assert decoded.samples.t_us.tolist() == [CLOCK_US]
    assert decoder.clock_us == -1
    after = decoder.decode(batch(one(), one(t=T_MS + 3_600_001), clock_us=CLOCK_US))
    assert [letter.reason for letter in after.dead_letters] == ["time_ahead"]


def test_what_a_configuration_says_of_a_source_is_said_to_who_trains_and_to_who_judges() -> None:
    windows = {"max_ahead": "2h", "max_behind": "70d"}
    config = parse({"sources": [{"topic": "s", "default_entity": "e"}], "windows": windows, "limits": {"tokens": 7}})
    settings = DecoderSettings.of(config, "s")
    assert (settings.default_entity, settings.limits.tokens) == ("e", 7)
    assert (settings.max_ahead_us, settings.max_behind_us) == (2 * 3_600_000_000, 70 * 86_400_000_000)
    assert Pipeline(PipelineSpec(config, topic="s")).decoder._settings == settings
    assert _Partition("s", config, None).decoder._settings == settings


def test_however_far_settings_let_times_go_they_stay_dates() -> None:
    far = {"max_ahead_us": 2**61, "max_behind_us": 2**61}
    decoded = decode(one(t=-1e14), one(), one(t=1e15), **far)
    assert [letter.reason for letter in decoded.dead_letters] == ["time_behind", "time_ahead"]


def test_two_records_in_one_value_take_no_other_values_place() -> None:
    text = json.dumps(one()).encode()
    for pair in (
        [text + b"\n" + text, b" "],
        [b" ", text + b"\n" + text],
        [text[:20], text[20:]],
        [text + b" ", b"\n"],
    ):
        decoded = decode(*pair)
        assert len(decoded.samples) + len(decoded.dead_letters) == 2
        assert len(decoded.samples) == (1 if pair[0] == text + b" " else 0)


def test_a_record_on_several_lines_is_one_record() -> None:
    text = json.dumps(one(), indent=2).encode() + b"\n"
    assert len(decode(text, text).samples) == 2


def test_learnt_names_are_numbered_as_they_come() -> None:
    decoder = Decoder(DecoderSettings(), keys())
    decoder.decode(batch(one(sensor="b"), {"t": T_MS, "values": {"a": 1, "b": 2}}, {"t": T_MS, "token": "x"}))
    assert (decoder.sensors, decoder.vocabulary) == ({"b": 0, "a": 1}, {"x": 3})
