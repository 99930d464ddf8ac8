"""The records stage: every form, keys, tombstones and the clock."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stream_app.records.decoder import ARROW, Decoder, DecoderSettings
from tests.records_rig import ARROW_HEADERS, CLOCK_US, T_MS, arrow, batch, columns_of, decode, keys, one

ROOT = Path(__file__).parent.parent

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


def test_arrow_records_are_read_without_pandas() -> None:
    """Arrow imports it for the smallest array where one asks in the usual way: seconds amid the first batch."""
    value = arrow({"sensor": ["ps1", "ps1"], "t_us": [CLOCK_US, CLOCK_US + 1], "value": [1.0, None]})
    code = f"""
import sys
from stream_app.records.arrow_alike import read_alike
from stream_app.records.arrow_forms import read_arrow
value = bytes.fromhex("{value.hex()}")
read_alike([value, value], {{"ps1": 0}}, 10)
print(read_arrow(value, {{"ps1": 0}}, 10).value.tolist(), "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split("\n")[0] == "[1.0, nan] False"


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


def test_a_tombstone_ends_the_entity_also_for_arrow_records_that_follow_in_the_batch() -> None:
    columns = arrow({"sensor": ["ps1"], "t_us": [CLOCK_US], "value": [1.0]})
    slots = keys()
    decoder = Decoder(DecoderSettings(), slots)
    before = decoder.decode(batch(one())).samples.entity[0]
    samples = decoder.decode(batch(one(), None, columns, headers=[(), (), ARROW_HEADERS], first=1)).samples
    assert samples.entity.tolist()[:2] == [before, before]
    assert samples.entity[2] != before
    assert slots.slots([b"pump"])[0] == samples.entity[2]


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
