"""`tailrace detect --codes "5,5,22"`: one sequence of tokens, judged as a whole session.

In: tokens. Out: where it belongs, how strange it is, and whether that would be an alarm. Remembers: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stream_app.config import Config, parse
from stream_app.errors import ConfigurationError, UsageError
from stream_app.judging import Result
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.records.names import UNKNOWN_TOKEN
from stream_app.samples import Samples

_ENTITY = b"sequence"


def read_sequence(path: Path) -> list[str]:
    """The tokens in a JSON file: a list of numbers and texts. Raises ConfigurationError."""
    try:
        tokens = json.loads(path.read_text())
    except OSError as problem:
        raise ConfigurationError(f"{path} can't be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise ConfigurationError(f"{path} is not JSON: {problem}") from problem
    if not isinstance(tokens, list) or not all(isinstance(t, int | str) and not isinstance(t, bool) for t in tokens):
        raise ConfigurationError(f"{path} must hold a list of integers and texts")
    return [str(token) for token in tokens]


def judge_sequence(tokens: list[str], model: Path, risk: float | None) -> dict[str, Any]:
    """What a detector says of a session it has not seen. Raises UsageError, ConfigurationError, BundleRefused."""
    if not any(tokens):
        raise UsageError("the sequence holds no tokens")
    detector = open_bundle(model)
    if detector.kind != "tokens":
        raise ConfigurationError(f"{model} was trained on sensors; it can't judge a sequence of tokens")
    pipeline = Pipeline(PipelineSpec(_config(risk), detector, watches_drift=False))
    ids = [detector.vocabulary.get(token, UNKNOWN_TOKEN) for token in tokens]
    results = [pipeline.step_samples(_session(pipeline, ids)), pipeline.finish()]
    return _verdict(results, detector.cluster_names)


def _config(risk: float | None) -> Config:
    return parse({"sources": [{"topic": "sequence"}]} | ({"alarms": {"risk": risk}} if risk is not None else {}))


def _session(pipeline: Pipeline, ids: list[int]) -> Samples:
    """All tokens at one time, since their order is all that counts, and the end."""
    n = len(ids) + 1
    end = np.arange(n) == n - 1
    return Samples.of_rows(
        entity=np.repeat(pipeline.keys.slots([_ENTITY]), n),
        sensor=np.zeros(n, np.int32),
        t_us=np.zeros(n, np.int64),
        value=np.array([*ids, np.nan]),
        offset=np.arange(n),
        clock_us=np.zeros(n, np.int64),
        seq=np.full(n, -1, np.int64),
        end=end,
    )


def _verdict(results: list[Result], names: dict[int, str]) -> dict[str, Any]:
    """The session's score is the mean of its windows'; its cluster is that of the strangest."""
    windows = [result.windows for result in results if result.windows is not None]
    scores = np.concatenate([w.scored.score for w in windows])
    clusters = np.concatenate([w.scored.cluster for w in windows])
    strangest = int(np.argmax(scores))
    probability = float(np.nanmin(np.concatenate([w.judged.tail_probability for w in windows])))
    return {
        "cluster_id": int(clusters[strangest]),
        "membership_probability": float(np.concatenate([w.scored.membership_probability for w in windows])[strangest]),
        "anomalous": bool(np.concatenate([w.judged.alarm for w in windows]).any()),
        "anomaly_score": float(scores.mean()),
        "tail_probability": probability,
        "label": names.get(int(clusters[strangest])),
    }
