"""The contracts as documents: they hold for what is read and written, and for nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from models.detector import Frames, Scored
from models.scenes import no_scenes
from stream_app import schemas
from stream_app.alerts.alert import Alert, AlertSensor, Cluster, Input, Speaker
from stream_app.alerts.wire import encode_alert, encode_drift, score_rows
from stream_app.checkpoint import Swap
from stream_app.drift.entities import DriftEvent
from stream_app.errors import ConfigurationError
from stream_app.handovers import Place
from stream_app.judging import ScoredWindows
from stream_app.keys import Keys
from stream_app.records.decoder import Decoder, DecoderSettings
from stream_app.shadow import Agreement, Beside
from stream_app.threshold.judgement import Judged
from tests.records_rig import batch
from tests.test_records_laws import good, records

T = "2023-11-14T22:13:20.000000Z"
SOURCE = """
{"sensor": "ps1", "t": 1700000000000, "value": 151.2}
{"sensor": "ps1", "t": 1700000000000, "rate_hz": 100, "values": [151.2, 151.3]}
{"t": 1700000000000, "values": {"ps1": 151.2, "fs1": 8.9}}
{"t": 1700000000000, "token": "E5"}
{"t": 1700000000000, "tokens": [5, 5, 22], "seq": 17}
{"sensor": "ps1", "t": "2023-11-14T22:13:20Z", "value": null, "type": "word16", "schema_version": 1, "site": "north"}
"""
FEEDBACK = {"entity": "pump", "start": T, "end": T, "label": "normal", "annotator": "ann", "comment": "cleaning"}
CONTROL = {"detector": "pump", "command": "promote", "by": "ann", "bundle": "0" * 64}
MODEL = {
    "v": 1,
    "detector": "pump",
    "version": 3,
    "digest": "sha256:" + "0" * 64,
    "state": "live",
    "location": "kafka:models-data#0",
    "bytes": 250_000,
    "lineage": {"parent": 2, "windows": {"kind": "sensors"}},
    "gate": {"passed": True, "checks": [{"name": "alarm_rate", "value": 0.8, "limit": 2.0, "passed": True}]},
    "history": [{"state": "candidate", "at_ms": 1700000000000}, {"state": "live", "at_ms": 1700000000001}],
    "signature": "c2ln",
}
ALERT = Alert(
    alert_id="a",
    status="open",
    detector="pump",
    entity="p1",
    data_start_time=T,
    data_end_time=T,
    detected_at=T,
    published_at=T,
    anomaly_score=3.5,
    threshold=2.0,
    tail_probability=1e-5,
    anomaly_grade=0.9,
    confidence=0.8,
    state="live",
    reason="tail",
    cluster=Cluster(-1, 0.0, None),
    sensors=(AlertSensor("ps1", 1.0, 151.2, None, ((T, 1.0),)),),
    bundle="0" * 64,
    inputs=(Input("samples", 0, 1, 2),),
    reproduce="tailrace replay",
)


def valid(name: str, value: Any) -> bool:
    return bool(Draft202012Validator(schemas.schema_of(name)).is_valid(value))


@pytest.mark.parametrize("name", schemas.TOPICS)
def test_each_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schemas.schema_of(name))


@pytest.mark.parametrize("line", SOURCE.strip().splitlines())
def test_examples_of_source_records_are_valid_and_read(line: str) -> None:
    assert valid("source", json.loads(line))
    assert not Decoder(DecoderSettings(), keys()).decode(batch(line.encode())).dead_letters


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"sensor": "ps1", "t": 1.7e12},
        {"sensor": "ps1", "value": 1},
        {"sensor": "ps1", "t": 1.7e12, "value": "1"},
        {"sensor": "ps1", "t": 1.7e12, "value": True},
        {"sensor": "ps1", "t": True, "value": 1},
        {"t": 1.7e12, "value": 1},
        {"sensor": "ps1", "t": 1.7e12, "values": [1]},
        {"sensor": "ps1", "t": 1.7e12, "values": [1], "rate_hz": 0},
        {"sensor": "ps1", "t": 1.7e12, "values": [], "rate_hz": 1},
        {"sensor": "ps1", "t": 1.7e12, "values": [1], "rate_hz": 1, "value": 1},
        {"t": 1.7e12, "values": {}},
        {"t": 1.7e12, "token": 1.5},
        {"t": 1.7e12, "token": "a", "tokens": ["a"]},
        {"t": 1.7e12, "token": "a", "seq": -1},
        {"sensor": "ps1", "t": 1.7e12, "value": 1, "type": "word8"},
        {"sensor": "ps1", "t": 1.7e12, "value": 1, "schema_version": 2},
    ],
)
def test_what_is_refused_is_not_valid(value: Any) -> None:
    assert not valid("source", value)
    assert Decoder(DecoderSettings(), keys()).decode(batch(value)).dead_letters


@settings(deadline=None)
@given(value=st.one_of(good, records()))
def test_what_is_used_is_valid(value: bytes | None) -> None:
    decoded = Decoder(DecoderSettings(), keys()).decode(batch(value))
    if value is not None and not decoded.dead_letters:
        assert valid("source", json.loads(value))


def test_alerts_as_they_are_written_are_valid() -> None:
    assert valid("alerts", json.loads(encode_alert(ALERT)))
    assert not valid("alerts", json.loads(encode_alert(ALERT)) | {"status": "gone"})


def test_drift_events_as_they_are_written_are_valid() -> None:
    event = DriftEvent("pump", "p1", T, "adwin", "level", 1.0, 2.0, "0" * 64)
    assert valid("drift", json.loads(encode_drift(event)))


def test_swaps_and_agreement_as_they_are_told_are_valid() -> None:
    place = Place("pump", "pump", "samples", 3)
    for swap in (Swap("sha256:b", 2, 70, 1_700_000_000_000, "sha256:a"), Swap("sha256:b", 2, 70, 1_700_000_000_000)):
        told = place.swap(swap)
        body = json.loads(told.value())
        assert valid("swaps", body)
        assert (body["from"], body["to"], body["offset"]) == (swap.origin or None, "sha256:b", 70)
        assert told.key == b"pump/samples/3/70/1700000000000"
    for digest in ("sha256:b", None):
        beside = place.beside(Beside(70, digest, 2), 1_700_000_000_000)
        assert valid("swaps", json.loads(beside.value()))
        assert (json.loads(beside.value())["shadow"], beside.key) == (digest, b"pump/samples/3/70/shadow")
    agreed = place.agreement("sha256:b", Agreement(10, 9, 1, 0, 1, 0, 0.1, 0, 0, 0.5))
    body = json.loads(agreed.value())
    assert valid("agreement", body)
    assert not valid("agreement", body | {"partition": "3"})
    assert (body["shadow"], body["windows"], body["alike"], agreed.key) == ("sha256:b", 10, 9, b"pump/samples/3")


def test_scores_as_they_are_written_are_valid() -> None:
    for _, value in score_rows(window(), "samples", 0):
        assert valid("scores", json.loads(value)), json.loads(value)
        assert not valid("scores", json.loads(value) | {"anomalous": 1})


@pytest.mark.parametrize(("name", "example"), [("feedback", FEEDBACK), ("control", CONTROL), ("models", MODEL)])
def test_what_people_and_jobs_send_is_valid_and_nothing_else(name: str, example: dict[str, Any]) -> None:
    assert valid(name, example)
    assert not valid(name, example | {"surprise": 1})
    for field in example:
        assert not valid(name, example | {field: 5.5})


def test_documents_are_written_and_every_reference_in_them_leads_somewhere(tmp_path: Path) -> None:
    paths = schemas.write_schemas(tmp_path / "deep" / "schemas")
    assert {path.name for path in paths} == {f"{name}.schema.json" for name in schemas.TOPICS} | {"asyncapi.yaml"}
    for path in paths:
        document = yaml.safe_load(path.read_text())
        for reference in references(document):
            found = document
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file"):
        schemas.write_schemas(tmp_path / "file" / "schemas")


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in references(value)]
    return [r for value in node for r in references(value)] if isinstance(node, list) else []


def keys() -> Keys:
    return Keys({"nothing": np.zeros(1, [("n", "i8")])})


def window() -> ScoredWindows:
    one, zero = np.ones(1), np.zeros(1, np.int64)
    frames = Frames(np.zeros(1, np.int32), zero, zero + 1, one)
    scenes = replace(
        no_scenes(),
        **dict.fromkeys(("start_us", "end_us", "position", "first", "last", "first_offset", "last_offset"), zero),
        entity=np.zeros(1, np.int32),
        ended=np.zeros(1, bool),
    )
    scored = Scored(
        score=one,
        parts=np.array([[0.5, math.nan]], np.float32),
        cluster=np.array([-1], np.int32),
        membership_probability=np.zeros(1, np.float32),
        embedding=np.zeros((1, 2), np.float32),
        frames=frames,
        carry=np.zeros(1, [("n", "i8")]),
        explain=lambda i: (),
    )
    false = np.zeros(1, bool)
    judged = Judged(
        threshold=one * math.nan,
        tail_probability=one * 0.5,
        alarm=false,
        episode_start=false,
        episode_open=false,
        grade=one * 0,
        confidence=one,
        warming=~false,
        episode_worse=false,
        tail_shape=one * math.nan,
    )
    return ScoredWindows(scenes, scored, judged, ("p1",), Speaker("pump", "0" * 64, ("forecast", "distance")))
