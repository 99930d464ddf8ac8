"""What the tests of the records stage share: records as they come, and what the decoder makes of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from stream_app.keys import Keys
from stream_app.records.decoder import ARROW, Decoder, DecoderSettings
from stream_app.samples import Decoded, RawBatch

T_MS = 1_700_000_000_000
CLOCK_US = T_MS * 1_000
ARROW_HEADERS = (("content-type", ARROW),)


def keys() -> Keys:
    return Keys({"nothing": np.zeros(1, [("n", "i8")])})


def batch(*values: Any, key: Any = b"pump", headers: Any = (), clock_us: Any = CLOCK_US, first: int = 0) -> RawBatch:
    """Values that are not bytes become JSON; a list of keys, headers or clocks is one for each record."""
    n = len(values)
    raw = [v if v is None or isinstance(v, bytes) else json.dumps(v).encode() for v in values]
    return RawBatch(
        topic="t",
        partition=0,
        keys=key if isinstance(key, list) else [key] * n,
        values=raw,
        offsets=np.arange(first, first + n, dtype=np.int64),
        clock_us=np.array(clock_us if isinstance(clock_us, list) else [clock_us] * n, np.int64),
        headers=headers if isinstance(headers, list) else [headers] * n,
    )


def decode(*values: Any, **how: Any) -> Decoded:
    of_batch = {name: how.pop(name) for name in ("key", "headers", "clock_us") if name in how}
    return Decoder(DecoderSettings(**how), keys()).decode(batch(*values, **of_batch))


def one(**fields: Any) -> dict[str, Any]:
    return {"sensor": "ps1", "t": T_MS, "value": 151.2} | fields


def without(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def arrow(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    record_batch = pa.record_batch(columns)
    with pa.ipc.new_stream(sink, record_batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_batch(record_batch)
    return bytes(sink.getvalue().to_pybytes())


def columns_of(decoded: Decoded) -> dict[str, list[Any]]:
    names = ("entity", "sensor", "t_us", "value", "offset", "clock_us", "seq", "end")
    return {name: getattr(decoded.samples, name).tolist() for name in names}
