"""records, continued: the JSON forms of a source record, one by one or as the lines of one text.

In: values as bytes. Out: `Record`, `OneSample`, `OneToken`. Remembers: nothing.

A record is read by its types (msgspec). What those refuse is read once more by a tolerant parser, which knows the
literals NaN and Infinity, checked against the same types, and is either used after all or refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError

from stream_app.records.refusals import Reason, Refused

DEPTH_MAX = 64  # of nesting; fixed, since where the interpreter's own limit lies depends on who calls
_DIGITS_MAX = 309  # an integer of more digits is beyond every float
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)', re.DOTALL)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PLACE = re.compile(r" - at `(\$.*)`$")

RATE_HZ_MAX = 1e6  # above it neighbours would fall on the same microsecond

Number = float | None  # null is a missing sample
Token = int | str
Type = Annotated[
    Literal["float", "word16", "word32", "bits"],
    Meta(description="What a value is: any number, or an unsigned integer of 16, 32 or up to 53 bits."),
]
Rfc3339 = Annotated[datetime, Meta(tz=True)]
Time = Annotated[float | Rfc3339, Meta(description="Epoch milliseconds, fractions allowed, or RFC 3339.")]
Rate = Annotated[float, Meta(gt=0, le=RATE_HZ_MAX, description="Samples per second; `t` is the first sample's.")]
Seq = Annotated[int, Meta(ge=0, le=2**53, description="Index of the record's first token in its sequence.")]
Version = Annotated[Literal[1], Meta(description="Of this form of records.")]


class Record(Struct, gc=False):
    """Every form of a source record. A field that is null counts as not given, but for `value`; others are ignored."""

    t: Time | None = None
    sensor: str | None = None
    value: Number | UnsetType = UNSET
    values: list[Number] | dict[str, Number] | None = None
    rate_hz: float | None = None
    token: Token | None = None
    tokens: list[Token] | None = None
    seq: Seq | None = None
    type: Type | None = None
    schema_version: Version | None = None


# Each form as a type of its own: what it accepts, `Record` accepts and means the same.


class Form(Struct, gc=False, kw_only=True):
    """What every form may have."""

    seq: Seq | None = None
    type: Type | None = None
    schema_version: Version | None = None


class OneSample(Form, gc=False):
    """One sample. Of the fields of the other forms none may be given, but for null."""

    sensor: str
    t: Time
    value: Number
    values: None = None
    rate_hz: float | None = None
    token: None = None
    tokens: None = None


class Chunk(Form, gc=False):
    """A chunk: samples of one sensor at a constant rate."""

    sensor: str
    t: Time
    rate_hz: Rate
    values: Annotated[list[Number], Meta(min_length=1)]
    value: None = None
    token: None = None
    tokens: None = None


class Several(Form, gc=False):
    """Several sensors at one time."""

    t: Time
    values: Annotated[dict[str, Number], Meta(min_length=1)]
    sensor: str | None = None
    rate_hz: float | None = None
    value: None = None
    token: None = None
    tokens: None = None


class OneToken(Form, gc=False):
    """One token of a sequence."""

    t: Time
    token: Token
    sensor: str | None = None
    value: None = None
    values: None = None
    rate_hz: float | None = None
    tokens: None = None


class Tokens(Form, gc=False):
    """Tokens in order, at one time."""

    t: Time
    tokens: Annotated[list[Token], Meta(min_length=1)]
    sensor: str | None = None
    value: None = None
    values: None = None
    rate_hz: float | None = None
    token: None = None


OneForm = list[OneSample] | list[Chunk] | list[Several] | list[OneToken] | list[Tokens]

_record = msgspec.json.Decoder(Record)
# Each form's decoder, and how many brackets a record of it opens if it has no field but its own.
_forms: dict[type[Struct], tuple[msgspec.json.Decoder[Any], int]] = {
    form: (msgspec.json.Decoder(form), n_brackets)
    for form, n_brackets in ((OneSample, 1), (Chunk, 2), (Several, 2), (OneToken, 1), (Tokens, 2))
}


def form_of(value: bytes | None) -> type[Struct] | None:
    """The form of a record, None where it is not plain; then `read_record` knows."""
    for form, (decoder, _) in _forms.items():
        try:
            decoder.decode(value)  # type: ignore[arg-type]  # None raises too
        except (TypeError, *_MALFORMED):
            continue
        return form
    return None


def read_lines(values: Sequence[bytes | None], form: type[Struct], bytes_max: int) -> OneForm | None:
    """The records of values that are all of a form; None if one is not, or may not be.

    The values become the lines of one text. Each record of such a text must end its line, so when there are as many
    records as values, and no value holds a line break, each value was exactly one record.
    """
    decoder, n_brackets = _forms[form]
    try:
        text = b"\n".join(values)  # type: ignore[arg-type]  # None raises
        if len(text) > bytes_max and max(map(len, values)) > bytes_max:  # type: ignore[arg-type]
            return None
        if not _plain(text, len(values), n_brackets):
            return None
        records: OneForm = decoder.decode_lines(text)
    except (TypeError, *_MALFORMED):
        return None
    return records if len(records) == len(values) else None


def read_record(value: bytes) -> Record:
    """The record in a value. Raises Refused."""
    # Shorter values can't be nested so deeply and be complete.
    if len(value) > 2 * DEPTH_MAX and nested_deeper(value, DEPTH_MAX):
        raise Refused(Reason.TOO_DEEP, f"more than {DEPTH_MAX} levels of nesting")
    try:
        record = _record.decode(value)
    except _MALFORMED:
        return _read_tolerantly(value)
    if not is_utf8(value):  # fields that are skipped are not looked into
        raise Refused(Reason.NOT_UTF8, "the value is not UTF-8")
    return record


def nested_deeper(value: bytes, levels: int) -> bool:
    """Whether brackets outside strings are nested deeper.

    >>> nested_deeper(b'{"a": [[1], "[[["]}', 3), nested_deeper(b'{"a": [[1], "[[["]}', 2)
    (False, True)
    """
    if value.count(b"{") + value.count(b"[") <= levels:
        return False
    symbols = np.frombuffer(_STRING.sub(b"", value), np.uint8)
    opened = (symbols == ord("{")) | (symbols == ord("["))
    closed = (symbols == ord("}")) | (symbols == ord("]"))
    return bool(np.max(np.cumsum(opened.astype(np.int64) - closed), initial=0) > levels)


def is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(text: bytes, n: int, n_brackets: int) -> bool:
    """Whether a text of n lines has one value per line, is UTF-8, and no record nests more than its form needs."""
    n_opened = text.count(b"{") + (text.count(b"[") if b"[" in text else 0)
    return text.count(b"\n") == n - 1 and n_opened == n * n_brackets and is_utf8(text)


def _read_tolerantly(value: bytes) -> Record:
    if not value.strip():
        raise Refused(Reason.EMPTY_VALUE, "the value is empty; null ends an entity")
    if value[0] == 0:
        raise Refused(Reason.SCHEMA_REGISTRY_NOT_CONFIGURED, "the value begins with 0x00, as a schema registry's do")
    try:
        fields = json.loads(value.decode(), parse_int=_integer)
        if b"\\u" in value:
            json.dumps(fields, ensure_ascii=False).encode()
        return msgspec.convert(fields, Record)
    except UnicodeDecodeError as problem:
        raise Refused(Reason.NOT_UTF8, f"the value is not UTF-8 at byte {problem.start}") from None
    except UnicodeEncodeError:
        raise Refused(Reason.LONE_SURROGATE, "an escape such as \\ud800 stands for no character") from None
    except json.JSONDecodeError as problem:
        raise Refused(Reason.NOT_JSON, f"not JSON: {problem.msg} at character {problem.pos}") from None
    except ValidationError as problem:
        raise _refusal(str(problem)) from None


def _integer(digits: str) -> int | float:
    """An integer as the typed decoder takes it: as number, so one beyond every float is infinite."""
    return int(digits) if len(digits) < _DIGITS_MAX else float(digits)


def _refusal(message: str) -> Refused:
    """Puts the typed decoder's message under a reason, by the place that it names."""
    found = _PLACE.search(message)
    place = found[1] if found else "$"
    reason = {
        "$": Reason.NOT_AN_OBJECT,
        "$.t": Reason.INVALID_TIME,
        "$.rate_hz": Reason.INVALID_RATE,
        "$.schema_version": Reason.SCHEMA_VERSION,
    }.get(place, Reason.WRONG_TYPE)
    # The message quotes what came only for enumerations; the payload stays out of the detail.
    what = (
        "not one of the values allowed"
        if message.startswith("Invalid enum value")
        else message[: found and found.start()]
    )
    return Refused(reason, f"{place}: {what}")
