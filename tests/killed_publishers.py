"""Publishers that are killed, each at another step. Run by a test, in a process of its own.

Arguments: the configuration's file and a bundle. What opening takes is imported once; each publisher is a fork of this
process, and dies by SIGKILL when it comes to its step.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from stream_app.config import load
from stream_app.model_store import chunks
from stream_app.model_store.verbs import Publication, publish
from stream_app.opening import open_bundle

CHUNK = 50_000  # so that a small bundle has several
# name of the publisher: method of the producer, whether it dies before or after the call, and at which call
STEPS = {
    "first-chunk": ("send", "before", 1),
    "third-chunk": ("send", "before", 3),
    "begin": ("begin_transaction", "before", 1),
    "begun": ("begin_transaction", "after", 1),
    "sent": ("send_batch", "after", 1),
    "commit": ("commit_transaction", "before", 1),
    "committed": ("commit_transaction", "after", 1),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(method: Callable[..., Any], when: str, at: int) -> Callable[..., Any]:
    calls = 0

    async def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            die()
        result = await method(*arguments, **named)
        if calls == at:
            die()
        return result

    return called


def publisher(config: Path, bundle: Path, name: str) -> None:
    method, when, at = STEPS[name]
    setattr(AIOKafkaProducer, method, deadly(getattr(AIOKafkaProducer, method), when, at))
    asyncio.run(publish(load(config), Publication(name, bundle)))


if __name__ == "__main__":
    config, bundle = Path(sys.argv[1]), Path(sys.argv[2])
    chunks.CHUNK_BYTES = CHUNK
    open_bundle(bundle)
    ends = {}
    for name in STEPS:
        child = os.fork()
        if child == 0:
            publisher(config, bundle, name)
            os._exit(0)
        ends[name] = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(ends))
