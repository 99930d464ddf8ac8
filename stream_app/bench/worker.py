"""One worker as the benchmarks run it: a process of its own over a topic that is already full.

In: a configuration, and the path of a bundle or nothing. Out: one JSON line, records and seconds, from the first batch
to the last checkpoint. Remembers: nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stream_app.errors import TailraceError

RUN_TIMEOUT_S = 300.0
EVENTS = ("ended", "restored_s")  # lines of the worker's log that say what a benchmark wants to know


@dataclass(frozen=True)
class Run:
    """What a worker did, by its own last word."""

    records: int
    seconds: float
    peak_mb: int
    restored_s: float  # until states were back and reading began
    cpu_seconds: float = 0.0  # of all threads, in the same time

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds


def run_worker(settings: dict[str, Any]) -> Run:
    """Runs a worker to the end offsets in a process of its own. Raises TailraceError with its last words."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.yaml"
        file.write_text(yaml.safe_dump({"worker": {"http_port": None}} | settings))
        command = [sys.executable, "-m", "stream_app.bench.worker", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, env=alone())
    said = done.stderr.strip().splitlines()
    if done.returncode:
        raise TailraceError(f"the worker ended with {done.returncode}: {said[-1] if said else 'it said nothing'}")
    last = {event: next(json.loads(line) for line in reversed(said) if f'"{event}"' in line) for event in EVENTS}
    ended = last["ended"]
    restored_s, cpu_s = last["restored_s"]["restored_s"], ended["cpu_seconds"]
    return Run(ended["records"], ended["seconds"], ended["peak_mb"], restored_s, cpu_s)


def alone() -> dict[str, str]:
    """The environment of a worker: one thread for the arithmetic, as `tailrace worker` has it, and the peers."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def main(file: str, *options: str) -> int:
    import asyncio

    from stream_app.config import load
    from stream_app.live.following import is_followed
    from stream_app.live.observe import start_log
    from stream_app.live.worker import run_worker as work
    from stream_app.opening import configured_detector

    start_log()
    config = load(Path(file))
    detector = None if is_followed(config) else configured_detector(config)
    return asyncio.run(work(config, detector, until_end="--follow" not in options))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
