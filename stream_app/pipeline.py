"""The path of one partition, from records to alerts. Read this first: `rate`, then `judge`, stage by stage.

In: `RawBatch` from Kafka, or `Samples` from a file. Out: `Result`. Remembers: all stages' state, and the books.
Knows nothing of Kafka: live, replay, files and tests run this same code. What the records of a partition give depends
on their order alone, not on how they fall into batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.scenes import I32, I64, Scenes, select
from stream_app.alerts.alert import Alert
from stream_app.checkpoint import Books, Checkpoint, Swap, metadata, read_books
from stream_app.judging import (
    ABSORBED_STAGE,
    Judging,
    PipelineSpec,
    Rated,
    Result,
    ScoredWindows,
    joined,
    layout_of,
    layouts,
)
from stream_app.keys import Keys
from stream_app.ledger import DEAD, DUPLICATE, LATE, READ, SCORED, Accounting, Ledger
from stream_app.records.decoder import Decoder, DecoderSettings
from stream_app.samples import DeadLetter, Decoded, RawBatch, Samples
from stream_app.sessions import Sessions
from stream_app.shadow import Shadow
from stream_app.states import Ingest, StateCodec
from stream_app.translation import Translation
from stream_app.windows import timed as windows
from stream_app.windows.closed import rounds
from stream_app.windows.segments import distinct, starts_of

_NOBODY = np.empty(0, np.int32)
__all__ = ["Pipeline", "PipelineSpec", "Result", "ScoredWindows"]


@dataclass(frozen=True)
class Cut:
    """What was refused, windows without scores, each part after the one before, and whose windows are over for now."""

    letters: tuple[DeadLetter, ...]
    parts: tuple[Scenes, ...]
    over: I32
    heard: tuple[Alert, ...] = ()  # of who fell silent, and who came back


@dataclass(frozen=True)
class Unjudged:
    """What the first half of a step gave: what was refused, windows with scores, and whose windows are over for now."""

    letters: tuple[DeadLetter, ...]
    parts: tuple[Rated, ...]
    over: I32
    heard: tuple[Alert, ...] = ()


class Pipeline:
    """One partition's stages and books. `step` is called by one thread at a time."""

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec
        detector = spec.detector
        self.keys = Keys(layouts(spec))
        self.decoder = Decoder(_decoding(spec), self.keys)
        self._windows = windows.of(spec.config, detector, self.keys)
        self._idle_us = spec.config.windows.idle_us(detector.windows.length_us if detector else 0)
        self.judges = Judging(spec, self.keys) if detector else None
        self._codec = StateCodec(self.keys, layout_of(spec))
        self._ledger = Ledger()
        self._sessions = Sessions(spec.store)
        self.shadow = _shadow(spec, self.decoder)
        self._committed = 0
        self._dirty: list[I32] = []

    # --- a batch ---------------------------------------------------------------------------------------------------

    def step(self, batch: RawBatch) -> Result:
        """Takes the next records of the partition, in order of offset."""
        return self.judge(self.rate(batch))

    def rate(self, batch: RawBatch) -> Unjudged:
        """The first half of a step, to the windows' scores. Another thread may judge the batch before meanwhile; all
        else but these two halves waits until both are done."""
        return self.score(self.cut(batch))

    def cut(self, batch: RawBatch) -> Cut:
        """What `rate` begins with: windows that nobody has scored. `score`, or who scores for it, is next."""
        decoded = self.decoder.decode(batch)
        if len(batch):
            self._ledger.begin(int(batch.offsets[0]), int(batch.offsets[-1]) + 1, self.decoder.clock_us)
        return self._take(decoded)

    def score(self, cut: Cut) -> Unjudged:
        """What `rate` ends with."""
        rated = () if self.judges is None else tuple(map(self.judges.rate, cut.parts))
        return Unjudged(cut.letters, rated, cut.over, cut.heard)

    def judge(self, unjudged: Unjudged) -> Result:
        """The other half, batch by batch in the same order."""
        if self.judges is None:
            return Result(unjudged.letters)
        with self.keys.still:
            said = [self.judges.judge(part) for part in unjudged.parts]
            if self.shadow is not None:
                self._tell_shadow(self.shadow, said, unjudged.over)
            closing = self.judges.end(unjudged.over) if len(unjudged.over) else ()
        return joined(unjudged.letters, said, closing + unjudged.heard)

    def step_samples(self, samples: Samples) -> Result:
        """Takes samples that are columns already, as a file gives them. Their entities are slots of `keys`."""
        return self.judge(self.rate_samples(samples))

    def rate_samples(self, samples: Samples) -> Unjudged:
        """As `rate`."""
        if len(runs := samples.runs):
            self._ledger.begin(int(runs.offset[0]), int(runs.offset[-1]) + 1, int(runs.clock_us[-1]))
        unjudged = self.score(self._take(Decoded(samples)))
        self._ledger.settle(self.safe_offset())
        return unjudged

    def finish(self) -> Result:
        """The end of a file: all windows close."""
        return self.judge(self.score(self._cut(self._windows.finish(), ())))

    def _take(self, decoded: Decoded) -> Cut:
        self._welcome(decoded.samples)
        self._enter(decoded)
        closed = self._windows.update(decoded.samples, self._ledger.clock_us)
        cut = self._cut(closed, decoded.dead_letters)
        heard, fell_silent = self.judges.hear(decoded.samples, self._ledger.clock_us) if self.judges else ((), _NOBODY)
        self._dirty.append(fell_silent)
        return replace(cut, heard=heard)

    def _cut(self, closed: windows.Closed, letters: tuple[DeadLetter, ...]) -> Cut:
        self._book(closed)
        if self.judges is None:
            return Cut(letters, (), _NOBODY)
        parts = tuple(self._fresh(*part) for part in rounds(closed) if len(part[1]))
        return Cut(letters, parts, np.concatenate([closed.ended, closed.idle, closed.forced]))

    def _tell_shadow(self, shadow: Shadow, said: list[Result], over: I32) -> None:
        for part in said:
            if part.windows is not None:
                shadow.offer(part.windows, self._sessions.name)
        if len(over):
            shadow.end(over)

    def _fresh(self, scenes: Scenes, ordinal: I64) -> Scenes:
        """The windows that no state has seen yet; from now on they have been seen."""
        state = self.keys[ABSORBED_STAGE]["absorbed"]
        fresh = np.flatnonzero(ordinal >= state[scenes.entity])
        np.maximum.at(state, scenes.entity, ordinal + 1)
        return select(scenes, fresh)

    # --- books -----------------------------------------------------------------------------------------------------

    def _enter(self, decoded: Decoded) -> None:
        refused = sum(letter.n_samples for letter in decoded.dead_letters)
        self._ledger.add(READ, len(decoded.samples) - int(np.count_nonzero(decoded.samples.runs.end)) + refused)
        self._ledger.add(DEAD, refused)

    def _book(self, closed: windows.Closed) -> None:
        self._ledger.note(closed.touched, closed.before)
        self._ledger.count(SCORED, closed.scored)
        self._ledger.count(LATE, closed.late)
        self._ledger.count(DUPLICATE, closed.duplicate)
        self._dirty.append(closed.touched)

    def accounting(self) -> Accounting:
        """Of everything read so far, open windows included."""
        return self._ledger.accounting()

    # --- sessions and checkpoints ----------------------------------------------------------------------------------

    def restore(self, offset: int, committed: str) -> None:
        """Before the first step: what the group has committed, by this bundle or another. States come from `spec.store`
        when their keys do."""
        books = read_books(committed) or Books(clock_us=self.decoder.clock_us)
        self._ledger = Ledger(offset, books.accounting, books.clock_us)
        self.decoder.clock_us = books.clock_us
        self._committed = offset
        self._sessions.index(offset, self._codec)

    def set_shadow(self, of: PipelineSpec | None) -> None:
        """Another bundle judges beside this one from now on, or none; what it has learned before is in the states."""
        self.spec = replace(self.spec, shadow=of)
        self.shadow = _shadow(self.spec, self.decoder)
        for slot in self._sessions.slots_but(_NOBODY).tolist() if self.shadow is not None else ():
            session = self._sessions.name(slot)
            state = self.spec.store.get(session)
            assert self.shadow is not None
            self.shadow.begin(slot, session, self._codec.sections(state) if state else {})

    def safe_offset(self) -> int:
        return self._ledger.safe_offset(self._windows.needed_offset(self._ledger.safe_offset))

    def checkpoint(self, swap: Swap | None = None) -> Checkpoint:
        """What to write and commit now; see `stream_app.checkpoint` for the order. Changes nothing but `store`.

        `swap`: this is the last one; a pipeline with another bundle goes on from it.
        """
        offset = self.safe_offset()
        accounting, clock_us = self._ledger.below(offset)
        missed = self.shadow.missed if self.shadow is not None else 0  # first: what waits now may not be in the states
        dirty = distinct(*self._dirty, self._ledger.touched(self._committed, offset), self._learned_by_shadow())
        self._dirty = []
        states = self._encode(dirty, offset)
        self.spec.store.update(states)
        ended_at = self.keys[windows.STAGE]["ended_at"][dirty]
        over = dirty[(ended_at >= 0) & (ended_at < offset)]  # written all the same: a crash may precede their deletion
        ended = tuple(self._sessions.name(int(slot)) for slot in over)
        books = Books(accounting, clock_us, self.spec.bundle, swap, missed)
        told = metadata(books, self.accounting(), self._ledger.next_offset)
        return Checkpoint(offset, told, states, ended + self._sessions.take_stale())

    @property
    def next_offset(self) -> int:
        """Of the record that follows those taken."""
        return self._ledger.next_offset

    def committed(self, checkpoint: Checkpoint) -> None:
        """The commit succeeded: what lies below it is forgotten, and quiet entities leave memory."""
        self._committed = checkpoint.offset
        self._ledger.settle(checkpoint.offset)
        for key in checkpoint.ended:
            self.spec.store.pop(key, None)
        self._release()

    def _encode(self, slots: I32, offset: int) -> dict[bytes, bytes]:
        rows = self.keys[windows.STAGE]
        now, before = (Ingest(at, self._ledger.rows_at(at, slots, rows)) for at in (offset, self._committed))
        states = self._codec.encode(self.keys, slots, now, before)
        names = list(map(self._sessions.name, slots.tolist()))
        if self.shadow is not None:
            behind = self.shadow.sections(slots, names)
            states = [state + more for state, more in zip(states, behind, strict=True)]
        return dict(zip(names, states, strict=True))

    def _learned_by_shadow(self) -> I32:
        if self.shadow is None:
            return _NOBODY
        return np.intersect1d(self.shadow.take_touched(), self._sessions.slots_but(_NOBODY))

    def _welcome(self, samples: Samples) -> None:
        """Slots given to keys in this batch get the state that is kept for them, or a session that begins here."""
        born = self.keys.take_born()
        if not born:
            return
        runs = samples.runs
        first = starts_of(runs.entity)[::-1]  # of each entity its first row is written last
        birth = dict(zip(runs.entity[first].tolist(), runs.offset[first].tolist(), strict=True))
        for slot in born:
            if slot in birth:
                state = self._sessions.begin(self.keys, slot, birth[slot], self._codec)
                if self.shadow is not None:
                    self.shadow.begin(slot, self._sessions.name(slot), self._codec.sections(state) if state else {})
            else:
                self.keys.release([slot])  # all its records were dead letters

    def _release(self) -> None:
        """Ended sessions go; entities without open windows go to the store until their next record."""
        rows, busy = self.keys[windows.STAGE], self._ledger.touched(self._committed, self._ledger.next_offset + 1)
        slots = self._sessions.slots_but(np.concatenate([busy, *self._dirty]))
        ended = rows["ended_at"][slots]
        quiet = rows["clock_us"][slots] + self._idle_us <= self._ledger.clock_us
        leaving = slots[np.where(ended >= 0, ended < self._committed, quiet)]
        self._windows.forget(leaving)
        if self.shadow is not None:
            self.shadow.leave(leaving)
        self._sessions.end(self.keys, leaving.tolist(), set(leaving[rows["ended_at"][leaving] < 0].tolist()))
        self.keys.release(leaving.tolist())


def _shadow(spec: PipelineSpec, decoder: Decoder) -> Shadow | None:
    if spec.shadow is None or spec.shadow.detector is None or spec.detector is None:
        return None
    words = decoder.vocabulary if spec.detector.kind == "tokens" else {}
    translation = Translation(spec.detector, spec.shadow.detector, words)
    promised_alone = spec.config.model_copy(update={"alarms": spec.config.alarms.model_copy(update={"also": ()})})
    return Shadow(replace(spec.shadow, config=promised_alone), translation, spec.config.shadow.share)


def _decoding(spec: PipelineSpec) -> DecoderSettings:
    """What the source's records may hold, by the configuration and the detector."""
    detector, settings = spec.detector, DecoderSettings.of(spec.config, spec.topic)
    if detector is None:
        return settings
    known = {name: i for i, name in enumerate(detector.sensors)} if detector.kind == "sensors" else None
    return replace(
        settings,
        kind="tokens" if detector.windows.counted else "sensors",
        sensors=known,
        vocabulary=detector.vocabulary or None,
    )
