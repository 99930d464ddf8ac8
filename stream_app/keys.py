"""Keyed state: one row per entity in each stage's array, so that stages compute on columns and snapshots are bytes.

In: entity keys. Out: slots (row numbers). Remembers: which entity has which slot, and every stage's state.

A stage with memory registers a structured dtype and its initial row; its state of all entities is `keys["stage"]`, an
array indexed by slot. What an entity carries is therefore fixed in size, and packing it is a copy of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from models.scenes import I32

Row = NDArray[np.void]
FIRST_CAPACITY = 64


class Keys:
    """Slots for entities and the state arrays of all stages.

    layouts: per stage the initial state of an entity, an array of shape [1] with a structured dtype (no objects).
    """

    def __init__(self, layouts: Mapping[str, Row]) -> None:
        self.still = RLock()  # held while another thread works on the arrays: none is replaced meanwhile
        assert all(not row.dtype.hasobject and row.shape == (1,) for row in layouts.values())
        self._initial = dict(layouts)
        self._state = {stage: np.repeat(row, FIRST_CAPACITY) for stage, row in layouts.items()}
        self._slot_of: dict[bytes, int] = {}
        self._key_of: list[bytes | None] = [None] * FIRST_CAPACITY
        self._free = list(range(FIRST_CAPACITY - 1, -1, -1))
        self._born: list[int] = []

    def __len__(self) -> int:
        return len(self._slot_of)

    def __getitem__(self, stage: str) -> Row:
        """The state of all slots. The array is replaced when it grows: ask again after `slots`, never keep it."""
        return self._state[stage]

    def __contains__(self, key: bytes) -> bool:
        return key in self._slot_of

    def slots(self, keys: Sequence[bytes]) -> I32:
        """The slot of each key; a key not seen before gets a free one with the initial state. [n]"""
        found = self.find(keys)
        if (new := np.flatnonzero(found < 0)).size:
            slot_of = self._slot_of
            for i in new.tolist():
                key = keys[i]
                found[i] = slot_of[key] if key in slot_of else self._add(key)
        return found

    def find(self, keys: Sequence[bytes | None]) -> I32:
        """The slot of each key, -1 where it has none. [n]"""
        return np.fromiter(map(self._slot_of.get, keys, repeat(-1)), np.int32, len(keys))  # type: ignore[arg-type]

    def take_born(self) -> list[int]:
        """The slots given out since the last call, so that the caller can put earlier state into them."""
        born, self._born = self._born, []
        return born

    def name(self, slot: int) -> str:
        """The entity's name. The key of a live slot is UTF-8: records refuses others."""
        key = self._key_of[slot]
        assert key is not None, "a free slot has no name"
        return key.decode()

    def key(self, slot: int) -> bytes:
        key = self._key_of[slot]
        assert key is not None
        return key

    def live(self) -> I32:
        """All slots in use, ascending."""
        return np.array(sorted(self._slot_of.values()), np.int32)

    def retire(self, slot: int) -> None:
        """Takes the key from its slot: the next record of that key begins with the initial state in another slot.
        The old slot keeps its name and state until `release`, so that its last windows can still be scored."""
        key = self.key(slot)
        if self._slot_of.get(key) == slot:
            del self._slot_of[key]

    def release(self, slots: Iterable[int]) -> None:
        """Frees slots; their state is gone."""
        for slot in slots:
            self.retire(slot)
            self._key_of[slot] = None
            for stage, row in self._initial.items():
                self._state[stage][slot] = row[0]
            self._free.append(slot)

    def pack(self, slot: int, stages: Sequence[str]) -> bytes:
        """The state of one slot in the given stages, end to end."""
        return b"".join(self._state[stage][slot].tobytes() for stage in stages)

    def unpack(self, slot: int, stages: Sequence[str], data: bytes) -> None:
        """Puts back what `pack` gave for the same stages. The length must fit; the caller checks versions."""
        at = 0
        for stage in stages:
            dtype = self._state[stage].dtype
            self._state[stage][slot] = np.frombuffer(data, dtype, 1, at)[0]
            at += dtype.itemsize
        assert at == len(data), f"state of {len(data)} bytes where {at} were expected"

    def _add(self, key: bytes) -> int:
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slot_of[key], self._key_of[slot] = slot, key
        self._born.append(slot)
        return slot

    def _grow(self) -> None:
        old = len(self._key_of)
        with self.still:
            for stage, row in self._initial.items():
                self._state[stage] = np.concatenate([self._state[stage], np.repeat(row, old)])
        self._key_of += [None] * old
        self._free += range(2 * old - 1, old - 1, -1)
