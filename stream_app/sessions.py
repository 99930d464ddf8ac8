"""Sessions: which state belongs to the entity that a slot was just given to.

In: the store of packed states, by session. Out: states put into slots. Remembers: which session is in which slot, and
which wait in the store for their key's next record.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import MutableMapping

import numpy as np

from models.scenes import I32
from stream_app.checkpoint import session_key, split_key
from stream_app.keys import Keys
from stream_app.states import StateCodec


class Sessions:
    """Which session of which entity is where: in a slot, or packed in the store.

    A key can have several sessions at once while the offset that ended the first is not committed yet; they begin in
    order of birth, so that records read again meet them in the order in which they met them first.
    """

    def __init__(self, store: MutableMapping[bytes, bytes]) -> None:
        self._store = store
        self._waiting: dict[bytes, deque[bytes]] = defaultdict(deque)
        self._name_of: dict[int, bytes] = {}
        self._stale: list[bytes] = []
        self._restored_at: int | None = None
        self._cold: set[bytes] = set()

    def index(self, committed: int, codec: StateCodec) -> None:
        """Reads the store's keys after a start; sessions that ended before `committed` wait for deletion only."""
        self._restored_at = committed
        births: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        for name, state in self._store.items():
            if 0 <= codec.ended_at(state) < committed:
                self._stale.append(name)
            else:
                key, birth = split_key(name)
                births[key].append((birth, name))
        self._waiting = defaultdict(deque, {k: deque(n for _, n in sorted(v)) for k, v in births.items()})

    def begin(self, keys: Keys, slot: int, birth: int, codec: StateCodec) -> bytes | None:
        """Puts a session's state into a slot that was just given to its key; gives it, packed, where there is one."""
        key = keys.key(slot)
        waiting = self._waiting.get(key)
        name = waiting.popleft() if waiting else session_key(key, birth)
        if waiting is not None and not waiting:
            del self._waiting[key]
        self._name_of[slot] = name
        state = self._store.get(name)
        if state is not None:
            ours = name in self._cold or self._restored_at is None
            codec.decode(keys, slot, state, np.iinfo(np.int64).max if ours else self._restored_at or 0)
            self._cold.discard(name)
        return state

    def name(self, slot: int) -> bytes:
        return self._name_of[slot]

    def slots_but(self, others: I32) -> I32:
        """The slots that have a session, without others. Ascending."""
        slots = np.fromiter(self._name_of, np.int32, len(self._name_of))
        there = np.zeros(max(int(slots.max(initial=-1)), int(others.max(initial=-1))) + 1, bool)
        there[slots] = True
        there[others] = False
        return np.flatnonzero(there).astype(np.int32)

    def end(self, keys: Keys, slots: list[int], cold: set[int]) -> None:
        """The slots are about to be released; those in `cold` come back from the store with their next record."""
        for slot in slots:
            name = self._name_of.pop(slot)
            if slot in cold:
                self._cold.add(name)
                self._waiting[keys.key(slot)].appendleft(name)

    def take_stale(self) -> tuple[bytes, ...]:
        stale, self._stale = tuple(self._stale), []
        return stale
