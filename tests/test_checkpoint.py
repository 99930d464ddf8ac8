"""What a checkpoint writes: states that are read back as of an offset, and never misread."""

from __future__ import annotations

import numpy as np
import pytest

from stream_app.checkpoint import Ingest, StateCodec, metadata, read_metadata, read_progress, session_key, split_key
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys
from stream_app.ledger import Accounting

INGEST = np.zeros(1, [("t", np.int64), ("ended_at", np.int64)])
TAIL = np.zeros(1, [("level", np.float64)])


def keys_and_codec(detector: str = "a") -> tuple[Keys, StateCodec]:
    keys = Keys({"windows": INGEST, "tail": TAIL})
    return keys, StateCodec(keys, "windows", ["tail"], detector)


def state(now: int, before: int) -> bytes:
    """Of a key whose windows row was t=1 at `before` and t=2 at `now`."""
    keys, codec = keys_and_codec()
    slots = keys.slots([b"x"])
    keys["tail"]["level"][slots] = 0.5
    rows = np.repeat(INGEST, 2)
    rows["t"], rows["ended_at"] = [1, 2], -1
    keys["windows"]["ended_at"][slots] = -1
    return codec.encode(keys, slots, Ingest(now, rows[1:]), Ingest(before, rows[:1]))[0]


@pytest.mark.parametrize(("committed", "t"), [(10, 1), (19, 1), (20, 2), (30, 2)])
def test_a_state_is_that_of_the_committed_offset(committed: int, t: int) -> None:
    keys, codec = keys_and_codec()
    slot = int(keys.slots([b"y"])[0])
    assert codec.decode(keys, slot, state(now=20, before=10), committed)
    assert keys["windows"]["t"][slot] == t
    assert keys["tail"]["level"][slot] == 0.5


def test_a_state_of_another_bundle_keeps_its_place_in_the_stream_and_nothing_else() -> None:
    keys, codec = keys_and_codec("b")
    slot = int(keys.slots([b"y"])[0])
    assert not codec.decode(keys, slot, state(20, 10), 20)
    assert keys["windows"]["t"][slot] == 2
    assert keys["tail"]["level"][slot] == 0.0


@pytest.mark.parametrize("value", [b"", b"{}", b"TRS1", b"TRS9" + bytes(200)])
def test_a_foreign_value_is_refused_in_a_sentence(value: bytes) -> None:
    with pytest.raises(ConfigurationError, match="did not write"):
        keys_and_codec()[1].ended_at(value)


def test_a_session_is_found_by_key_and_birth() -> None:
    assert split_key(session_key("pümp".encode(), 17)) == ("pümp".encode(), 17)


def test_metadata_survives_the_commit_and_a_foreign_commit_is_none_of_ours() -> None:
    books, so_far = Accounting(9, 5, 2, 1, 1), Accounting(12, 5, 2, 1, 1)
    text = metadata(books, 1_700_000_000_000_000, so_far, 77)
    assert read_metadata(text) == (books, 1_700_000_000_000_000)
    assert read_progress(text) == (so_far, 77)
    assert len(text) < 4096
    for foreign in ("", "null", "{}", "reset by hand"):
        assert read_metadata(foreign) is None
