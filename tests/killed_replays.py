"""Replays that are killed, each at another step of the same replay. Run by a test, in a process of its own.

Arguments: the configuration's file, the topic, a folder for them, and one for a replay that nothing disturbs. Each is a
fork of this process that goes on where the one before it died, and dies by SIGKILL when it comes to its step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2  # noqa: F401  # what a report takes is imported once, not in each fork
import plotly.offline  # noqa: F401
import scipy.stats  # noqa: F401
from live import DETECTOR

from stream_app.config import load
from stream_app.pipeline import Pipeline
from stream_app.replay import folder, merging, reading, run
from stream_app.replay.bundles import Named
from stream_app.replay.ranges import ALL_MS, Range
from stream_app.replay.run import Order, replay_here

# name of the replay: where a function stands, its name, whether it dies before or after the call, and at which call
STEPS: dict[str, tuple[Any, str, str, int]] = {
    "planned": (folder, "begin", "after", 1),
    "amid the first part": (Pipeline, "rate", "after", 2),
    "the first part done": (run, "run_part", "after", 1),
    "amid the second part": (Pipeline, "rate", "after", 1),
    "merging": (merging, "_tables", "after", 2),
    "reporting": (run, "write_report", "before", 1),
    "finishing": (folder.shutil, "rmtree", "before", 1),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(function: Callable[..., Any], when: str, at: int) -> Callable[..., Any]:
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            die()
        result = function(*arguments, **named)
        if calls == at:
            if hasattr(result, "__await__"):
                return awaited(result)
            die()
        return result

    async def awaited(result: Any) -> None:
        await result
        die()

    return called


def replay(file: Path, topic: str, out: Path) -> None:
    named = Named.of("a", "plain", Path("plain"), DETECTOR)
    replay_here(Order(topic, ("plain",), out, Range(), ALL_MS), load(file), (named,))


if __name__ == "__main__":
    file, topic, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    reading.BATCH = 200  # so that a part has several
    ends = {}
    for name, (owner, function, when, at) in STEPS.items():
        child = os.fork()
        if child == 0:
            setattr(owner, function, deadly(getattr(owner, function), when, at))
            replay(file, topic, out)
            os._exit(0)
        ends[name] = -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for folder_of_whole in (out, Path(sys.argv[4])):
        replay(file, topic, folder_of_whole)
    print(json.dumps(ends))
