"""What goes wrong around the models topic, on Apache Kafka: killed publishers, tampered chunks, topics that go away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from killed_publishers import CHUNK, STEPS
from live import apart
from models_rig import PASSED, bundle, configuration, finished, pointer

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config
from stream_app.errors import BundleRefused, ConfigurationError
from stream_app.live.topics import create_topics
from stream_app.model_store import chunks, signing, storage
from stream_app.model_store import topic as models_topic
from stream_app.model_store.chunks import Chunk, cut
from stream_app.model_store.fetching import FILES, fetch, history
from stream_app.model_store.places import Reference
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish
from stream_app.opening import open_bundle

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Config:
    return configuration(kafka.bootstrap, unique_name("m"), tmp_path)


def test_a_publisher_killed_at_any_step_leaves_no_half_of_a_version_and_goes_on_when_restarted(
    config: Config, tmp_path: Path
) -> None:
    file, made = tmp_path / "pump.json", bundle(tmp_path)
    file.write_text(json.dumps(config.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "killed_publishers.py"), str(file), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(STEPS, int(signal.SIGKILL))
    before = history(config)
    for name in STEPS:  # what is visible is whole
        for found in before.versions(name).values():
            fetch(config, found, tmp_path / "cache" / name)
    assert list(before.versions("committed")) == [1]
    for name in STEPS:
        assert finished(publish(config, Publication(name, made))).version == 1
    assert {name: list(history(config).versions(name)) for name in STEPS} == {name: [1] for name in STEPS}


def signed(config: Config, digest: str, size: int) -> Pointer:
    assert config.registry.signing_key is not None
    place = f"kafka:{config.topics.models}-data#0"
    made = pointer(1, digest=digest, location=place, bytes=size)
    return signing.signed(made, signing.private_key(config.registry.signing_key))


def _extra(n: int) -> Chunk:
    return Chunk(n, n + 1, "x", b"")


Tampering = Callable[[list[Chunk]], list[Chunk]]
TAMPERED: dict[str, tuple[Tampering, str]] = {
    "none at all": (lambda c: [], "missing"),
    "the last one missing": (lambda c: c[:-1], "missing"),
    "one missing in between": (lambda c: [*c[:2], *c[3:]], "missing"),
    "two swapped": (lambda c: [replace(c[1], index=2), replace(c[2], index=1), c[0], *c[3:]], "digest"),
    "one cut short": (lambda c: [*c[:2], replace(c[2], data=c[2].data[:-1]), *c[3:]], "size"),
    "one too long": (lambda c: [*c[:2], replace(c[2], data=c[2].data + b"x"), *c[3:]], "size"),
    "one of another bundle": (lambda c: [*c[:2], replace(c[2], data=bytes(len(c[2].data))), *c[3:]], "digest"),
    "a file that is none of ours": (lambda c: [replace(c[0], file="../setup.py"), *c[1:]], "content"),
    "a file more": (lambda c: [*(replace(x, count=len(c) + 1) for x in c), _extra(len(c))], "content"),
    "a count that is a lie": (lambda c: [replace(x, count=99_999) for x in c], "missing"),
}  # fmt: skip


def test_tampered_chunks_are_refused(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", CHUNK)
    models_topic.create_topics(config)
    made = bundle(tmp_path)
    files = {name: (made / name).read_bytes() for name in FILES}
    whole, size, digest = cut(files), sum(map(len, files.values())), open_bundle(made).digest
    reasons = {}
    for i, (kind, (tampering, _)) in enumerate(TAMPERED.items()):
        told = f"sha256:{i:064x}" if kind.endswith("missing") or kind == "none at all" else digest
        finished(storage._sent(config, told, tampering(whole)))
        with pytest.raises(BundleRefused) as refused:
            fetch(config, signed(config, told, size), tmp_path / "cache")
        reasons[kind] = refused.value.reason
        finished(storage._sent(config, told, whole))  # and all is well again
        if told == digest:
            fetch(config, signed(config, told, size), tmp_path / str(i))
    assert reasons == {kind: reason for kind, (_, reason) in TAMPERED.items()}


def test_who_follows_outlives_a_topic_that_goes_away_and_comes_back(config: Config, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def watch() -> None:
        async with aclosing(models_topic.follow(config, "pump")) as histories:
            async for known in histories:
                seen.append([f"{p.version} {p.lineage['n']} {p.state}" for p in known.versions("pump").values()])
                if seen[-1] == ["1 1 live"]:
                    return

    async def run() -> None:
        watching = asyncio.ensure_future(watch())
        await publish(config, Publication("pump", bundle(tmp_path, 0), gate=PASSED))
        await asyncio.sleep(2)
        await delete(config, config.topics.models)
        await asyncio.sleep(2)
        await publish(config, Publication("pump", bundle(tmp_path, 1), gate=PASSED))
        await promote(config, Wish("pump", 1))
        await asyncio.wait_for(watching, 30)

    finished(run())
    assert seen[:2] == [[], ["1 0 candidate"]]


async def delete(config: Config, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=config.brokers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


def test_a_topic_that_is_empty_missing_or_of_another_shape_is_said_to_be_so(
    config: Config, kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        history(config)
    models_topic.create_topics(config)
    with pytest.raises(ConfigurationError, match="no version of pump was published"):
        history(config).named(Reference("pump", "live"))
    wide = configuration(kafka.bootstrap, unique_name("wide"), tmp_path)
    create_topics(kafka.bootstrap, {wide.topics.models: 4})
    with pytest.raises(ConfigurationError, match="has 4 partitions and must have one"):
        history(wide)


def test_a_data_topic_that_is_gone_is_named(config: Config, tmp_path: Path) -> None:
    made = finished(publish(config, Publication("pump", bundle(tmp_path))))
    apart(lambda: delete(config, f"{config.topics.models}-data"))
    time.sleep(1)
    with pytest.raises(ConfigurationError, match="-data' does not exist"):
        fetch(config, made, tmp_path / "cache")


def test_a_topic_with_a_pointer_of_a_newer_tailrace_serves_what_is_older(config: Config, tmp_path: Path) -> None:
    finished(publish(config, Publication("pump", bundle(tmp_path), gate=PASSED)))
    finished(promote(config, Wish("pump", 1)))
    newer = json.dumps({"v": 2, "detector": "pump", "version": 2, "state": "live"}).encode()

    async def write() -> None:
        async with models_topic.AIOKafkaProducer(bootstrap_servers=config.brokers) as producer:
            await producer.send_and_wait(config.topics.models, newer, b"pump/2")

    apart(write)
    known = history(config)
    assert known.live("pump").version == 1  # type: ignore[union-attr]
    assert [(r.key, r.reason) for r in known.refused] == [("pump/2", "newer")]
