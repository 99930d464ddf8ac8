"""The benchmarks: one figure each, beside references measured in the same run on the same machine.

In: a name. Out: `{"name", "value", "unit", "ratios", "runs"}`. Remembers: nothing; brokers and topics are its own.

A ratio is taken within a round, in which we and each peer read the same topic one after the other, and the median over
the rounds is given: a machine's mood lasts longer than a round.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from stream_app.bench import age as bench_age
from stream_app.bench import detect as bench_detect
from stream_app.bench import latency as bench_latency
from stream_app.bench import promote as bench_promote
from stream_app.bench import replay as bench_replay
from stream_app.bench import score as bench_score
from stream_app.bench import shadow as bench_shadow
from stream_app.bench import state as bench_state
from stream_app.bench.load import ARROWS, CHUNKS, SINGLES, Load, load_arrow, load_chunks, load_samples
from stream_app.bench.peers import prepare_peers, run_peer
from stream_app.bench.worker import run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.topics import create_topics

ROUNDS = 3
TOPIC = "bench"


@dataclass(frozen=True)
class Ingest:
    """Reading, decoding, windows, books and checkpoints, without scoring, against peers that only decode."""

    load: Load
    fill: Callable[[str, str, Load], None]
    peers: Sequence[str]
    unit: str


INGESTS = {
    "ingest": Ingest(SINGLES, load_samples, ("quix", "kafka_streams", "aiokafka"), "records/s"),
    "chunks": Ingest(CHUNKS, load_chunks, ("aiokafka_chunks",), "samples/s"),
    "arrow": Ingest(ARROWS, load_arrow, ("aiokafka_arrow",), "samples/s"),
}


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "score": bench_score.run,
    "detect": bench_detect.run,
    "tokens": bench_detect.run_tokens,
    "shadow": bench_shadow.run,
    "latency": bench_latency.run,
    "state": bench_state.run,
    "age": bench_age.run,
    "replay": bench_replay.run,
    "promote": bench_promote.run,
}


def run_bench(name: str) -> dict[str, Any]:
    """Runs a benchmark. Raises TailraceError where it or a peer can't run."""
    if name in INGESTS:
        return ingest(name, INGESTS[name])
    return {"name": name} | OTHERS[name]()


def ingest(name: str, what: Ingest) -> dict[str, Any]:
    """One worker without a detector over a full topic of four partitions."""
    prepare_peers()
    ours: list[float] = []
    theirs: dict[str, list[float]] = {peer: [] for peer in what.peers}
    with KafkaCluster() as kafka:
        what.fill(kafka.bootstrap, TOPIC, what.load)
        create_sinks(kafka.bootstrap, TOPIC)
        for turn in range(ROUNDS):
            for peer in what.peers:
                theirs[peer].append(run_peer(peer, kafka.bootstrap, TOPIC, what.load.records))
            settings = {"detector": f"bench-{turn}", "brokers": kafka.bootstrap, "sources": [{"topic": TOPIC}]}
            ours.append(run_worker(settings).rate)
    scale = what.load.samples_per_record
    ratios = {p: round(median(a / b for a, b in zip(ours, theirs[p], strict=True)), 2) for p in what.peers}
    runs = {"tailrace": [round(r * scale) for r in ours]} | {p: [round(r * scale) for r in theirs[p]] for p in theirs}
    return {"name": name, "value": round(median(ours) * scale), "unit": what.unit, "ratios": ratios, "runs": runs}


def create_sinks(bootstrap: str, source: str) -> None:
    """The topics a worker writes to."""
    names = itertools.chain((f"{source}-dlt",), ("alerts", "scores", "drift"))
    create_topics(bootstrap, dict.fromkeys(names, 1))
