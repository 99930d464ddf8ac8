"""Clusters written by processes that are killed, each at another step. Run by a test, in a process of its own.

Arguments: a folder. Prints a JSON list: what was there before, and what can be read after each kill, as the number of
clusters; 0: none, -1: of one writer some, and of another the rest.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.clusters import SETTINGS, Centres, Clusters, Preparation, read_clusters, write_clusters

STEPS = ("open", "os.rename", "os.remove", "os.mkdir")


def made(n: int) -> Clusters:
    return Clusters(
        "kmeans", Preparation(False, np.zeros(3), np.eye(3)), Centres(np.eye(3)[:n]), {0: f"one of {n}"}, {}
    )


def found(folder: Path) -> int:
    if not (folder / SETTINGS).exists():
        return 0
    clusters = read_clusters(folder)
    return len(clusters) if clusters.names == made(len(clusters)).names else -1


def write_until(folder: Path, step: int) -> bool:
    """Whether the writer came to its end, before the step at which it is killed."""
    pid = os.fork()
    if pid == 0:
        left = [step]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event in STEPS and str(folder) in str(arguments[0]):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        write_clusters(folder, made(3))
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def main(root: Path) -> None:
    outcomes: list[tuple[int, int]] = []
    for before in (0, 2):
        over, step = False, 0
        while not over:
            step += 1
            folder = root / f"{before}-{step}"
            if before:
                write_clusters(folder, made(before))
            over = write_until(folder, step)
            outcomes.append((before, found(folder)))
            write_clusters(folder, made(3))  # whatever was left, the next one ends well
            assert found(folder) == 3
            assert len([path for path in folder.iterdir() if not path.name.startswith(".")]) == 2
    print(json.dumps(outcomes))


main(Path(sys.argv[1]))
