"""Peer: a Quix Streams application that decodes JSON and does nothing with it.

Run as a script in the peers' environment: `quix_consumer.py BOOTSTRAP TOPIC COUNT`. It prints one JSON line
`{"records": n, "seconds": s}`, timed from the first record to the last.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found, unused-ignore]


class Count:
    """Counts records, remembers when the first and the last came, and stops the application after `wanted`."""

    def __init__(self, application: Any, wanted: int) -> None:
        self.application = application
        self.left = wanted
        self.started = 0.0
        self.ended = 0.0

    def __call__(self, value: object) -> None:
        if not self.started:
            self.started = time.perf_counter()
        self.left -= 1
        if self.left == 0:
            self.ended = time.perf_counter()
            self.application.stop()


def consume(bootstrap: str, topic: str, count: int) -> float:
    """Reads `count` records of the topic; gives the seconds from the first to the last."""
    group = f"quix-{uuid.uuid4().hex[:8]}"
    application = Application(
        broker_address=bootstrap, consumer_group=group, auto_offset_reset="earliest", loglevel="ERROR"
    )
    counting = Count(application, count)
    application.dataframe(application.topic(topic, value_deserializer="json")).update(counting)
    application.run()
    return counting.ended - counting.started


if __name__ == "__main__":
    bootstrap, topic, count = sys.argv[1:4]
    print(json.dumps({"records": int(count), "seconds": consume(bootstrap, topic, int(count))}))
