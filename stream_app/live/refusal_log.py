"""What is dead-lettered, in the worker's log: a line for the first of each reason, then one a minute with their number.

In: each dead letter. Out: warnings. Remembers: per reason what has not been told yet. A producer that gets everything
wrong would else fill the dead letters while the log looks well, and a line per record would fill the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger("worker")

_EVERY_S = 60.0


@dataclass
class _Untold:
    since: float
    letters: int = 0
    detail: str = ""  # of the last one


class RefusalLog:
    """Tells of the dead letters of one worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._untold: dict[tuple[str, str], _Untold] = {}

    def note(self, topic: str, reason: str, detail: str) -> None:
        """One more on `topic`, for one of the closed list's reasons."""
        now = self._clock()
        found = self._untold.setdefault((topic, reason), _Untold(now - _EVERY_S))
        found.letters, found.detail = found.letters + 1, detail
        if now - found.since >= _EVERY_S:
            self._tell(topic, reason, found, now)

    def close(self) -> None:
        """What is left, at the worker's end."""
        for (topic, reason), found in self._untold.items():
            if found.letters:
                self._tell(topic, reason, found, self._clock())

    def _tell(self, topic: str, reason: str, found: _Untold, now: float) -> None:
        log.warning("dead letters", topic=topic, reason=reason, letters=found.letters, last=found.detail)
        self._untold[topic, reason] = _Untold(now)
