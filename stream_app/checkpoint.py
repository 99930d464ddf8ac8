"""What is written and committed every few seconds, and what a crash in between costs.

In: the pipeline's state. Out: `Checkpoint`, bytes per key and an offset. Remembers: nothing.

The steps, in this order, each awaited before the next:

0. The offset committed last is committed again. It changes nothing; a worker that lost its partition learns it here and
   stops before it can overwrite its successor's states.
   A crash after it: nothing has happened.
1. Alerts, scores and dead letters produced so far are flushed.
   A crash after it: the windows are scored again from the same states; the alerts come again with the same ids.
2. The states of the keys touched are written to the changelog, each stamped with the number of windows it has absorbed.
   A crash after it (or amid it): records are read again from the old offset and the same windows close again; those a
   state has absorbed count their samples and change nothing else.
3. The safe offset is committed, with the accounting of everything below it and the partition's clock as metadata.
   A crash after it: the next start reads from exactly there.
4. States of ended sessions are deleted from the changelog.
   A crash before or amid it: they are recognised as ended when they are read, and deleted by a later checkpoint.

The window stage's part of a state must be that of the *committed* offset, since the records after it are read again.
Between 2 and 3 two offsets are possible, so a state holds that part twice: as of the offset now committed and as of the
one about to be.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from models.scenes import I32
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys, Row
from stream_app.ledger import Accounting

_HEADER = struct.Struct("<4s8sqqq")
_HEADER_ROW = np.dtype(
    [("magic", "V4"), ("layout", "V8"), ("now", np.int64), ("before", np.int64), ("ended_at", np.int64)]
)
_MAGIC = b"TRS1"
_SEPARATOR = b"\x00"  # records refuses keys that hold it


@dataclass(frozen=True)
class Checkpoint:
    """Step 2 writes `states`, step 3 commits `offset` with `metadata`, step 4 deletes `ended`."""

    offset: int
    metadata: str
    states: dict[bytes, bytes]
    ended: tuple[bytes, ...] = field(default=())


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    clock_us: int
    read: int
    scored: int
    late: int
    duplicate: int
    dead: int
    so_far: tuple[int, int, int, int, int] | None = None  # of everything read, for people; nothing is restored from it
    next: int = -1


def metadata(accounting: Accounting, clock_us: int, so_far: Accounting | None = None, next_offset: int = -1) -> str:
    """The text that travels in the offset commit; well under Kafka's limit of 4,096 bytes.

    accounting: of everything below the offset; so_far: of everything below `next_offset`, open windows included.
    """
    read, scored, late, duplicate, dead = map(int, accounting.counts())
    total = None if so_far is None else tuple(map(int, so_far.counts()))
    m = _Metadata(1, clock_us, read, scored, late, duplicate, dead, total, next_offset)  # type: ignore[arg-type]
    return msgspec.json.encode(m).decode()


def read_progress(text: str) -> tuple[Accounting, int] | None:
    """Accounting of everything read at the checkpoint, and the next offset then; None as for `read_metadata`."""
    try:
        m = msgspec.json.decode(text, type=_Metadata)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return None if m.so_far is None else (Accounting(*m.so_far), m.next)


def read_metadata(text: str) -> tuple[Accounting, int] | None:
    """Accounting and clock of a commit; None where it is not one of ours (reset by Kafka's tool)."""
    try:
        m = msgspec.json.decode(text, type=_Metadata)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return Accounting(m.read, m.scored, m.late, m.duplicate, m.dead), m.clock_us


def session_key(key: bytes, birth: int) -> bytes:
    """The changelog key of one session of an entity: born with the record at this offset."""
    return key + _SEPARATOR + str(birth).encode()


def split_key(state_key: bytes) -> tuple[bytes, int]:
    """Entity key and birth of a changelog key."""
    key, _, birth = state_key.rpartition(_SEPARATOR)
    return key, int(birth)


@dataclass(frozen=True)
class Ingest:
    """The windows stage's rows of some keys as of an offset."""

    offset: int
    rows: Row


class StateCodec:
    """Bytes of one key's state: header, windows row now, windows row before, the rows of the other stages.

    The layout's digest covers names and types of all rows: a state written by another layout is not misread.
    """

    def __init__(self, keys: Keys, ingest: str, stages: Sequence[str], detector: str) -> None:
        self._ingest, self._stages = ingest, tuple(stages)
        layout = repr([(s, keys[s].dtype.descr) for s in (ingest, *stages)]) + detector
        self._layout = hashlib.sha256(layout.encode()).digest()[:8]
        self._size = keys[ingest].dtype.itemsize

    def encode(self, keys: Keys, slots: I32, now: Ingest, before: Ingest) -> list[bytes]:
        """The states of some slots; `now` and `before` are of these slots."""
        header = np.empty(len(slots), _HEADER_ROW)
        header["magic"], header["layout"] = np.void(_MAGIC), np.void(self._layout)
        header["now"], header["before"] = now.offset, before.offset
        header["ended_at"] = keys[self._ingest]["ended_at"][slots]
        rows = [header, now.rows, before.rows, *(keys[stage].take(slots) for stage in self._stages)]
        together = np.hstack([row.view(np.uint8).reshape(len(slots), row.itemsize) for row in rows])
        size, data = together.shape[1], together.tobytes()
        return [data[at : at + size] for at in range(0, len(data), size)]

    def ended_at(self, state: bytes) -> int:
        """Offset of the tombstone that ended the session; -1 while it lives. Raises ConfigurationError."""
        return int(self._header(state)[4])

    def decode(self, keys: Keys, slot: int, state: bytes, committed: int) -> bool:
        """Puts a state into a slot, the windows row being that of the offset `committed`.

        Gives whether the rest of the state was taken too: it is left initial where another layout or bundle wrote it.
        Raises ConfigurationError where the value is none of ours.
        """
        _, layout, now, _, _ = self._header(state)
        at = _HEADER.size + (0 if now <= committed else self._size)
        keys.unpack(slot, [self._ingest], state[at : at + self._size])
        if layout != self._layout:
            return False
        keys.unpack(slot, self._stages, state[_HEADER.size + 2 * self._size :])
        return True

    def _header(self, state: bytes) -> tuple[bytes, bytes, int, int, int]:
        if len(state) < _HEADER.size + 2 * self._size or not state.startswith(_MAGIC):
            raise ConfigurationError(
                f"the changelog holds a value of {len(state)} bytes that this version did not write; is its topic used"
                " by something else? Give the detector another name or group, or delete the topic to begin anew"
            )
        magic, layout, now, before, ended_at = _HEADER.unpack_from(state)
        return magic, layout, now, before, ended_at
