"""Bytes of one key's state, as the changelog keeps it: written by whichever bundle, read by whichever comes next.

In: rows of `Keys`. Out: bytes, and rows put back from them. Remembers: the layout.

    header | windows row now | windows row before | carried | section | section | ...

What every bundle needs comes first: the place in the stream, and the number of windows absorbed. The rest are
sections, each with a tag and its length, read by who knows the tag; others are passed over. A bundle's tag is a digest
of its rows' layout and of the bundle, so that no bundle reads another's tails; and what it has learned as a shadow is
under the very tag where it looks once it is live.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.scenes import I32
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys, Row

_HEADER = struct.Struct("<4s8sqqq")
_HEADER_ROW = np.dtype(
    [("magic", "V4"), ("layout", "V8"), ("now", np.int64), ("before", np.int64), ("ended_at", np.int64)]
)
_SECTION = struct.Struct("<8sI")
_SECTION_ROW = np.dtype([("tag", "V8"), ("size", "<u4")])
AT_ONCE = 2_048  # states are encoded together: few enough that what is copied on the way stays in cache
_MAGIC = b"TRS2"
_FIRST_MAGIC = b"TRS1"  # of before bundles were swapped: one layout for everything, and no sections


@dataclass(frozen=True)
class Section:
    """Stages whose rows are read together or not at all, and the bundle that they belong to, where it is one's."""

    stages: tuple[str, ...]
    bundle: str = ""

    def tag(self, keys: Keys) -> bytes:
        return _digest(keys, self.stages, self.bundle)


@dataclass(frozen=True)
class Layout:
    """What a state is made of. `own`: what the bundle itself has learned; None where there is no bundle."""

    ingest: str
    carried: tuple[str, ...]
    episodes: Section | None = None
    own: Section | None = None
    also: tuple[Section, ...] = ()  # episodes of other reasons, each for itself: what is asked for may change

    @property
    def sections(self) -> tuple[Section, ...]:
        return tuple(section for section in (self.episodes, self.own, *self.also) if section is not None)


@dataclass(frozen=True)
class Ingest:
    """The windows stage's rows of some keys as of an offset."""

    offset: int
    rows: Row


class StateCodec:
    """Packs and unpacks states of one layout."""

    def __init__(self, keys: Keys, layout: Layout) -> None:
        self._layout = layout
        self._digest = _digest(keys, (layout.ingest, *layout.carried))
        self._tags = {section.tag(keys): section for section in layout.sections}
        self._own = layout.own.tag(keys) if layout.own else None
        self._size = keys[layout.ingest].dtype.itemsize
        self._carried_size = sum(keys[stage].dtype.itemsize for stage in layout.carried)
        bundle = layout.own.bundle if layout.own else ""
        self._first_order = (*layout.carried, *_stages(layout.own), *_stages(layout.episodes))
        self._first_digest = _digest(keys, (layout.ingest, *self._first_order), bundle)

    def encode(self, keys: Keys, slots: I32, now: Ingest, before: Ingest) -> list[bytes]:
        """The states of some slots; `now` and `before` are of these slots."""
        states: list[bytes] = []
        for at in range(0, len(slots), AT_ONCE):
            some = slice(at, at + AT_ONCE)
            of_some = (Ingest(part.offset, part.rows[some]) for part in (now, before))
            states += self._encode(keys, slots[some], *of_some)
        return states

    def _encode(self, keys: Keys, slots: I32, now: Ingest, before: Ingest) -> list[bytes]:
        header = np.empty(len(slots), _HEADER_ROW)
        header["magic"], header["layout"] = np.void(_MAGIC), np.void(self._digest)
        header["now"], header["before"] = now.offset, before.offset
        header["ended_at"] = keys[self._layout.ingest]["ended_at"][slots]
        rows = [header, now.rows, before.rows, *(keys[stage].take(slots) for stage in self._layout.carried)]
        for section in self._layout.sections:
            rows += _section_rows(keys, slots, section)
        return _bytes_of(rows)

    def ended_at(self, state: bytes) -> int:
        """Offset of the tombstone that ended the session; -1 while it lives. Raises ConfigurationError."""
        return int(self._header(state)[4])

    def fits(self, state: bytes, committed: int) -> bool:
        """Whether the state holds the windows row of this offset. Raises ConfigurationError."""
        _, _, now, before, _ = self._header(state)
        return now <= committed or before == committed

    def has_own(self, state: bytes) -> bool:
        """Whether it holds rows of the bundle's own."""
        return self._own in self.sections(state)

    def decode(self, keys: Keys, slot: int, state: bytes, committed: int) -> bool:
        """Puts a state into a slot, the windows row being that of the offset `committed`.

        Gives whether the bundle found rows of its own: where it did not, they are left initial. Raises
        ConfigurationError where the value is none of ours.
        """
        magic, digest, now, _, _ = self._header(state)
        at = _HEADER.size + (0 if now <= committed else self._size)
        keys.unpack(slot, [self._layout.ingest], state[at : at + self._size])
        rest = state[_HEADER.size + 2 * self._size :]
        if magic == _FIRST_MAGIC and digest == self._first_digest:
            keys.unpack(slot, self._first_order, rest)
            return True
        keys.unpack(slot, self._layout.carried, rest[: self._carried_size])
        found = dict(_sections(rest[self._carried_size :])) if magic == _MAGIC else {}
        for tag in self._tags.keys() & found.keys():
            keys.unpack(slot, self._tags[tag].stages, found[tag])
        return self._own in found

    def sections(self, state: bytes) -> dict[bytes, bytes]:
        """What anybody has written into a state, by tag."""
        if self._header(state)[0] != _MAGIC:
            return {}
        return dict(_sections(state[_HEADER.size + 2 * self._size + self._carried_size :]))

    def _header(self, state: bytes) -> tuple[bytes, bytes, int, int, int]:
        fits = len(state) >= _HEADER.size + 2 * self._size + self._carried_size
        magic, layout, now, before, ended_at = _HEADER.unpack_from(state) if fits else (b"", b"", 0, 0, 0)
        if magic != _FIRST_MAGIC and (magic, layout) != (_MAGIC, self._digest):
            raise ConfigurationError(
                f"the changelog holds a value of {len(state)} bytes that this version did not write; is its topic used"
                " by something else? Give the detector another name or group, or delete the topic to begin anew"
            )
        return magic, layout, now, before, ended_at


def pack_sections(keys: Keys, slots: I32, sections: Sequence[Section]) -> list[bytes]:
    """Sections of some slots, to be put behind what `encode` gives for them."""
    return _bytes_of([row for section in sections for row in _section_rows(keys, slots, section)])


def _section_rows(keys: Keys, slots: I32, section: Section) -> list[Row]:
    head = np.empty(len(slots), _SECTION_ROW)
    head["tag"] = np.void(section.tag(keys))
    head["size"] = sum(keys[stage].dtype.itemsize for stage in section.stages)
    return [head, *(keys[stage].take(slots) for stage in section.stages)]


def _bytes_of(rows: list[Row]) -> list[bytes]:
    """Rows end to end. Copied as bytes: numpy copies rows with fields field by field."""
    n = len(rows[0])
    together = np.hstack([row.view(np.uint8).reshape(n, row.itemsize) for row in rows])
    size, data = together.shape[1], together.tobytes()
    return [data[at : at + size] for at in range(0, len(data), size)]


def _sections(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Tags and contents, for as long as the lengths hold."""
    at = 0
    while at + _SECTION.size <= len(data):
        tag, size = _SECTION.unpack_from(data, at)
        at += _SECTION.size + size
        if at > len(data):
            return
        yield tag, data[at - size : at]


def _digest(keys: Keys, stages: Sequence[str], bundle: str = "") -> bytes:
    """Of names and types of rows, and the bundle: what another layout has written is not misread."""
    layout = repr([(stage, keys[stage].dtype.descr) for stage in stages]) + bundle
    return hashlib.sha256(layout.encode()).digest()[:8]


def _stages(section: Section | None) -> tuple[str, ...]:
    return section.stages if section else ()
