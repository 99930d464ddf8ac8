"""Why a record, or a part of it, can't be used: the closed list that dead letters, metrics and the README share.

In: nothing. Out: `Reason`, `Refused`. Remembers: nothing. `stream_app.records.decoder` is where users find them.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Each value is the word in the header `tailrace.reason`. Words are added, never renamed or given a new meaning."""

    # The key. Refused before the value is looked at, so the record counts as one sample.
    MISSING_KEY = "missing_key"  # null or empty, and the source has no default entity
    KEY_NOT_UTF8 = "key_not_utf8"
    KEY_WITH_NUL = "key_with_nul"
    KEY_TOO_LONG = "key_too_long"

    # The value as bytes.
    TOO_LARGE = "too_large"
    EMPTY_VALUE = "empty_value"
    SCHEMA_REGISTRY_NOT_CONFIGURED = "schema_registry_not_configured"  # a leading 0x00
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    LONE_SURROGATE = "lone_surrogate"  # an escape such as \\ud800 that stands for no character
    TOO_DEEP = "too_deep"
    INVALID_ARROW = "invalid_arrow"
    COMPRESSED_ARROW = "compressed_arrow"  # its size in memory is unknown until it is too late; Kafka compresses

    # The value as a record.
    NOT_AN_OBJECT = "not_an_object"
    SCHEMA_VERSION = "schema_version"  # another than this release reads
    WRONG_TYPE = "wrong_type"
    NO_VALUES = "no_values"  # none of value, values, token and tokens
    SEVERAL_VALUES = "several_values"  # more than one of them
    WRONG_KIND = "wrong_kind"  # a token where the detector reads sensors, or the other way round
    MISSING_TIME = "missing_time"
    INVALID_TIME = "invalid_time"
    MISSING_SENSOR = "missing_sensor"
    INVALID_RATE = "invalid_rate"
    TOO_MANY_SAMPLES = "too_many_samples"

    # Single samples: only they are refused, the rest of the record is used.
    UNKNOWN_SENSOR = "unknown_sensor"
    TOO_MANY_SENSORS = "too_many_sensors"  # while learning their names
    TOO_MANY_TOKENS = "too_many_tokens"
    NAME_TOO_LONG = "name_too_long"
    NOT_FINITE = "not_finite"
    OUTSIDE_TYPE = "outside_type"  # not an integer, or too large for word16, word32 or bits
    TIME_AHEAD = "time_ahead"
    TIME_BEHIND = "time_behind"

    # Given by later stages, of windows.
    NONFINITE_SCORE = "nonfinite_score"
    SCORE_FAILED = "score_failed"


class Refused(Exception):
    """One record refused as a whole; it becomes a dead letter of `n_samples` and never leaves the decoder."""

    def __init__(self, reason: Reason, detail: str, n_samples: int = 1) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.n_samples = reason, detail, n_samples
