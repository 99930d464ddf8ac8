"""A worker with the plain detector, or the one its configuration follows, as a process of its own:
`plain_worker.py CONFIG [--until-end] [--slow S] [--fail-above X] [--nan-above X] [--slow-restore S]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from live import DETECTOR

from models.detector import Scored
from models.scenes import Scenes
from stream_app.config import parse
from stream_app.errors import TailraceError
from stream_app.live.app import PartitionStates
from stream_app.live.following import is_followed
from stream_app.live.observe import start_log
from stream_app.live.worker import run_worker


class SlowDetector(type(DETECTOR)):  # type: ignore[misc]
    """Takes its time over each call, as a large network would."""

    seconds = 0.0

    def score(self, scenes: Scenes, carry: object) -> Scored:
        time.sleep(self.seconds)
        return super().score(scenes, carry)  # type: ignore[no-any-return]


def restore_slowly(seconds: float) -> None:
    """Takes its time over each batch of a changelog, as a slow machine would."""
    at_once = PartitionStates.apply_changelog_batch

    def slowly(states: PartitionStates, batch: Any, **how: Any) -> None:
        time.sleep(seconds)
        at_once(states, batch, **how)

    PartitionStates.apply_changelog_batch = slowly


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--until-end", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--fail-above", type=float, default=np.inf)
    parser.add_argument("--nan-above", type=float, default=np.inf)
    parser.add_argument("--slow-restore", type=float, default=0.0)
    options = parser.parse_args()
    start_log()
    SlowDetector.seconds = options.slow
    if options.slow_restore:
        restore_slowly(options.slow_restore)
    config = parse(yaml.safe_load(options.config.read_text()))
    limits = {"fail_above": options.fail_above, "nan_above": options.nan_above}
    detector = None if is_followed(config) else SlowDetector(windows=DETECTOR.windows, **limits)
    try:
        return asyncio.run(run_worker(config, detector, until_end=options.until_end))
    except TailraceError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
