"""A file on its way into a pipeline: its names become the pipeline's slots and the detector's indices.

In: a file's `Rows`. Out: `Samples`, and the pipeline's results. Remembers: its clock, what was refused, who ended.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from models.detector import Detector
from models.scenes import I32
from stream_app.files.order import Order
from stream_app.files.reader import Reader, Rows
from stream_app.pipeline import Pipeline
from stream_app.records.names import UNKNOWN_TOKEN
from stream_app.records.refusals import Reason
from stream_app.samples import Samples

RELEASE_EVERY = 500_000  # samples; ended entities leave memory then, as they do at a worker's checkpoint


class FileRun:
    """The names of a file as the pipeline's slots and the detector's indices."""

    def __init__(self, pipeline: Pipeline, reader: Reader, detector: Detector) -> None:
        self.pipeline, self._reader, self._detector = pipeline, reader, detector
        self._unknown: Counter[str] = Counter()
        self._n_unknown = self.n_taken = self._n_released = 0
        self._clock_us = np.iinfo(np.int64).min
        self._ended = np.zeros(0, bool)

    def samples(self, rows: Rows, order: Order, ends: bool) -> Samples:
        """A batch as the pipeline takes it; where it holds an entity's last row, the entity's end follows."""
        self.n_taken += len(rows)
        row_end = int(rows.row[-1]) if len(rows) else -1
        rows, value = self._known(rows)
        over = self._over(order, row_end) if ends and order.of_arrival and self._detector.kind == "tokens" else []
        entity = np.concatenate([rows.entity, np.array(over, np.int32)])
        n, n_over = len(rows), len(over)
        t_us = np.concatenate([rows.t_us, np.full(n_over, max(self._clock_us, int(rows.t_us.max(initial=0))))])
        clock_us = np.maximum(np.maximum.accumulate(t_us), self._clock_us)
        self._clock_us = int(clock_us[-1]) if len(clock_us) else self._clock_us
        return Samples.of_rows(
            entity=self._slots(entity),
            sensor=np.concatenate([rows.sensor, np.zeros(n_over, np.int32)]),
            t_us=t_us,
            value=np.concatenate([value, np.full(n_over, np.nan)]),
            offset=np.concatenate([rows.row, np.full(n_over, row_end)]),
            clock_us=clock_us,
            seq=np.full(n + n_over, -1, np.int64),
            end=np.arange(n + n_over) >= n,
        )

    @property
    def holds_much(self) -> bool:
        """Whether it is time to release."""
        return self.n_taken - self._n_released >= RELEASE_EVERY

    def release(self) -> None:
        """What a worker does at a checkpoint: entities that ended leave memory. Nothing else is at work then."""
        self._n_released = self.n_taken
        self.pipeline.committed(self.pipeline.checkpoint())

    def refused(self) -> dict[str, int]:
        """Samples that could not be used, by reason."""
        found = Counter(self._reader.refused)
        found[Reason.UNKNOWN_SENSOR.value] += self._n_unknown
        return {reason: n for reason, n in sorted(found.items()) if n}

    def accounting(self) -> dict[str, int]:
        """The pipeline's books, and what never reached it."""
        books, n_refused = self.pipeline.accounting().as_dict(), sum(self.refused().values())
        return books | {
            "samples_read": books["samples_read"] + n_refused,
            "dead_lettered": books["dead_lettered"] + n_refused,
        }

    @property
    def unknown(self) -> dict[str, int]:
        """Sensors that the detector does not know, and how many samples each had."""
        return dict(self._unknown)

    def _known(self, rows: Rows) -> tuple[Rows, np.ndarray]:
        """Sensors as the detector numbers them, without those that it does not know; tokens as its vocabulary does."""
        if self._detector.kind == "tokens":
            vocabulary = self._detector.vocabulary
            ids = np.array([vocabulary.get(token, UNKNOWN_TOKEN) for token in self._reader.tokens], np.float64)
            return rows, ids[rows.value.astype(np.int64)]
        known = {name: i for i, name in enumerate(self._detector.sensors)}
        index = np.array([known.get(name, -1) for name in self._reader.sensors], np.int32)
        sensor = index[rows.sensor]
        if (strange := rows.sensor[sensor < 0]).size:
            self._n_unknown += len(strange)
            for i, n in zip(*np.unique(strange, return_counts=True), strict=True):
                self._unknown[self._reader.sensors[i]] += int(n)
        rows = Rows(rows.entity, sensor, rows.t_us, rows.value, rows.row).take(sensor >= 0)
        return rows, rows.value

    def _slots(self, entity: I32) -> I32:
        distinct, index = np.unique(entity, return_inverse=True)
        names = [self._reader.entities[i].encode() for i in distinct]
        return self.pipeline.keys.slots(names)[index] if len(names) else np.empty(0, np.int32)

    def _over(self, order: Order, row_end: int) -> list[int]:
        if len(self._ended) < len(order.last_row):
            self._ended = np.zeros(len(order.last_row), bool)
        over = np.flatnonzero((order.last_row <= row_end) & ~self._ended)
        self._ended[over] = True
        return [int(entity) for entity in over]
