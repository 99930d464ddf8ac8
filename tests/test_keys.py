"""Keyed state: slots, their rows, and sessions that follow one another."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_app.keys import Keys

ROW = np.zeros(1, [("n", np.int64), ("ring", np.float32, 4)])


def fresh() -> Keys:
    row = ROW.copy()
    row["n"] = -7
    return Keys({"stage": row, "other": ROW})


def test_a_new_key_starts_with_the_initial_row() -> None:
    keys = fresh()
    slot = keys.slots([b"pump"])[0]
    assert keys["stage"]["n"][slot] == -7
    assert keys.name(slot) == "pump"


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=300))
def test_the_same_key_has_the_same_slot_and_no_two_share_one(names: list[bytes]) -> None:
    keys = fresh()
    slots = np.concatenate([keys.slots(names), keys.slots(names[::-1])[::-1]])
    assert len({*zip(names * 2, slots.tolist(), strict=True)}) == len(set(names)) == len(set(slots.tolist()))


def test_state_survives_bytes_and_growth() -> None:
    keys = fresh()
    slot = int(keys.slots([b"a"])[0])
    keys["stage"]["ring"][slot] = [1, 2, 3, 4]
    packed = keys.pack(slot, ["stage", "other"])
    keys.slots([str(i).encode() for i in range(1000)])
    assert keys.pack(slot, ["stage", "other"]) == packed
    other = int(keys.slots([b"b"])[0])
    keys.unpack(other, ["stage", "other"], packed)
    assert keys["stage"][other] == keys["stage"][slot]


def test_a_retired_key_begins_again_while_its_old_slot_keeps_name_and_state() -> None:
    keys = fresh()
    old = int(keys.slots([b"a"])[0])
    keys["stage"]["n"][old] = 5
    keys.retire(old)
    new = int(keys.slots([b"a"])[0])
    assert new != old
    assert keys["stage"]["n"][[old, new]].tolist() == [5, -7]
    keys.release([old])
    assert keys.slots([b"a"])[0] == new


def test_a_released_slot_is_clean_for_the_next_key() -> None:
    keys = fresh()
    slot = int(keys.slots([b"a"])[0])
    keys["stage"]["n"][slot] = 9
    keys.release([slot])
    assert b"a" not in keys
    assert keys["stage"]["n"][keys.slots([b"b"])].tolist() == [-7]


def test_born_slots_are_told_once() -> None:
    keys = fresh()
    slots = keys.slots([b"a", b"b", b"a"])
    assert sorted(keys.take_born()) == sorted(set(slots.tolist()))
    keys.slots([b"a"])
    assert keys.take_born() == []
