"""The records stage: every form, every refusal, and that neither depends on neighbours."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.records.decoder import ARROW, Decoder, DecoderSettings, Reason
from stream_app.samples import Decoded, RawBatch
from tests.naive_records import NaiveDecoder

T_MS = 1_700_000_000_000
CLOCK_US = T_MS * 1_000
ARROW_HEADERS = (("content-type", ARROW),)


def keys() -> Keys:
    return Keys({"nothing": np.zeros(1, [("n", "i8")])})


def batch(*values: Any, key: Any = b"pump", headers: Any = (), clock_us: Any = CLOCK_US, first: int = 0) -> RawBatch:
    """Values that are not bytes become JSON; a list of keys, headers or clocks is one for each record."""
    n = len(values)
    raw = [v if v is None or isinstance(v, bytes) else json.dumps(v).encode() for v in values]
    return RawBatch(
        topic="t",
        partition=0,
        keys=key if isinstance(key, list) else [key] * n,
        values=raw,
        offsets=np.arange(first, first + n, dtype=np.int64),
        clock_us=np.array(clock_us if isinstance(clock_us, list) else [clock_us] * n, np.int64),
        headers=headers if isinstance(headers, list) else [headers] * n,
    )


def decode(*values: Any, **how: Any) -> Decoded:
    of_batch = {name: how.pop(name) for name in ("key", "headers", "clock_us") if name in how}
    return Decoder(DecoderSettings(**how), keys()).decode(batch(*values, **of_batch))


def one(**fields: Any) -> dict[str, Any]:
    return {"sensor": "ps1", "t": T_MS, "value": 151.2} | fields


def without(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def arrow(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    record_batch = pa.record_batch(columns)
    with pa.ipc.new_stream(sink, record_batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_batch(record_batch)
    return bytes(sink.getvalue().to_pybytes())


def columns_of(decoded: Decoded) -> dict[str, list[Any]]:
    names = ("entity", "sensor", "t_us", "value", "offset", "clock_us", "seq", "end")
    return {name: getattr(decoded.samples, name).tolist() for name in names}


# Forms


def test_one_sample() -> None:
    samples = columns_of(decode(one()))
    assert samples == {
        "entity": samples["entity"],
        "sensor": [0],
        "t_us": [CLOCK_US],
        "value": [151.2],
        "offset": [0],
        "clock_us": [CLOCK_US],
        "seq": [-1],
        "end": [False],
    }


def test_chunk_counts_its_times_from_the_first_sample() -> None:
    samples = decode({"sensor": "ps1", "t": T_MS, "rate_hz": 3, "values": [1, 2.5, None, 4]}).samples
    assert (samples.t_us - CLOCK_US).tolist() == [0, 333_333, 666_667, 1_000_000]
    np.testing.assert_array_equal(samples.value, [1, 2.5, np.nan, 4])


def test_several_sensors_at_one_time() -> None:
    samples = decode({"t": T_MS, "values": {"ps1": 151.2, "fs1": 8.9}}).samples
    assert samples.sensor.tolist() == [0, 1]
    assert samples.value.tolist() == [151.2, 8.9]
    assert samples.t_us.tolist() == [CLOCK_US] * 2


def test_tokens_have_ids_and_an_integer_is_the_same_token_as_its_digits() -> None:
    decoded = decode(
        {"t": T_MS, "token": "5"}, {"t": T_MS, "tokens": [5, "E5", 6], "seq": 17}, vocabulary={"5": 3, "E5": 4}
    )
    assert decoded.samples.value.tolist() == [3, 3, 4, 2]
    assert decoded.samples.seq.tolist() == [-1, 17, 18, 19]


@pytest.mark.parametrize("dictionary", [False, True])
def test_arrow_columns(dictionary: bool) -> None:
    sensor = pa.array(["a", "b", "a"])
    value = arrow(
        {
            "sensor": sensor.dictionary_encode() if dictionary else sensor,
            "t_us": pa.array([CLOCK_US, CLOCK_US + 1, CLOCK_US + 2]),
            "value": pa.array([1.5, None, math.nan]),
        }
    )
    samples = decode(value, headers=ARROW_HEADERS).samples
    assert samples.sensor.tolist() == [0, 1, 0]
    assert (samples.t_us - CLOCK_US).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(samples.value, [1.5, np.nan, np.nan])


def test_arrow_takes_other_integers_floats_and_timestamps() -> None:
    value = arrow(
        {"sensor": ["a"], "t_us": pa.array([T_MS], pa.timestamp("ms", "UTC")), "value": pa.array([7], pa.int8())}
    )
    samples = decode(value, headers=(("Content-Type", ARROW + b"; x=y"),)).samples
    assert (samples.t_us.tolist(), samples.value.tolist()) == ([CLOCK_US], [7.0])


def test_arrow_and_json_records_keep_their_order() -> None:
    value = arrow({"sensor": ["b", "a"], "t_us": [CLOCK_US] * 2, "value": [2.0, 3.0]})
    headers = [(), ARROW_HEADERS, (), ARROW_HEADERS]
    decoded = decode(one(value=1), value, one(value=4), value, headers=headers)
    assert decoded.samples.value.tolist() == [1, 2, 3, 4, 2, 3]
    assert decoded.samples.offset.tolist() == [0, 1, 1, 2, 3, 3]
    assert decoded.samples.sensor.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "t", [T_MS, float(T_MS), "2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14t22:13:20.000000z"]
)
def test_time_is_epoch_milliseconds_or_rfc_3339(t: Any) -> None:
    assert decode(one(t=t)).samples.t_us.tolist() == [CLOCK_US]


def test_fractions_of_a_millisecond_count() -> None:
    assert decode(one(t=T_MS + 0.25)).samples.t_us.tolist() == [CLOCK_US + 250]


@pytest.mark.parametrize("value", [b'{"sensor":"a","t":1700000000000,"value":%s}' % v for v in (b"null", b"NaN")])
def test_null_and_nan_are_missing_samples(value: bytes) -> None:
    decoded = decode(value)
    assert np.isnan(decoded.samples.value).tolist() == [True]
    assert not decoded.dead_letters


def test_fields_that_are_null_count_as_not_given() -> None:
    empty = dict.fromkeys(("values", "rate_hz", "token", "tokens", "seq", "type", "schema_version"))
    assert len(decode(empty | one()).samples) == 1
    chunk = {"sensor": "a", "t": T_MS, "rate_hz": 1, "values": [1, 2], "value": None, "token": None}
    assert len(decode(chunk).samples) == 2


def test_unknown_fields_are_ignored() -> None:
    assert len(decode(one(firmware={"version": [1, 2]})).samples) == 1


@pytest.mark.parametrize(
    ("type_", "value"), [("float", -1.5), ("word16", 65_535), ("word32", 2**32 - 1), ("bits", 2**53 - 1)]
)
def test_types_hold_their_range(type_: str, value: float) -> None:
    assert decode(one(type=type_, value=value)).samples.value.tolist() == [value]
    assert decode(one(type=type_, value=None)).dead_letters == ()


# Keys, tombstones, clock


def test_tombstone_ends_the_entity_and_its_next_record_begins_anew() -> None:
    decoded = decode(one(), None, one(), None, key=[b"a", b"a", b"a", b"b"])
    samples = decoded.samples
    assert samples.end.tolist() == [False, True, False, True]
    assert samples.entity[0] == samples.entity[1] != samples.entity[2]
    assert np.isnan(samples.value[1])
    assert decoded.dead_letters == ()


def test_default_entity_takes_the_place_of_a_missing_key() -> None:
    slots = keys()
    decoded = Decoder(DecoderSettings(default_entity="plant"), slots).decode(batch(one(), one(), key=[None, b""]))
    assert [slots.name(slot) for slot in decoded.samples.entity.tolist()] == ["plant", "plant"]


def test_refused_records_take_no_slot() -> None:
    slots = keys()
    Decoder(DecoderSettings(), slots).decode(batch(b"nope", one(t=9e15), one(), key=[b"a", b"b", b"c"]))
    assert (b"a" in slots, b"b" in slots, b"c" in slots) == (False, False, True)


def test_clock_is_the_largest_kafka_timestamp_and_never_falls() -> None:
    decoder = Decoder(DecoderSettings(), keys())
    first = decoder.decode(batch(one(), one(), clock_us=[CLOCK_US + 5, CLOCK_US]))
    second = decoder.decode(batch(one(), clock_us=CLOCK_US + 3))
    assert (first.samples.clock_us - CLOCK_US).tolist() == [5, 5]
    assert (second.samples.clock_us - CLOCK_US).tolist() == [5]
    assert decoder.clock_us == CLOCK_US + 5


def test_empty_batch_is_empty() -> None:
    decoded = decode()
    assert (len(decoded.samples), decoded.dead_letters) == (0, ())


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


# Laws: the same as the obvious way, and the same however the records are batched

names = st.sampled_from(["ps1", "fs1", "ü", "ts2"])
times = st.one_of(
    st.sampled_from(
        [T_MS, T_MS + 0.5, T_MS + 10**8, 0, -1, 1.7e9, 1e300, "2023-11-14T22:13:20.5Z", "x", True, None, math.nan]
    ),
    st.integers(T_MS - 10**6, T_MS + 10**6),
    st.floats(T_MS - 1e6, T_MS + 1e6),
)
numbers = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 70_000),
    st.sampled_from([None, "1", True, 10**400, -0.0, 5e-324, [], {}]),
)
tokens = st.one_of(st.integers(-3, 6), st.sampled_from(["5", "E5", "", 5.0, None, True, "\ud800"]))
extras = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["float", "word16", "word32", "bits", "word8", None]),
        "schema_version": st.sampled_from([1, 2, "1", None, 1.0]),
        "seq": st.sampled_from([0, 17, 2**53, 2**53 + 1, -1, 1.0, None]),
        "firmware": st.sampled_from([{"a": [1]}, "\ud800", 1e999, "ä", [[[[]]]]]),
        "rate_hz": st.sampled_from([1, 0.5, 100, 1e6, 1e7, 0, -1, math.nan, 1e-300, 5e-324, None, "1"]),
        "value": numbers,
        "token": tokens,
    },
)
singles = st.fixed_dictionaries({"sensor": names, "t": times, "value": numbers})
forms = st.one_of(
    singles,
    st.fixed_dictionaries(
        {"sensor": names, "t": times, "rate_hz": st.sampled_from([1, 3, 100]), "values": st.lists(numbers, max_size=4)}
    ),
    st.fixed_dictionaries({"t": times, "values": st.dictionaries(names, numbers, max_size=3)}),
    st.fixed_dictionaries({"t": times, "token": tokens}),
    st.fixed_dictionaries({"t": times, "tokens": st.lists(tokens, max_size=4)}),
)


@st.composite
def records(draw: st.DrawFn) -> Any:
    """A record as bytes, mostly close to a good one."""
    fields = draw(forms)
    if draw(st.integers(0, 3)) == 0:
        fields = fields | draw(extras)
    if draw(st.integers(0, 9)) == 0 and fields:
        fields = without(draw(st.sampled_from(sorted(fields))), fields)
    value = json.dumps(fields, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, None, 1])))
    raw = value.encode("utf-8", "surrogatepass")
    damage = draw(st.integers(0, 30))
    if damage == 0:
        raw = raw[: draw(st.integers(0, len(raw)))]
    if damage == 1:
        raw += draw(st.sampled_from([b"}", b"\n", b" ", b"\n" + raw, raw, b"\xff"]))
    return None if damage == 2 else raw


good = st.builds(
    lambda sensor, t, value: {"sensor": sensor, "t": t, "value": value},
    names,
    st.integers(T_MS - 10**6, T_MS + 10**6),
    st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-9, 9)),
).map(lambda fields: json.dumps(fields).encode())
streams = st.lists(st.one_of(good, records()), max_size=12)
entities = st.sampled_from([b"a", b"a", b"b", None, b"\xff"])
choices = st.builds(
    DecoderSettings,
    kind=st.sampled_from([None, None, "sensors", "tokens"]),
    sensors=st.sampled_from([None, {"ps1": 0, "ü": 1}]),
    vocabulary=st.sampled_from([None, {"5": 3, "E5": 4, "": 5}]),
    default_entity=st.sampled_from([None, "plant"]),
    limits=st.sampled_from([Limits(), Limits(sensors=2, tokens=2, samples_per_record=3, record_bytes=90)]),
)


def rows(slots: Keys, decoded: Decoded) -> list[tuple[Any, ...]]:
    names_of = [slots.name(slot) for slot in decoded.samples.entity.tolist()]
    columns = columns_of(decoded)
    columns["value"] = [None if math.isnan(value) else value for value in columns["value"]]
    return list(zip(names_of, *columns.values(), strict=True))


@settings(max_examples=400, deadline=None)
@given(values=streams, how=choices, data=st.data())
@example(values=[b'{"sensor":"ps1","t":1700000000000,"value":1}'] * 3, how=DecoderSettings(), data=None)
def test_decoder_equals_the_obvious_one(values: list[bytes | None], how: DecoderSettings, data: Any) -> None:
    raw = batch(*values, key=[b"a"] * len(values) if data is None else [data.draw(entities) for _ in values])
    slots = keys()
    decoded = Decoder(how, slots).decode(raw)
    samples, letters = NaiveDecoder(how).decode(raw)
    # An entity's session is a slot there and a number here: (entity, slot) must pair with (entity, session).
    pairs: dict[int, tuple[str, int]] = {}
    found = rows(slots, decoded)
    assert len(found) == len(samples)
    for ours, theirs in zip(found, samples, strict=True):
        assert (ours[0], *ours[2:]) == (theirs[0], *theirs[2:])
        assert pairs.setdefault(ours[1], theirs[:2]) == theirs[:2]
    assert sorted((letter.index, letter.reason, letter.n_samples) for letter in decoded.dead_letters) == sorted(letters)


@settings(deadline=None)
@given(values=st.lists(st.one_of(good, records()), min_size=1, max_size=10), how=choices, data=st.data())
def test_batches_do_not_matter(values: list[bytes | None], how: DecoderSettings, data: Any) -> None:
    # Long runs of good records around the drawn ones, so that runs are decoded whole and are halved.
    filler = [json.dumps(one(value=i)).encode() for i in range(data.draw(st.sampled_from([0, 3, 600])))]
    stream: list[bytes | None] = [*filler, *values, *filler]
    clock = [CLOCK_US + (7 * i) % 5 for i in range(len(stream))]
    whole_keys, cut_keys = keys(), keys()
    whole = Decoder(how, whole_keys).decode(batch(*stream, clock_us=clock))
    decoder, found, letters = Decoder(how, cut_keys), [], []
    for first, last in cuts(data.draw, len(stream)):
        part = decoder.decode(batch(*stream[first:last], clock_us=clock[first:last], first=first))
        found += rows(cut_keys, part)
        letters += [
            (first + letter.index, letter.reason, letter.detail, letter.n_samples) for letter in part.dead_letters
        ]
    assert found == rows(whole_keys, whole)
    assert letters == [(x.index, x.reason, x.detail, x.n_samples) for x in whole.dead_letters]


@st.composite
def arrows(draw: st.DrawFn) -> bytes:
    """An Arrow record, mostly good, and mostly of the same schema as others."""
    n = draw(st.integers(0, 3) if draw(st.integers(0, 9)) == 0 else st.integers(1, 3))
    sensor = pa.array(draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=n, max_size=n)), "string")
    value = draw(st.lists(st.sampled_from([1.0, None, math.nan, math.inf]), min_size=n, max_size=n))
    columns = {
        "sensor": sensor.dictionary_encode() if draw(st.booleans()) else sensor,
        "t_us": pa.array([CLOCK_US] * n, "int64"),
        "value": pa.array(value, draw(st.sampled_from(["float64", "float64", "float32"]))),
    }
    raw = arrow(columns, compression=draw(st.sampled_from([None] * 9 + ["lz4"])))
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


@settings(deadline=None)
@given(values=st.lists(st.one_of(arrows(), arrows(), good), max_size=8), how=choices)
def test_batches_do_not_matter_to_arrow_either(values: list[bytes], how: DecoderSettings) -> None:
    headers = [() if value.startswith(b"{") else ARROW_HEADERS for value in values]
    whole_keys, cut_keys = keys(), keys()
    whole_decoder, decoder = Decoder(how, whole_keys), Decoder(how, cut_keys)
    whole, found, letters = whole_decoder.decode(batch(*values, headers=headers)), [], []
    for i, value in enumerate(values):
        part = decoder.decode(batch(value, headers=headers[i], first=i))
        found += rows(cut_keys, part)
        letters += [(i, letter.reason, letter.n_samples) for letter in part.dead_letters]
    assert found == rows(whole_keys, whole)
    assert letters == [(x.index, x.reason, x.n_samples) for x in whole.dead_letters]
    assert whole_decoder.sensors == decoder.sensors


def cuts(draw: Any, n: int) -> Sequence[tuple[int, int]]:
    at = sorted(draw(st.sets(st.integers(0, n), max_size=5)) | {0, n})
    return list(pairwise(at))
