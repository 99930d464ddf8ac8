"""Laws of the records stage: as the obvious way does it, and the same however records are batched."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.records.arrow_alike import read_alike
from stream_app.records.arrow_forms import read_arrow
from stream_app.records.decoder import Decoder, DecoderSettings
from stream_app.records.names import Sensors
from stream_app.samples import Decoded
from tests.naive_records import NaiveDecoder
from tests.records_rig import ARROW_HEADERS, CLOCK_US, T_MS, arrow, batch, columns_of, keys, one, without

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


@settings(deadline=None)
@given(
    names=st.sampled_from(["a", "ab"]),
    drawn=st.lists(
        st.lists(st.tuples(st.sampled_from("aab"), st.integers(), st.floats()), min_size=3, max_size=3), min_size=1
    ),
    flips=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10_000), st.integers(1, 255)), max_size=2),
)
def test_arrow_records_that_are_alike_hold_what_each_alone_holds(
    names: str, drawn: list[Any], flips: list[Any]
) -> None:
    """Also where bytes are damaged: then they are not alike, or what each says is still the same."""
    values = []
    for rows_of_one in drawn:
        sensor, t_us, value = zip(*rows_of_one, strict=True)
        codes = pa.DictionaryArray.from_arrays(pa.array([max(names.find(s), 0) for s in sensor], "int32"), [*names])
        times = pa.array([t % 2**62 for t in t_us], "int64")
        values.append(bytearray(arrow({"sensor": codes, "t_us": times, "value": pa.array(value, "float64")})))
    for record, at, bits in flips:
        values[record % len(values)][at % len(values[0])] ^= bits
    streams = [bytes(value) for value in values]
    found = read_alike(streams, Sensors({"a": 4, "b": 7}, 2), 100)
    if found is None:
        assert flips
        return
    alone = [read_arrow(stream, Sensors({"a": 4, "b": 7}, 2), 100) for stream in streams]
    for name in ("count", "sensor", "t_us", "value"):
        np.testing.assert_array_equal(getattr(found, name), np.concatenate([getattr(one_, name) for one_ in alone]))


def cuts(draw: Any, n: int) -> Sequence[tuple[int, int]]:
    at = sorted(draw(st.sets(st.integers(0, n), max_size=5)) | {0, n})
    return list(pairwise(at))
