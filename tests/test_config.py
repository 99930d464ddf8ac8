"""The configuration as it is shown can be read again, and means the same; durations are what people write."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stream_app.config import Config, parse
from stream_app.durations import duration_text, duration_us
from stream_app.errors import ConfigurationError

NO_SENSE = [
    {"worker": {"checkpoint": 0}},
    {"worker": {"session_timeout": "0s"}},
    {"worker": {"stuck_after": 0}},
    {"worker": {"max_poll_records": 0}},
    {"worker": {"http_port": 70_000}},
    {"worker": {"http_port": -1}},
    {"limits": {"entities": 0}},
    {"limits": {"record_bytes": -1}},
]
UNITS = ("us", "ms", "s", "m", "h", "d", "w")
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
DURATIONS = st.one_of(
    st.builds("{}{}".format, st.integers(0, 5_000), st.sampled_from(UNITS)),
    st.builds("{:.3f}{}".format, st.floats(0, 1_000), st.sampled_from(UNITS[1:])),
    st.integers(0, 10**9),
    st.floats(0, 10**6),
)
SOME_TIME = DURATIONS.filter(lambda duration: duration_us(duration) > 0)
EXTENTS = st.one_of(DURATIONS, st.builds("{} tokens".format, st.integers(1, 10**6)))


def some(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A section with any of these."""
    return st.fixed_dictionaries({}, optional=values)


CONFIGURATIONS = st.fixed_dictionaries(
    {"sources": st.lists(st.fixed_dictionaries({"topic": WORDS}), min_size=1, max_size=2)},
    optional={
        "detector": WORDS,
        "model": st.none() | WORDS,
        "windows": some(
            length=EXTENTS,
            stride=EXTENTS,
            lateness=DURATIONS,
            idle=DURATIONS,
            max_ahead=DURATIONS,
            max_behind=DURATIONS,
        ),
        "alarms": some(
            risk=st.floats(1e-9, 0.4),
            also=st.lists(st.sampled_from(["noise", "drift", "silence", "stuck"]), max_size=4),
        ),
        "worker": some(
            session_timeout=SOME_TIME, checkpoint=SOME_TIME, stuck_after=SOME_TIME, grace=DURATIONS, http_port=st.none()
        ),
        "gates": some(latency=st.none() | DURATIONS, windows=st.none() | st.integers(1, 10**4)),
        "guard": some(watch=DURATIONS),
        "registry": some(trusted_keys=st.lists(WORDS, max_size=2), cache=st.just("a/b"), store=WORDS),
    },
)


@given(CONFIGURATIONS)
def test_a_configuration_as_it_is_shown_can_be_read_again_and_is_the_same(data: dict[str, Any]) -> None:
    config = parse(data)
    shown = config.model_dump(mode="json")
    assert parse(json.loads(json.dumps(shown))) == config
    assert parse(yaml.safe_load(yaml.safe_dump(shown, sort_keys=False))) == config
    assert parse(config.model_dump()) == config
    assert parse(json.loads(config.model_dump_json())) == config


@given(CONFIGURATIONS)
def test_what_is_shown_suits_the_schema(data: dict[str, Any]) -> None:
    Draft202012Validator(Config.model_json_schema()).validate(parse(data).model_dump(mode="json"))


def test_the_schemas_defaults_are_those_that_are_shown() -> None:
    sections = Config.model_json_schema()["$defs"]
    shown = parse({"sources": [{"topic": "t"}]}).model_dump(mode="json")
    for name in ("Windows", "Worker", "Gates", "Guard"):
        defaults = {field: told.get("default") for field, told in sections[name]["properties"].items()}
        assert defaults == shown[name.lower()]


@given(st.integers(0, 2**62))
def test_every_duration_is_written_as_a_text_that_means_it(us: int) -> None:
    assert duration_us(duration_text(us)) == us


@given(st.integers(0, 10**12))
def test_a_number_of_seconds_is_not_one_microsecond_less(ms: int) -> None:
    assert duration_us(ms / 1000) == duration_us(f"{ms}ms") == 1000 * ms


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), -1, "-5s", "5", "", True, None, 1e300, "9" * 30 + "w"])
def test_what_is_no_duration_is_refused_with_its_place(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"windows\.lateness: .*is not a duration"):
        parse({"sources": [{"topic": "t"}], "windows": {"lateness": wrong}})


@pytest.mark.parametrize("data", NO_SENSE, ids=str)
def test_what_no_worker_could_run_with_is_refused_by_its_name(data: dict[str, Any]) -> None:
    ((section, settings),) = data.items()
    (name,) = settings
    with pytest.raises(ConfigurationError, match=rf"{section}\.{name}: Input should be (greater|less) than"):
        parse({"sources": [{"topic": "t"}]} | data)
