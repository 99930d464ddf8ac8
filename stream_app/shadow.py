"""A shadow: a bundle that judges the windows of a partition beside the live one, and says nothing that counts.

In: windows that the live bundle has scored, with what it said. Out: `Result`s, and `Agreement`. Remembers: what the
bundle has learned of each session, under the tag where it looks once it is live; a bounded queue of windows.

The live one never waits for it. Windows are left in a queue by the pipeline's thread and worked on in another; where
the queue is full whole batches are passed over, and counted. Sensors are matched by name and tokens by text; what the
shadow does not know is left out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from zlib import crc32

import numpy as np

from models.scenes import I32, I64, Bool, Scenes, select
from stream_app.alerts import episodes as alerts
from stream_app.checkpoint import split_key
from stream_app.judging import OWN_STAGES, Judging, PipelineSpec, Result, ScoredWindows, joined, layouts, risk_of
from stream_app.keys import Keys
from stream_app.states import Section, pack_sections
from stream_app.translation import Translation

QUEUE_WINDOWS = 20_000  # that may wait: a few seconds' worth
_HASHES = 2**32


@dataclass(frozen=True)
class Agreement:
    """What live and shadow said of the same windows, summed up. Sums of these are of these."""

    windows: int = 0
    alike: int = 0  # both alarmed, or neither
    live_alarms: int = 0
    shadow_alarms: int = 0
    live_episodes: int = 0
    shadow_episodes: int = 0
    promised: float = 0.0  # episodes of the shadow, by its risk
    refused: int = 0  # windows it could not score
    skipped: int = 0  # windows passed over
    seconds: float = 0.0  # of one core

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Agreement)))


@dataclass(frozen=True)
class Beside:
    """From the record at offset `at` on a version judges beside the live one; none where `digest` is None.

    missed: windows that the shadow before it, or the same one until a crash, has not learned from.
    """

    at: int
    digest: str | None
    version: int = 0
    missed: int = 0


@dataclass(frozen=True)
class _Windows:
    """What waits: windows by the live pipeline's slots, and what the live one said of them."""

    scenes: Scenes
    alarm: Bool
    episode_start: Bool


class _Seats(Keys):
    """Rows by the live pipeline's slots, so that windows keep its order. Sessions are the keys."""

    def seat(self, slot: int, session: bytes) -> None:
        while slot >= len(self._key_of):
            self._grow()
        self._key_of[slot] = session

    def clear(self, slot: int) -> None:
        if slot < len(self._key_of):
            self._key_of[slot] = None
            for stage, row in self._initial.items():
                self._state[stage][slot] = row[0]

    def holds(self, slot: int, session: bytes) -> bool:
        return slot < len(self._key_of) and self._key_of[slot] == session

    def name(self, slot: int) -> str:
        """The entity's, for a reader."""
        return split_key(self.key(slot))[0].decode()


class Shadow:
    """The shadow of one partition. `work` is called by its own thread, all else by the pipeline's."""

    def __init__(self, spec: PipelineSpec, translation: Translation, share: float = 1.0) -> None:
        """spec: of the shadow, its `detector` is the candidate. share: of entities."""
        assert spec.detector is not None
        self.spec, self._translation, self._share = spec, translation, share
        self._risk = risk_of(spec.config, spec.detector)
        kept = {stage: row for stage, row in layouts(spec).items() if stage in (*OWN_STAGES, alerts.STAGE)}
        self._seats = _Seats(kept)
        self._sections = (Section(OWN_STAGES, spec.bundle), Section((alerts.STAGE,), f"shadow {spec.bundle}"))
        self._judges = Judging(spec, self._seats)
        self.bound: float = QUEUE_WINDOWS  # of the queue; who works right after each batch needs none
        self._orders: deque[_Windows | Callable[[], None]] = deque()
        self._lock = threading.Lock()  # of the seats: held for one batch at most
        self._said: list[alerts.Alert] = []
        self._skipped, self._passed_over, self._offered, self._done = 0, 0, 0, 0
        self._touched: set[int] = set()

    @property
    def waiting(self) -> int:
        """Windows in the queue."""
        return self._offered - self._done

    @property
    def missed(self) -> int:
        """Windows that it has not learned from: passed over, or still waiting."""
        return self._passed_over + self.waiting

    @property
    def has_learned(self) -> bool:
        """Whether a checkpoint would keep something that the last one did not."""
        return bool(self._touched)

    # --- called by the pipeline's thread --------------------------------------------------------------------------

    def begin(self, slot: int, session: bytes, sections: Mapping[bytes, bytes]) -> None:
        """A session begins or comes back; `sections`: of its packed state, by tag."""
        if self._is_mine(session):
            self._orders.append(lambda: self._begin(slot, session, sections))

    def offer(self, said: ScoredWindows, mine: Callable[[int], bytes]) -> None:
        """Windows that the live bundle has judged, passed over where too many wait. `mine`: the session in a slot."""
        slots, of = np.unique(said.scenes.entity, return_inverse=True)
        shared = np.array([self._is_mine(mine(int(slot))) for slot in slots], bool)
        at = np.flatnonzero(shared[of])
        if self.waiting + len(at) > self.bound:
            self._skipped += len(at)
            self._passed_over += len(at)
            return
        scenes, kept = self._translation.of(select(said.scenes, at))
        at = at[kept]
        if len(at):
            self._offered += len(at)
            self._orders.append(_Windows(scenes, said.judged.alarm[at], said.judged.episode_start[at]))

    def end(self, slots: I32) -> None:
        """Nothing more is awaited of these for now."""
        self._orders.append(lambda: self._end(slots))

    def leave(self, slots: I32) -> None:
        """These leave memory; what was learned of them is in their packed states."""
        self._orders.append(lambda: self._leave(slots))

    def take_touched(self) -> I32:
        """The slots of which something was learned since the last call."""
        with self._lock:
            touched, self._touched = self._touched, set()
        return np.array(sorted(touched), np.int32)

    def sections(self, slots: I32, sessions: list[bytes]) -> list[bytes]:
        """What goes behind the packed states of these slots: nothing for those it has not seen yet."""
        with self._lock:
            pairs = enumerate(zip(slots.tolist(), sessions, strict=True))
            at = [i for i, (slot, session) in pairs if self._seats.holds(slot, session)]
            packed = pack_sections(self._seats, slots[at], self._sections) if at else []
        found = dict(zip(at, packed, strict=True))
        return [found.get(i, b"") for i in range(len(slots))]

    # --- called by the shadow's own thread ------------------------------------------------------------------------

    def work(self) -> tuple[Result, Agreement] | None:
        """Does what waits, up to and with the next windows; None where nothing is to be told."""
        began = time.thread_time()
        while self._orders:
            order = self._orders.popleft()
            with self._lock:
                if isinstance(order, _Windows):
                    result, found = self._judge(order)
                    skipped, self._skipped = self._skipped, 0
                    cost = time.thread_time() - began
                    return joined((), [result], self._take_said()), replace(found, skipped=skipped, seconds=cost)
                order()
        said = self._take_said()
        return (Result(alerts=said), Agreement()) if said else None

    def _judge(self, order: _Windows) -> tuple[Result, Agreement]:
        self._done += len(order.alarm)
        result = self._judges.update(order.scenes)
        self._touched.update(np.unique(order.scenes.entity).tolist())
        said = result.windows
        assert said is not None
        n, refused = len(said.entities), len(order.alarm) - len(said.entities)
        there = np.isin(_place(order.scenes), _place(said.scenes)) if refused else np.ones(n, bool)
        live, shadow = order.alarm[there], said.judged.alarm
        return result, Agreement(
            windows=n,
            alike=int((live == shadow).sum()),
            live_alarms=int(live.sum()),
            shadow_alarms=int(shadow.sum()),
            live_episodes=int(order.episode_start[there].sum()),
            shadow_episodes=int(said.judged.episode_start.sum()),
            promised=n * self._risk,
            refused=refused,
        )

    def _begin(self, slot: int, session: bytes, sections: Mapping[bytes, bytes]) -> None:
        self._seats.clear(slot)
        self._seats.seat(slot, session)
        for section in self._sections:
            if data := sections.get(section.tag(self._seats)):
                self._seats.unpack(slot, section.stages, data)

    def _end(self, slots: I32) -> None:
        known = slots[slots < len(self._seats[alerts.STAGE])]
        self._said += self._judges.end(known)
        self._touched.update(known.tolist())

    def _leave(self, slots: I32) -> None:
        for slot in slots.tolist():
            self._seats.clear(slot)

    def _take_said(self) -> tuple[alerts.Alert, ...]:
        said, self._said = tuple(self._said), []
        return said

    def _is_mine(self, session: bytes) -> bool:
        """By the entity's key, so that the same ones are looked at after a restart, and by every worker."""
        return self._share >= 1 or crc32(split_key(session)[0]) < self._share * _HASHES


def _place(scenes: Scenes) -> I64:
    """A number for each window of a batch, by what tells it from the others. Called where a window was refused."""
    columns = (scenes.entity.tolist(), scenes.start_us.tolist(), scenes.position.tolist())
    return np.array([hash(place) for place in zip(*columns, strict=True)], np.int64)
