"""Quiet: when windows teach nothing, since somebody said so: a pause, an open calendar.

In: intervals of event time, from the control topic. Out: which windows feed the threshold and the drift detectors.
Remembers: the intervals known now. They are judged and alarm as ever; given the intervals, what is learned depends on
event time alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.scenes import Bool, Scenes
from stream_app.intervals import Interval, overlapping


class Quiet:
    """The intervals of one detector, which whoever follows the control topic replaces while windows are judged."""

    def __init__(self, intervals: Sequence[Interval] = ()) -> None:
        self.intervals = tuple(intervals)

    def feeds(self, scenes: Scenes, entities: Sequence[str]) -> Bool:
        """Which windows teach: those that overlap no interval of their entity. entities: [w] names. [w]"""
        intervals, feeds = self.intervals, np.ones(len(scenes), bool)
        if not intervals:
            return feeds
        names = list(dict.fromkeys(entities))
        index = {name: i for i, name in enumerate(names)}
        entity = np.array([index[name] for name in entities], np.int32)
        for rows in overlapping(intervals, entity, names, (scenes.start_us, scenes.end_us)).values():
            feeds[rows] = False
        return feeds
