"""What a checkpoint writes: states that are read back as of an offset, and never misread."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from stream_app.checkpoint import Books, Swap, metadata, read_books, read_progress, session_key, split_key
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys
from stream_app.ledger import Accounting
from stream_app.states import Ingest, Layout, Section, StateCodec, pack_sections

INGEST = np.zeros(1, [("t", np.int64), ("ended_at", np.int64)])
ABSORBED = np.zeros(1, [("absorbed", np.int64)])
EPISODE = np.zeros(1, [("open", np.bool_)])
TAIL = np.zeros(1, [("level", np.float64)])
# What the version before sections wrote of a key in the middle of its stream, as `state` below has it.
FIRST = struct.pack(
    "<4s8sqqqqqqqqd?", b"TRS1", bytes.fromhex("2d9b77f2495c6bc3"), 20, 10, -1, 2, -1, 1, -1, 7, 0.5, True
)


def keys_and_codec(bundle: str = "a") -> tuple[Keys, StateCodec]:
    keys = Keys({"windows": INGEST, "absorbed": ABSORBED, "tail": TAIL, "episode": EPISODE})
    layout = Layout("windows", ("absorbed",), Section(("episode",)), Section(("tail",), bundle))
    return keys, StateCodec(keys, layout)


def state(now: int = 20, before: int = 10) -> bytes:
    """Of a key whose windows row was t=1 at `before` and t=2 at `now`."""
    keys, codec = keys_and_codec()
    slots = keys.slots([b"x"])
    keys["tail"]["level"][slots], keys["absorbed"]["absorbed"][slots], keys["episode"]["open"][slots] = 0.5, 7, True
    rows = np.repeat(INGEST, 2)
    rows["t"], rows["ended_at"] = [1, 2], -1
    keys["windows"]["ended_at"][slots] = -1
    return codec.encode(keys, slots, Ingest(now, rows[1:]), Ingest(before, rows[:1]))[0]


def decoded(value: bytes, bundle: str = "a") -> tuple[bool, dict[str, object]]:
    """Whether the bundle found rows of its own, and all rows."""
    keys, codec = keys_and_codec(bundle)
    slot = int(keys.slots([b"y"])[0])
    own = codec.decode(keys, slot, value, 20)
    return own, {stage: keys[stage][slot].item()[0] for stage in ("windows", "absorbed", "tail", "episode")}


@pytest.mark.parametrize(("committed", "t"), [(10, 1), (19, 1), (20, 2), (30, 2)])
def test_a_state_is_that_of_the_committed_offset(committed: int, t: int) -> None:
    keys, codec = keys_and_codec()
    slot = int(keys.slots([b"y"])[0])
    assert codec.decode(keys, slot, state(now=20, before=10), committed)
    assert keys["windows"]["t"][slot] == t
    assert keys["tail"]["level"][slot] == 0.5


def test_another_bundle_takes_what_outlives_it_and_learns_the_rest_anew() -> None:
    assert decoded(state(), "a") == (True, {"windows": 2, "absorbed": 7, "tail": 0.5, "episode": True})
    assert decoded(state(), "b") == (False, {"windows": 2, "absorbed": 7, "tail": 0.0, "episode": True})


def test_what_a_shadow_wrote_is_its_own_once_it_is_live() -> None:
    keys, _ = keys_and_codec("b")
    slots = keys.slots([b"x"])
    keys["tail"]["level"][slots] = 0.25
    (shadow,) = pack_sections(keys, slots, [Section(("tail",), "b")])
    assert decoded(state() + shadow, "b")[1]["tail"] == 0.25
    assert decoded(state() + shadow, "a")[1]["tail"] == 0.5
    assert decoded(state() + shadow[:-1], "b")[1]["tail"] == 0.0, "a section that is cut short is none"


def test_states_of_the_version_before_sections_are_read_whole_by_their_bundle() -> None:
    assert decoded(FIRST, "a") == decoded(state(), "a")


def test_states_of_the_version_before_sections_keep_place_and_count_under_another_bundle() -> None:
    assert decoded(FIRST, "b") == (False, {"windows": 2, "absorbed": 7, "tail": 0.0, "episode": False})


@pytest.mark.parametrize("value", [b"", b"{}", b"TRS2", b"TRS9" + bytes(200), b"TRS2" + bytes(200)])
def test_a_foreign_value_is_refused_in_a_sentence(value: bytes) -> None:
    with pytest.raises(ConfigurationError, match="did not write"):
        keys_and_codec()[1].ended_at(value)


def test_a_session_is_found_by_key_and_birth() -> None:
    assert split_key(session_key("pümp".encode(), 17)) == ("pümp".encode(), 17)


@pytest.mark.parametrize("swap", [None, Swap("d" * 64, 12, 2**40, 1_700_000_000_000, "e" * 64)])
def test_metadata_survives_the_commit(swap: Swap | None) -> None:
    books, so_far = Books(Accounting(9, 5, 2, 1, 1), 1_700_000_000_000_000, "e" * 64, swap), Accounting(12, 5, 2, 1, 1)
    text = metadata(books, so_far, 77)
    assert read_books(text) == books
    assert read_progress(text) == (so_far, 77)
    assert len(text) < 4096


def test_the_bundle_that_goes_on_is_that_of_the_swap() -> None:
    assert Books(bundle="e").successor == "e"
    assert Books(bundle="e", swap=Swap("d", 2, 0, 0)).successor == "d"


def test_a_commit_of_before_bundles_were_named_is_read() -> None:
    text = '{"v":1,"clock_us":5,"read":9,"scored":5,"late":2,"duplicate":1,"dead":1,"so_far":[12,5,2,1,1],"next":77}'
    assert read_books(text) == Books(Accounting(9, 5, 2, 1, 1), 5)


def test_a_foreign_commit_is_none_of_ours() -> None:
    for foreign in ("", "null", "{}", "reset by hand"):
        assert read_books(foreign) is None
