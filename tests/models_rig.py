"""What tests of the models topic share: small bundles, configurations with keys, and names that nobody else uses."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from models.bundle import write
from stream_app.config import Config, parse
from stream_app.model_store import signing
from stream_app.model_store.pointers import Gate, Pointer, Transition, with_fields
from stream_app.model_store.storage import store
from tests.sensor_worlds import trained

T = TypeVar("T")
PASSED = Gate(True)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run in a thread and loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work)).result()


def bundle(folder: Path, n: int = 0) -> Path:
    """A bundle that opens, unlike any of another number; made once per folder."""
    path = folder / f"bundle-{n}"
    if not path.is_dir():
        write(path, dataclasses.replace(trained("aligned").bundle, lineage={"n": n}))
    return path


def configuration(bootstrap: str, name: str, folder: Path, **registry: Any) -> Config:
    """With a key of its own, which signs and is trusted, and topics of its own."""
    key = folder / "key.pem"
    public = signing.make_key(key) if not key.exists() else signing.public_text(signing.private_key(key).public_key())
    section = {"trusted_keys": [public], "signing_key": str(key), "cache": str(folder / "cache"), **registry}
    topics = {"models": f"{name}-models", "control": f"{name}-control", "feedback": f"{name}-feedback"}
    data = {"detector": "pump", "brokers": bootstrap, "sources": [{"topic": f"{name}-samples"}]}
    return parse({**data, "topics": topics, "registry": section})


def pointer(version: int = 1, **changes: Any) -> Pointer:
    """A pointer as publishers write them, but for what is changed."""
    first = Pointer(
        v=1,
        detector="pump",
        version=version,
        digest=f"sha256:{version:064x}",
        state="candidate",
        location="kafka:models-data#0",
        bytes=1000,
        lineage={"windows": {"kind": "sensors", "length_us": 1}},
        gate=PASSED,
        history=(Transition("candidate", 0),),
    )
    return with_fields(first, **changes)


def in_memory(folder: Path, name: str, **registry: Any) -> Config:
    """A configuration whose bundles lie in this process's memory, so that no broker is asked."""
    return configuration("127.0.0.1:1", name, folder, store=f"memory://{name}", **registry)


def stored(config: Config, files: dict[str, bytes], **changes: Any) -> Pointer:
    """Puts files where the configuration keeps bundles, and gives the signed pointer that a publisher would write."""
    digest = changes.pop("digest", None) or "sha256:" + hashlib.sha256(b"".join(files.values())).hexdigest()
    location = finished(store(config, "pump", digest, files))
    size = sum(map(len, files.values()))
    made = pointer(1, **{"digest": digest, "location": location, "bytes": size, **changes})
    assert config.registry.signing_key is not None
    return signing.signed(made, signing.private_key(config.registry.signing_key))
