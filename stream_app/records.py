"""records: a batch of Kafka records becomes columns of samples. The wire formats are known here and nowhere else.

In: `RawBatch`. Out: `Decoded`: samples in order of arrival, and a dead letter for each record that can't be used, or
for the part of it that can't. Remembers: the partition's clock; and, where no detector names them, the sensors and
tokens seen so far.

What becomes of a record depends on it and on the clock, never on its neighbours in the batch. Runs of single samples,
by far the most frequent, are decoded as the lines of one text; a run that holds anything else record by record, by the
same types. Its parts: `records_json` and `records_arrow` read one record, `records_forms` says what it stands for,
`records_rows` makes columns of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from models.scenes import I32, I64
from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.names import NAME_MAX, Sensors, Vocabulary
from stream_app.records_forms import Forms, Kind
from stream_app.records_json import SAMPLES, TOKENS, read_lines, read_record
from stream_app.records_rows import (
    Part,
    Rows,
    letters,
    problems,
    rows_of_columns,
    rows_of_parts,
    rows_of_singles,
)
from stream_app.refusals import Reason, Refused
from stream_app.samples import DeadLetter, Decoded, Headers, RawBatch, Samples, no_samples

__all__ = ["ARROW", "Decoder", "DecoderSettings", "Reason"]

ARROW = b"application/vnd.apache.arrow.stream"
_RUN = 1_024  # records decoded at once: enough to amortise, and one bad record costs its neighbours little
_SAMPLES_AT_ONCE = 16_384  # columns that fit a processor's cache
_KEY_PROBLEMS = {
    Reason.MISSING_KEY: "the key names the entity; set sources.default_entity to read records without one",
    Reason.KEY_TOO_LONG: f"at most {NAME_MAX} bytes are allowed",
    Reason.KEY_WITH_NUL: "the key holds a NUL",
    Reason.KEY_NOT_UTF8: "the key is not UTF-8",
}


@dataclass(frozen=True)
class DecoderSettings:
    """What the records of a source may hold. `sensors` and `vocabulary` of None are learnt in order of appearance."""

    kind: Kind | None = None  # None: both are read
    sensors: Mapping[str, int] | None = None
    vocabulary: Mapping[str, int] | None = None
    default_entity: str | None = None
    max_ahead_us: int = 3_600_000_000
    max_behind_us: int = 20 * 365 * 86_400_000_000
    limits: Limits = field(default_factory=Limits)


class Decoder:
    """The records stage of one source partition.

    clock_us: the partition's clock, the largest Kafka timestamp so far, -1 before the first; to be put back on restore.
    """

    def __init__(self, settings: DecoderSettings, keys: Keys) -> None:
        limits = settings.limits
        self.clock_us = -1
        self._settings, self._keys = settings, keys
        self._forms = Forms(
            Sensors(settings.sensors, limits.sensors),
            Vocabulary(settings.vocabulary, limits.tokens),
            settings.kind,
            limits.samples_per_record,
        )

    @property
    def sensors(self) -> dict[str, int]:
        """Index by sensor, given or learnt."""
        return dict(self._forms.sensors)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Id by token, given or learnt."""
        return self._forms.vocabulary.words

    def decode(self, batch: RawBatch) -> Decoded:
        """The samples of a batch. Tombstones retire their key's slot, so that its next record begins anew."""
        clock_us = np.maximum.accumulate(np.maximum(batch.clock_us, self.clock_us))
        self.clock_us = int(clock_us[-1]) if len(batch) else self.clock_us
        found: list[Samples] = [no_samples()]
        dead: list[DeadLetter] = []
        for first in range(0, len(batch), _RUN):
            run = _Run(batch, slice(first, first + _RUN), clock_us, self._settings)
            for rows in run.rows(self._forms):
                found.append(self._samples(run, rows))
            dead += sorted(run.dead_letters, key=lambda letter: letter.index)
        joined = (np.concatenate([getattr(part, f.name) for part in found]) for f in fields(Samples))
        return Decoded(Samples(*joined), tuple(dead))

    def _samples(self, run: _Run, rows: Rows) -> Samples:
        """The samples that can be used; the others become dead letters."""
        clock_us = run.clock_us[rows.record]
        if (reasons := problems(rows, clock_us, self._settings.max_ahead_us, self._settings.max_behind_us)) is not None:
            lost = reasons >= 0
            run.dead_letters += letters(rows.where(lost), reasons[lost], clock_us[lost], run.first)
            rows, clock_us = rows.where(~lost), clock_us[~lost]
        return Samples(
            entity=self._entities(run.keys, rows),
            sensor=rows.sensor,
            t_us=rows.t_us,
            value=rows.value,
            offset=run.offsets[rows.record],
            clock_us=clock_us,
            seq=rows.seq,
            end=rows.end,
        )

    def _entities(self, keys: Sequence[bytes], rows: Rows) -> I32:
        """The slot of each row. A key gets one only by a sample that is used; what ends an entity retires its slot."""
        slots = np.empty(len(keys), np.int32)
        used = np.flatnonzero(np.bincount(rows.record, minlength=len(keys)))
        begin = 0
        for end in np.searchsorted(used, rows.record[rows.end]).tolist():
            self._fill(slots, keys, used[begin : end + 1])
            self._keys.retire(int(slots[used[end]]))
            begin = end + 1
        self._fill(slots, keys, used[begin:])
        return slots[rows.record]

    def _fill(self, slots: I32, keys: Sequence[bytes], records: I64) -> None:
        wanted = keys if len(records) == len(keys) else [keys[i] for i in records.tolist()]
        slots[records] = self._keys.slots(wanted)


class _Run:
    """Neighbouring records of a batch; indices of records count from its first. Read whole where that is possible."""

    def __init__(self, batch: RawBatch, part: slice, clock_us: I64, settings: DecoderSettings) -> None:
        self.first = part.start
        self.dead_letters: list[DeadLetter] = []
        self.clock_us, self.offsets = clock_us[part], batch.offsets[part]
        self._values, headers = batch.values[part], batch.headers[part]
        self._bytes_max = settings.limits.record_bytes
        # A missing key becomes the default entity or, where there is none, the empty key, which is refused.
        default = (settings.default_entity or "").encode()
        distinct = {key or default for key in set(batch.keys[part])}
        self.keys: Sequence[bytes] = [key or default for key in batch.keys[part]]
        self._bad_keys = {key: problem for key in distinct if (problem := _key_problem(key))}
        self._arrow = {i for i, those in enumerate(headers) if those and _is_arrow(those)} if any(headers) else set()

    def rows(self, forms: Forms) -> Iterator[Rows]:
        """The samples in order of arrival. What can't be used is added to `dead_letters`."""
        singles = None if self._arrow or self._bad_keys else self._singles(forms)
        return self._each(forms) if singles is None else iter([singles])

    def _singles(self, forms: Forms) -> Rows | None:
        """The rows of a run of single samples, or of single tokens; None if it holds, or may hold, anything else."""
        if forms.kind != "tokens" and (samples := read_lines(self._values, SAMPLES, self._bytes_max)):
            sensors = [forms.sensors[r.sensor] for r in samples]
            return rows_of_singles([r.t for r in samples], sensors, [r.value for r in samples])
        if forms.kind != "sensors" and (tokens := read_lines(self._values, TOKENS, self._bytes_max)):
            ids = [forms.vocabulary[r.token] for r in tokens]
            seq = [-1 if r.seq is None else r.seq for r in tokens]
            return rows_of_singles([r.t for r in tokens], np.minimum(ids, 0), ids, seq)
        return None

    def _each(self, forms: Forms) -> Iterator[Rows]:
        """The rows of any run, record by record."""
        parts: list[Part] = []
        n_samples = 0
        for i, value in enumerate(self._values):
            try:
                self._check(i, value)
                if value is None:
                    parts.append(Part(i, float(self.clock_us[i]), (0,), (None,), end=True))
                elif i in self._arrow:
                    arrow = self._arrow_rows(i, value, forms)
                    yield rows_of_parts(parts)
                    yield arrow
                    parts, n_samples = [], 0
                else:
                    parts.append(forms.part(i, read_record(value)))
                    n_samples += len(parts[-1].values)
            except Refused as refusal:
                letter = DeadLetter(self.first + i, refusal.reason, str(refusal), max(refusal.n_samples, 1))
                self.dead_letters.append(letter)
            if n_samples > _SAMPLES_AT_ONCE:
                yield rows_of_parts(parts)
                parts, n_samples = [], 0
        yield rows_of_parts(parts)

    def _check(self, i: int, value: bytes | None) -> None:
        if self._bad_keys and (problem := self._bad_keys.get(self.keys[i])):
            raise Refused(problem, _KEY_PROBLEMS[problem])
        if value is not None and len(value) > self._bytes_max:
            raise Refused(Reason.TOO_LARGE, f"{len(value)} bytes, at most {self._bytes_max} are allowed")

    def _arrow_rows(self, i: int, value: bytes, forms: Forms) -> Rows:
        from stream_app.records_arrow import read_arrow  # a tenth of a second that JSON alone does without

        if forms.kind == "tokens":
            raise Refused(Reason.WRONG_KIND, "an Arrow stream of sensors came, the detector reads tokens")
        columns = read_arrow(value, forms.samples_max)
        sensors = np.array([forms.sensors[name] for name in columns.names], np.int32)
        return rows_of_columns(i, sensors[columns.sensor], columns.t_us, columns.value)


def _key_problem(key: bytes) -> Reason | None:
    if not key:
        return Reason.MISSING_KEY
    if len(key) > NAME_MAX:
        return Reason.KEY_TOO_LONG
    if b"\0" in key:
        return Reason.KEY_WITH_NUL
    try:
        key.decode()
    except UnicodeDecodeError:
        return Reason.KEY_NOT_UTF8
    return None


def _is_arrow(headers: Headers) -> bool:
    for name, value in headers:
        if name.lower() == "content-type":
            return (value or b"").split(b";")[0].strip().lower() == ARROW
    return False
