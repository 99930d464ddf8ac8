"""records: a batch of Kafka records becomes columns of samples. The wire formats are known here and nowhere else.

In: `RawBatch`. Out: `Decoded`: samples in order of arrival, and a dead letter for each record that can't be used, or
for the part of it that can't. Remembers: the partition's clock; and, where no detector names them, the sensors and
tokens seen so far.

What becomes of a record depends on it and on the clock, never on its neighbours in the batch. Runs of records of one
form, by far the most frequent, are decoded as the lines of one text; a run that holds anything else record by record,
by the same types. Its parts: `json_forms` and `arrow_forms` read one record, `forms` says what it stands for, `rows`
makes columns of it and refuses single samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import numpy as np

from models.scenes import I32, I64
from stream_app.config import Config, Limits
from stream_app.keys import Keys
from stream_app.records.forms import Forms, Kind, Part, parts_of
from stream_app.records.json_forms import form_of, is_utf8, read_lines, read_record
from stream_app.records.names import NAME_MAX, Sensors, Vocabulary
from stream_app.records.refusals import Reason, Refused
from stream_app.records.rows import Parts, Rows, letters, problems, rows_of_columns, rows_of_parts
from stream_app.samples import LATEST_US, DeadLetter, Decoded, Headers, RawBatch, Runs, Samples, joined

T = TypeVar("T")

__all__ = ["ARROW", "Decoder", "DecoderSettings", "Reason"]

ARROW = b"application/vnd.apache.arrow.stream"
# What is decoded at once: enough to amortise numpy's calls, few enough that its columns stay in the processor's cache.
_RECORDS_AT_ONCE, _BYTES_AT_ONCE = 4_096, 131_072
_ARROW_AT_ONCE = 4 << 20  # columns are copied once and looked at little: more is better, up to what is fetched
_FEW = 256  # a run of fewer that isn't even is not halved further
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

    @classmethod
    def of(cls, config: Config, topic: str) -> DecoderSettings:
        """What the configuration says of a source's records, whatever the detector."""
        source = next((source for source in config.sources if source.topic == topic), None)
        return cls(
            default_entity=source.default_entity if source else None,
            max_ahead_us=config.windows.max_ahead,
            max_behind_us=config.windows.max_behind,
            limits=config.limits,
        )


class Decoder:
    """The records stage of one source partition.

    clock_us: the partition's clock, the largest Kafka timestamp so far, -1 before the first; to be put back on restore.
    A timestamp that is no date says nothing: one in another unit would else have the clock of all that follows.
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
        stamps = np.where(batch.clock_us > LATEST_US, -1, batch.clock_us)  # in another unit: it would stand for ever
        clock_us = np.maximum.accumulate(np.maximum(stamps, self.clock_us))
        self.clock_us = int(clock_us[-1]) if len(batch) else self.clock_us
        found: list[Samples] = []
        dead: list[DeadLetter] = []
        for part in _cuts(batch):
            for run, rows in self._read(batch, part, clock_us, dead):
                found.append(self._samples(run, rows))
        dead.sort(key=lambda letter: letter.index)
        return Decoded(joined(found), tuple(dead))

    def _read(self, batch: RawBatch, part: slice, clock_us: I64, dead: list[DeadLetter]) -> Iterator[tuple[_Run, Rows]]:
        """The rows of a part of the batch. Where it is not even, its halves may be: so one bad record costs little."""
        run = _Run(batch, part, clock_us, (self._settings, self._keys), dead)
        half = (part.start + part.stop) // 2
        if (parts := run.parts(self._forms)) is not None:
            yield run, rows_of_parts(parts)
        elif half - part.start < _FEW:
            yield from ((run, rows) for rows in run.each(self._forms))
        else:
            yield from self._read(batch, slice(part.start, half), clock_us, dead)
            yield from self._read(batch, slice(half, part.stop), clock_us, dead)

    def _samples(self, run: _Run, rows: Rows) -> Samples:
        """The samples that can be used; the others become dead letters."""
        reasons = problems(rows, run.clock_us, self._settings.max_ahead_us, self._settings.max_behind_us)
        if reasons is not None:
            lost = reasons >= 0
            run.dead_letters += letters(rows.where(lost), reasons[lost], run.clock_us, run.first)
            rows = rows.where(~lost)
        runs = Runs(
            length=rows.count,
            entity=self._entities(run, rows),
            offset=run.offsets.take(rows.record),
            clock_us=run.clock_us.take(rows.record),
            seq=rows.seq,
            end=rows.end,
        )
        return Samples(runs, rows.sensor, rows.t_us, rows.value)

    def _entities(self, run: _Run, rows: Rows) -> I32:
        """The slot of each run. A key gets one only by a sample that is used; what ends an entity retires its slot."""
        ends = np.flatnonzero(rows.end)
        if run.slots is not None and not len(ends):
            return run.slots.take(rows.record)
        run.slots = None  # a key may have another after this
        keys, slots = run.keys, np.empty(len(run.keys), np.int32)
        used = np.flatnonzero(np.bincount(rows.record, minlength=len(keys)))
        begin = 0
        for end in np.searchsorted(used, rows.record[ends]).tolist():
            self._fill(slots, keys, used[begin : end + 1])
            self._keys.retire(int(slots[used[end]]))
            begin = end + 1
        self._fill(slots, keys, used[begin:])
        return slots.take(rows.record)

    def _fill(self, slots: I32, keys: Sequence[bytes], records: I64) -> None:
        wanted = keys if len(records) == len(keys) else [keys[i] for i in records.tolist()]
        slots[records] = self._keys.slots(wanted)


class _Run:
    """Neighbouring records of a batch; indices of records count from its first."""

    def __init__(
        self, batch: RawBatch, part: slice, clock_us: I64, how: tuple[DecoderSettings, Keys], dead: list[DeadLetter]
    ) -> None:
        settings, slots = how
        self.first = part.start
        self.dead_letters = dead  # of the whole batch
        self.clock_us, self.offsets = clock_us[part], batch.offsets[part]
        self._values, headers = batch.values[part], batch.headers[part] if batch.has_headers else ()
        self._bytes_max = settings.limits.record_bytes
        keys, found = batch.keys[part], slots.find(batch.keys[part])
        known = bool(found.size) and bool(found.min() >= 0)
        self.slots = found if known else None  # None: a key is new, or can't be used
        self._bad_keys: dict[bytes, Reason] = {}  # what has a slot was looked at when it got it
        if known:
            self.keys: Sequence[bytes] = keys  # type: ignore[assignment]
        else:
            # A missing key becomes the default entity or, where there is none, the empty key, which is refused.
            default = (settings.default_entity or "").encode()
            self.keys = [key or default for key in keys]
            distinct = set(self.keys)
            self._bad_keys = {} if _all_good(distinct) else _bad(distinct)
        self._arrow = {i for i, those in enumerate(headers) if those and _is_arrow(those)}
        self._arrow -= {i for i in self._arrow if self._values[i] is None}

    def parts(self, forms: Forms) -> Parts | None:
        """The samples of a run of records that are all of one form and all used; None if they are not."""
        if self._arrow or self._bad_keys or (form := form_of(self._values[0])) is None:
            return None
        records = read_lines(self._values, form, self._bytes_max)
        return forms.parts_of_form(records) if records else None

    def each(self, forms: Forms) -> Iterator[Rows]:
        """The rows of any run, record by record. What can't be used is added to `dead_letters`."""
        for arrow, those in groupby(range(len(self._values)), key=self._arrow.__contains__):
            if arrow:
                yield from self._arrow_rows(list(those), forms)
            else:
                yield rows_of_parts(parts_of(self._usable(those, lambda i: self._part(i, forms))))

    def _arrow_rows(self, those: list[int], forms: Forms) -> Iterator[Rows]:
        from stream_app.records.arrow_alike import read_alike  # Arrow takes a tenth of a second that JSON does without
        from stream_app.records.arrow_forms import read_arrow, read_arrows

        def value(i: int) -> bytes:
            if forms.kind == "tokens":
                raise Refused(Reason.WRONG_KIND, "an Arrow stream of sensors came, the detector reads tokens")
            return self._values[i] or b""

        found = self._usable(those, lambda i: (i, value(i)))
        streams, limits = [data for _, data in found], (forms.sensors, forms.samples_max)
        columns = (read_alike(streams, *limits) if streams else None) or read_arrows(streams, *limits)
        if columns is not None:
            yield rows_of_columns([i for i, _ in found], columns)
            return
        for i, one in self._usable(
            [i for i, _ in found], lambda i: (i, read_arrow(value(i), forms.sensors, forms.samples_max))
        ):
            yield rows_of_columns([i], one)

    def _usable(self, those: Iterable[int], read: Callable[[int], T]) -> list[T]:
        """What `read` makes of these records, of those that it does not refuse."""
        found = []
        for i in those:
            try:
                if self._bad_keys and (problem := self._bad_keys.get(self.keys[i])):
                    raise Refused(problem, _KEY_PROBLEMS[problem])
                if len(self._values[i] or b"") > self._bytes_max:
                    raise Refused(Reason.TOO_LARGE, f"more than {self._bytes_max} bytes")
                found.append(read(i))
            except Refused as refusal:
                letter = DeadLetter(self.first + i, refusal.reason, str(refusal), max(refusal.n_samples, 1))
                self.dead_letters.append(letter)
        return found

    def _part(self, i: int, forms: Forms) -> Part:
        value = self._values[i]
        if value is None:
            return Part(i, float(self.clock_us[i]), (0,), (None,), end=True)
        return forms.part(i, read_record(value))


def _cuts(batch: RawBatch) -> Iterator[slice]:
    """Parts of a batch that are worth decoding at once, by the size of their first record."""
    first, values = 0, batch.values
    while first < len(values):
        size = len(values[first] or b"") + 1
        at_once = _ARROW_AT_ONCE if _is_arrow(batch.headers[first]) else _BYTES_AT_ONCE
        last = min(first + min(max(at_once // size, 16), _RECORDS_AT_ONCE), len(values))
        yield slice(first, last)
        first = last


def _all_good(keys: Collection[bytes]) -> bool:
    """Whether no key has a problem: one look at all, since almost always none has."""
    text = b"\n".join(keys)
    return b"" not in keys and b"\0" not in text and max(map(len, keys)) <= NAME_MAX and is_utf8(text)


def _bad(keys: Collection[bytes]) -> dict[bytes, Reason]:
    return {key: problem for key in keys if (problem := _key_problem(key))}


def _key_problem(key: bytes) -> Reason | None:
    if not key:
        return Reason.MISSING_KEY
    if len(key) > NAME_MAX:
        return Reason.KEY_TOO_LONG
    if b"\0" in key:
        return Reason.KEY_WITH_NUL
    return None if is_utf8(key) else Reason.KEY_NOT_UTF8


def _is_arrow(headers: Headers) -> bool:
    for name, value in headers:
        if name.lower() == "content-type":
            return (value or b"").split(b";")[0].strip().lower() == ARROW
    return False
