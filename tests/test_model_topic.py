"""The models topic: who may become live, what two writers do to each other, and what readers see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models_rig import PASSED, bundle, configuration, finished, pointer

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.errors import BundleRefused, CheckFailed, ConfigurationError
from stream_app.model_store import transitions
from stream_app.model_store.chunks import CHUNK_BYTES, chunk_of, cut, joined
from stream_app.model_store.fetching import fetch, history
from stream_app.model_store.history import History
from stream_app.model_store.places import Reference, cache_folder, reference
from stream_app.model_store.pointers import Pointer, PointerProblem, canonical, decode, encode, key_of, with_fields
from stream_app.model_store.topic import follow
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish, rollback, shadow
from stream_app.opening import configured_detector


@dataclass(frozen=True)
class Record:
    offset: int
    key: bytes | None
    value: bytes | None


def told(known: History, *pointers: Pointer) -> History:
    """The history after somebody appended the pointers."""
    return known.extended(Record(known.end + i, key_of(p), encode(p)) for i, p in enumerate(pointers))


def published(n: int) -> History:
    return told(History(), *(pointer(version) for version in range(1, n + 1)))


def after(known: History, *steps: tuple[Callable[[History, Wish], list[Pointer]], int | None]) -> History:
    """The history after verbs, a millisecond apart."""
    for at_ms, (step, version) in enumerate(steps, 1):
        known = told(known, *step(known, Wish("pump", version, at_ms)))
    return known


UP, BACK, BESIDE = transitions.promoted, transitions.rolled_back, transitions.shadowed


def test_the_last_one_promoted_is_live_and_the_one_before_it_retired() -> None:
    known = after(published(3), (UP, 1), (UP, 2))
    assert {v: p.state for v, p in known.versions("pump").items()} == {1: "retired", 2: "live", 3: "candidate"}
    assert known.live("pump").version == 2  # type: ignore[union-attr]


def test_a_reader_does_not_depend_on_the_record_that_retires() -> None:
    known = told(published(2), UP(published(2), Wish("pump", 1, 1))[-1])
    known = told(known, UP(known, Wish("pump", 2, 2))[-1])
    assert known.versions("pump")[1].state == "live"
    assert known.live("pump").version == 2  # type: ignore[union-attr]


def test_compaction_loses_nothing() -> None:
    known = after(published(3), (UP, 1), (BESIDE, 3), (UP, 2), (BACK, None))
    compacted = History().extended(
        Record(e.offset, key_of(e.pointer), encode(e.pointer))
        for e in sorted(known.newest.values(), key=lambda e: e.offset)
    )
    assert compacted.live("pump") == known.live("pump")
    assert compacted.versions("pump") == known.versions("pump")
    assert [t.state for t in compacted.versions("pump")[1].history] == ["candidate", "live", "retired", "live"]


def test_rolling_back_twice_does_not_swing_to_and_fro() -> None:
    known = after(published(4), (UP, 1), (UP, 2), (UP, 3), (BACK, None))
    assert known.live("pump").version == 2  # type: ignore[union-attr]
    known = after(known, (UP, 4))
    assert after(known, (BACK, None)).live("pump").version == 2  # type: ignore[union-attr]  # 3 was withdrawn
    assert after(known, (BACK, None), (BACK, None)).live("pump").version == 1  # type: ignore[union-attr]


def test_an_older_version_goes_live_by_a_rollback_only() -> None:
    known = after(published(3), (UP, 3))
    with pytest.raises(ConfigurationError, match="rollback pump --to 2"):
        UP(known, Wish("pump", 2))
    assert after(known, (BACK, 2)).live("pump").version == 2  # type: ignore[union-attr]
    late = UP(published(3), Wish("pump", 2, 9))  # of a writer that did not see version 3 go live
    assert told(known, *late).live("pump").version == 3  # type: ignore[union-attr]


def test_the_newest_version_is_likely_to_go_live_next_while_it_is_a_candidate_that_passed_its_gate() -> None:
    known = published(3)
    assert known.candidate("pump") == known.versions("pump")[3]
    assert told(known, pointer(4, gate=None)).candidate("pump") is None
    assert told(known, with_fields(known.versions("pump")[3], state="live")).candidate("pump") is None
    assert History().candidate("pump") is None


def test_without_a_passed_gate_a_reason_is_asked_for_and_recorded() -> None:
    known = told(History(), pointer(1, gate=None))
    with pytest.raises(CheckFailed, match="no gate"):
        UP(known, Wish("pump", 1))
    [live] = UP(known, Wish("pump", 1, 5, forced="the first one"))
    assert (live.reason, live.history[-1].reason) == ("forced: the first one",) * 2


def test_a_version_with_other_windows_is_not_promoted() -> None:
    known = after(told(published(1), pointer(2, lineage={"windows": {"kind": "tokens"}})), (UP, 1))
    with pytest.raises(ConfigurationError, match="another detector's name"):
        UP(known, Wish("pump", 2))


def test_one_shadow_at_a_time() -> None:
    known = after(published(3), (UP, 1), (BESIDE, 2), (BESIDE, 3))
    assert {v: p.state for v, p in known.versions("pump").items()} == {1: "live", 2: "candidate", 3: "shadow"}
    assert known.shadow("pump").version == 3  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="is live"):
        BESIDE(known, Wish("pump", 1))


def test_what_was_published_does_not_change() -> None:
    known = told(published(1), pointer(1, digest="sha256:" + "f" * 64, state="live"))
    assert known.live("pump") is None
    assert [r.reason for r in known.refused] == ["changed"]


BAD_POINTERS = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "deeply nested": b"[" * 100_000,
    "too long": b" " * (1 << 20),
    "a name twice": encode(pointer()).replace(b'"version":1', b'"version":1,"version":2'),
    "a number too large": encode(pointer()).replace(b'"version":1', b'"version":' + b"9" * 30),
    "a number with thousands of digits": encode(pointer()).replace(b'"version":1', b'"version":' + b"9" * 9_999),
    "a negative size": encode(pointer(bytes=-1)),
    "a number beyond all": encode(pointer()).replace(b'"kind":"sensors"', b'"kind":1e999'),
    "no number": encode(pointer()).replace(b'"bytes":1000', b'"bytes":NaN'),
    "an unknown field": encode(pointer()).replace(b'"v":1', b'"v":1,"execute":"rm"'),
    "a missing field": encode(pointer()).replace(b'"bytes":1000,', b""),
    "a path for a digest": encode(pointer(digest="sha256:../../etc")),
    "a line end after the digest": encode(pointer(digest=pointer().digest + "\n")),
    "a path for a name": encode(pointer(detector="../pump")),
    "another state": encode(pointer(state="serving")),
    "another version's key": encode(pointer(2)),
    "another detector's key": encode(pointer(detector="fan")),
    "a truncated one": encode(pointer())[:-20],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_POINTERS)
def test_a_record_that_is_no_pointer_is_passed_over_and_remembered(name: str) -> None:
    known = after(published(1), (UP, 1)).extended([Record(9, b"pump/1", BAD_POINTERS[name])])
    assert known.live("pump").version == 1  # type: ignore[union-attr]
    assert [(r.offset, r.reason) for r in known.refused] == [(9, "pointer")]


def test_a_pointer_of_a_newer_tailrace_is_said_to_be_one() -> None:
    newer = json.dumps({"v": 2, "detector": "pump", "version": 2, "shards": []}).encode()
    known = published(1).extended([Record(5, b"pump/2", newer)])
    assert known.refused[0].reason == "newer"
    with pytest.raises(ConfigurationError, match=r"newer Tailrace \(v2"):
        known.named(Reference("pump", "live"))


@given(st.binary(max_size=300), st.integers(0, 10**6))
def test_whatever_lies_there_is_a_pointer_or_is_refused(noise: bytes, at: int) -> None:
    good = encode(pointer())
    at %= len(good)
    for value in (noise, good[:at] + noise + good[at + len(noise) :]):
        with suppress(PointerProblem):
            assert isinstance(decode(b"pump/1", value), Pointer)


def test_what_is_signed_does_not_depend_on_the_order_of_names() -> None:
    a, b = pointer(lineage={"a": 1, "b": {"c": 1.5, "d": "é"}}), pointer(lineage={"b": {"d": "é", "c": 1.5}, "a": 1})
    assert canonical(a) == canonical(b) == canonical(decode(b"pump/1", encode(a)))


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=40), min_size=1), st.integers(1, 9))
def test_files_come_back_from_their_chunks(files: dict[str, bytes], size: int) -> None:
    from unittest.mock import patch

    with patch("stream_app.model_store.chunks.CHUNK_BYTES", size):
        chunks = cut(files)
    records = [chunk_of("d", chunk.key("d"), chunk.data, chunk.headers()) for chunk in reversed(chunks)]
    assert joined({c.index: c for c in records if c}, "x") == files
    assert all(len(chunk.data) <= CHUNK_BYTES for chunk in chunks)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pump@live", Reference("pump", "live")),
        ("pump@shadow", Reference("pump", "shadow")),
        ("pump@12", Reference("pump", 12)),
        ("bundles/pump", None),
        ("a@b/pump", None),
        (None, None),
    ],
)
def test_a_model_is_a_path_or_a_reference(text: str | None, meant: Reference | None) -> None:
    assert reference(text) == meant


@pytest.mark.parametrize("text", ["pump@", "@live", "pump@later", "pump@0", "pump@-1", "pump@99999999999", "pu mp@1"])
def test_a_reference_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a folder nor"):
        reference(text)


# --- on Apache Kafka -------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_a_bundle_is_published_promoted_and_opened(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    config = configuration(kafka.bootstrap, unique_name("m"), tmp_path)
    for n in range(3):
        made = finished(publish(config, Publication("pump", bundle(tmp_path, n), {"by": "test"}, PASSED)))
        assert (made.version, made.state, made.lineage["n"], made.lineage["by"]) == (n + 1, "candidate", n, "test")
    again = finished(publish(config, Publication("pump", bundle(tmp_path, 1))))
    assert again.version == 2  # a publisher that was killed begins again
    finished(promote(config, Wish("pump", 1)))
    finished(shadow(config, Wish("pump", 3)))
    assert finished(promote(config, Wish("pump", 2))).version == 2
    asked = config.model_copy(update={"model": "pump@live"})
    detector = configured_detector(asked)
    assert detector is not None
    assert detector.digest == again.digest
    assert finished(rollback(config, Wish("pump"))).version == 1
    known = history(config)
    assert {v: p.state for v, p in known.versions("pump").items()} == {1: "live", 2: "retired", 3: "shadow"}


@pytest.mark.kafka
def test_publishers_at_once_get_versions_of_their_own(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    config, n = configuration(kafka.bootstrap, unique_name("m"), tmp_path), 4
    whats = [Publication("pump", bundle(tmp_path, i), gate=PASSED) for i in range(n)]

    async def at_once() -> list[Pointer]:
        return list(await asyncio.gather(*(publish(config, what) for what in whats)))

    made = finished(at_once())
    assert sorted(pointer.version for pointer in made) == list(range(1, n + 1))
    known = history(config)
    assert {p.version: p.digest for p in made} == {v: p.digest for v, p in known.versions("pump").items()}
    for one in made:
        fetch(config, one, cache_folder(config))


@pytest.mark.kafka
def test_whoever_follows_sees_every_change(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    config = configuration(kafka.bootstrap, unique_name("m"), tmp_path)
    finished(publish(config, Publication("pump", bundle(tmp_path), gate=PASSED)))
    finished(publish(config, Publication("fan", bundle(tmp_path), gate=PASSED)))

    async def watch() -> list[list[str]]:
        seen: list[list[str]] = []
        async with aclosing(follow(config, "pump")) as histories:
            async for known in histories:
                seen.append([p.state for p in known.versions("pump").values()])
                if len(seen) == 1:
                    await promote(config, Wish("fan", 1))
                    await promote(config, Wish("pump", 1))
                elif len(seen) == 2:
                    break
        return seen

    assert finished(watch()) == [["candidate"], ["live"]]


@pytest.mark.kafka
def test_nobody_elses_version_is_opened(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> None:
    name = unique_name("m")
    (tmp_path / "other").mkdir()
    theirs = configuration(kafka.bootstrap, name, tmp_path / "other")
    made = finished(publish(theirs, Publication("pump", bundle(tmp_path), gate=PASSED)))
    ours = configuration(kafka.bootstrap, name, tmp_path)
    with pytest.raises(BundleRefused, match="not signed by any of the 1 trusted keys"):
        fetch(ours, made, tmp_path / "cache")
    with pytest.raises(BundleRefused, match="not signed by any"):
        finished(promote(ours, Wish("pump", 1)))
