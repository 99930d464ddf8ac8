"""Refits that are killed, each at another step of the same refit. Run by a test, in a process of its own.

Arguments: the configuration's file and a work folder. Each refit is a fork of this process that goes on where the one
before it died, and dies by SIGKILL just before or just after its step gets its name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sensor_worlds import trained

from stream_app.config import load
from training.refit import Refit, refit

STEPS = [
    ("order.json", "after"),
    ("plan.json", "before"),
    ("samples.parquet", "before"),
    ("samples.parquet", "after"),
    ("intervals.json", "after"),
    ("bundle", "before"),
    ("bundle", "after"),
    ("gate.json", "before"),
    ("version.json", "before"),
    ("finished.json", "before"),
]
rename = Path.rename


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(name: str, when: str) -> Any:
    def called(self: Path, target: Path) -> Path:
        mine = Path(target).name == name
        if mine and when == "before":
            die()
        found = rename(self, target)
        if mine:
            die()
        return found

    return called


if __name__ == "__main__":
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    trained("single")  # imports what a fit takes, once
    ends = []
    for name, when in STEPS:
        child = os.fork()
        if child == 0:
            Path.rename = deadly(name, when)  # type: ignore[method-assign]
            refit(load(file), Refit(resume=True), folder, lambda line: None)
            os._exit(0)
        ends.append(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    said: list[str] = []
    done = refit(load(file), Refit(resume=True), folder, said.append)
    print(json.dumps({"ends": ends, "version": done.version, "said": said}))
