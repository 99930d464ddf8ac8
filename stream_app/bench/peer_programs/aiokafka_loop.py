"""Peer: a plain aiokafka `getmany` loop that only decodes: JSON samples, or chunks or Arrow into numpy arrays.

Run as a script in the peers' environment: `aiokafka_loop.py FORM BOOTSTRAP TOPIC COUNT`. It prints one JSON line
`{"records": n, "seconds": s}`, timed from the first record handed over to the last one decoded.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from aiokafka import AIOKafkaConsumer


def decode_sample(value: bytes) -> Any:
    """Gives the parsed JSON."""
    return orjson.loads(value)


def decode_chunk(value: bytes) -> Any:
    """Gives the chunk's values as an array of float32 `[sample]`."""
    return np.array(orjson.loads(value)["values"], dtype=np.float32)


def decode_arrow(value: bytes) -> Any:
    """Gives times, values and sensor codes as arrays `[sample]`, without copies."""
    batch = pa.ipc.open_stream(value).read_next_batch()
    codes = batch.column("sensor").indices.to_numpy()
    return batch.column("t_us").to_numpy(), batch.column("value").to_numpy(), codes


FORMS: dict[str, Callable[[bytes], Any]] = {"json": decode_sample, "chunks": decode_chunk, "arrow": decode_arrow}


async def consume(decode: Callable[[bytes], Any], bootstrap: str, topic: str, count: int) -> float:
    """Reads and decodes `count` records of the topic; gives the seconds from the first to the last."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        seen, started = 0, None
        while seen < count:
            batches = await consumer.getmany(timeout_ms=1000)
            if batches and started is None:
                started = time.perf_counter()
            for records in batches.values():
                for record in records:
                    decode(record.value)
                seen += len(records)
        return time.perf_counter() - (started or 0.0)


if __name__ == "__main__":
    form, bootstrap, topic, count = sys.argv[1:5]
    seconds = asyncio.run(consume(FORMS[form], bootstrap, topic, int(count)))
    print(json.dumps({"records": int(count), "seconds": seconds}))
