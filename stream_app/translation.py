"""The windows of one bundle as another reads them: sensors by name, tokens by text.

In: scenes in the numbers of the live bundle. Out: scenes in those of the other. Remembers: the table, as far as the
live one's vocabulary has grown. What the other does not know is left out; a token is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from models.detector import Detector
from models.scenes import I32, I64, PER_SAMPLE, Scenes

UNKNOWN_TOKEN = 2**30  # an id that no vocabulary has


class Translation:
    """From the numbers of `live` to those of `other`. `words`: the tokens as they are decoded, which may grow."""

    def __init__(self, live: Detector, other: Detector, words: Mapping[str, int]) -> None:
        self._tokens, self._words, self._other = live.kind == "tokens", words, other.vocabulary
        place = {name: i for i, name in enumerate(other.sensors)}
        self._sensors = np.array([place.get(name, -1) for name in live.sensors], np.int32)
        self._same = live.sensors == other.sensors and live.vocabulary == other.vocabulary
        self._table, self._known = np.full(1, UNKNOWN_TOKEN), 0

    def of(self, scenes: Scenes) -> tuple[Scenes, I64]:
        """The scenes, and which of the windows are among them: those with nothing that the other knows are not."""
        every = np.arange(len(scenes))
        if self._same:
            return scenes, every
        if self._tokens:
            return replace(scenes, value=self._ids(scenes.value.astype(np.int64)).astype(np.float64)), every
        return _only(scenes, self._sensors[scenes.sensor])

    def _ids(self, tokens: I64) -> I64:
        if len(self._words) != self._known:
            found = list(self._words.items())
            self._known, self._table = len(found), np.full(max(i for _, i in found) + 1, UNKNOWN_TOKEN)
            for word, i in found:
                self._table[i] = self._other.get(word, UNKNOWN_TOKEN)
        fits = (tokens >= 0) & (tokens < len(self._table))
        ids: I64 = np.where(fits, self._table[np.where(fits, tokens, 0)], UNKNOWN_TOKEN)
        return ids


def _only(scenes: Scenes, sensor: I32) -> tuple[Scenes, I64]:
    """The samples whose sensor is not -1, and the windows that still hold one."""
    known = sensor >= 0
    moved = np.append(0, np.cumsum(known))
    first, last = moved[scenes.first], moved[scenes.last]
    at = np.flatnonzero(last > first)
    samples = {name: getattr(scenes, name)[known] for name in ("t_us", "value")}
    per_window = ("entity", "start_us", "end_us", "position", "first_offset", "last_offset", "ended")
    columns = {name: getattr(scenes, name)[at] for name in per_window}
    found = Scenes(**columns, **samples, sensor=sensor[known], first=first[at], last=last[at])
    return _in_order(found), at


def _in_order(scenes: Scenes) -> Scenes:
    """Samples of one time by sensor, as the contract of `Scenes` has it; their windows hold all of them or none."""
    begins = np.diff(scenes.t_us, prepend=scenes.t_us[:1] - 1) != 0
    begins[scenes.first[np.flatnonzero(np.diff(scenes.entity, prepend=-1))]] = True
    order = np.lexsort((scenes.sensor, np.cumsum(begins)))
    return replace(scenes, **{name: getattr(scenes, name)[order] for name in PER_SAMPLE})
