"""The contracts as documents: a JSON Schema (2020-12) for every topic, and an AsyncAPI document, from the types.

In: the types of messages. Out: files. Remembers: nothing. What is read is described by the types that read it, and
what is written by the types that are written, so the documents can't say anything else than the code does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from stream_app.alerts.alert import Alert, Cluster, Input
from stream_app.drift.entities import DriftEvent
from stream_app.errors import ConfigurationError
from stream_app.handovers import AgreementTold, BesideTold, SwapTold
from stream_app.model_store.pointers import Pointer
from stream_app.records.json_forms import Chunk, OneSample, OneToken, Several, Tokens

VERSION = "1.0.0"  # of the contracts; a change that breaks a reader raises the first number
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ADDRESS = "urn:tailrace:schema:"
_KAFKA_BINDING = "0.5.0"

Rfc3339 = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Probability = Annotated[float, Meta(ge=0, le=1)]


class Score(Struct):
    """One window; names as in alerts. A number that is not finite is null."""

    detector: str
    entity: str
    data_start_time: Rfc3339
    data_end_time: Rfc3339
    position: Annotated[int, Meta(description="Of the first token in its session; 0 for windows of time.")]
    anomaly_score: float | None
    threshold: float | None
    tail_probability: Probability | None
    anomaly_grade: float | None
    anomalous: bool
    state: Literal["live", "warming"]
    cluster: Cluster
    parts: dict[str, float | None]
    bundle: str
    inputs: tuple[Input, ...]


class Feedback(Struct, forbid_unknown_fields=True):
    """What a person says of an interval of an entity."""

    entity: str
    start: Rfc3339
    end: Rfc3339
    label: Annotated[str, Meta(min_length=1, description="`normal`, `anomalous`, or the name of a behaviour.")]
    annotator: Annotated[str, Meta(min_length=1)]
    comment: str = ""
    detector: str | None = None


class Control(Struct, forbid_unknown_fields=True):
    """An order to the workers of a detector."""

    detector: str
    command: Literal["pause_learning", "resume_learning", "open_calendar", "close_calendar", "promote", "rollback"]
    by: Annotated[str, Meta(min_length=1)]
    entity: Annotated[str | None, Meta(description="All, where it is null.")] = None
    start: Rfc3339 | None = None
    end: Rfc3339 | None = None
    bundle: Annotated[str | None, Meta(description="Digest, for promote.")] = None
    comment: str = ""


@dataclass(frozen=True)
class Topic:
    """What a topic carries. `ours`: the worker writes it, otherwise it reads it."""

    address: str
    about: str
    types: tuple[type, ...]
    key: str
    ours: bool
    compacted: bool = False


TOPICS: Mapping[str, Topic] = {
    "source": Topic(
        "{source}",
        "Samples or tokens. A null value ends the entity. With content-type application/vnd.apache.arrow.stream the "
        "value is an Arrow stream of the columns sensor, t_us, value instead.",
        (OneSample, Chunk, Several, OneToken, Tokens),
        "The entity, UTF-8.",
        ours=False,
    ),
    "alerts": Topic("alerts", "Episodes, CloudEvents in binary mode.", (Alert,), "The alert's id.", True, True),
    "scores": Topic("scores", "One message for each window.", (Score,), "The entity.", True),
    "drift": Topic("drift", "Lasting changes of scores.", (DriftEvent,), "The entity; empty for all.", True),
    "models": Topic(
        "models", "Versions of detectors, and which one serves.", (Pointer,), "DETECTOR/VERSION.", False, True
    ),
    "swaps": Topic(
        "models-swaps",
        "From which offset on which bundle scores a partition, or judges beside the live one. Named after the topic of "
        "models.",
        (SwapTold, BesideTold),
        "GROUP/TOPIC/PARTITION/OFFSET/AT_MS, or with `shadow` for the last.",
        True,
        True,
    ),
    "agreement": Topic(
        "models-agreement",
        "How a version in shadow agrees with the live one. Named after the topic of models.",
        (AgreementTold,),
        "GROUP/TOPIC/PARTITION.",
        True,
        True,
    ),
    "control": Topic("control", "Orders to workers.", (Control,), "The detector.", False),
    "feedback": Topic("feedback", "Labelled intervals.", (Feedback,), "The entity.", False),
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of the values of a topic, complete in itself.

    >>> schema_of("alerts")["$id"]
    'urn:tailrace:schema:alerts:1.0.0'
    """
    topic = TOPICS[name]
    found, parts = msgspec.json.schema_components(topic.types)
    head = {"$schema": DIALECT, "$id": f"{_ADDRESS}{name}:{VERSION}", "title": name, "description": topic.about}
    return head | _one_of(found) | {"$defs": parts}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of all topics, with Kafka bindings."""
    shapes: dict[str, Any] = {}
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for name, topic in TOPICS.items():
        found, parts = msgspec.json.schema_components(topic.types, ref_template="#/components/schemas/{name}")
        shapes |= parts
        messages[name] = _message(topic, _one_of(found))
        channels[name] = _channel(name, topic)
        operations[f"{'send' if topic.ours else 'receive'}_{name}"] = {
            "action": "send" if topic.ours else "receive",
            "channel": {"$ref": f"#/channels/{name}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tailrace", "version": VERSION, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": shapes},
    }


def write_schemas(out: Path) -> list[Path]:
    """Writes `<topic>.schema.json` for each topic, and `asyncapi.yaml`. Raises ConfigurationError."""
    files = {f"{name}.schema.json": json.dumps(schema_of(name), indent=2) + "\n" for name in TOPICS}
    files["asyncapi.yaml"] = yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as problem:
        raise ConfigurationError(f"{problem.filename}: {problem.strerror}") from problem
    return [out / name for name in files]


def _one_of(found: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return found[0] if len(found) == 1 else {"oneOf": list(found)}


def _message(topic: Topic, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": topic.about,
        "payload": payload,
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": _KAFKA_BINDING}},
    }


def _channel(name: str, topic: Topic) -> dict[str, Any]:
    kafka: dict[str, Any] = {"bindingVersion": _KAFKA_BINDING}
    if topic.compacted:
        kafka["topicConfiguration"] = {"cleanup.policy": ["compact"]}
    channel: dict[str, Any] = {
        "address": topic.address,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": kafka},
    }
    if topic.address.startswith("{"):
        channel["parameters"] = {topic.address.strip("{}"): {"description": "A topic of `sources`."}}
    return channel
