"""What is written and committed every few seconds, and what a crash in between costs.

In: the pipeline's state. Out: `Checkpoint`, bytes per key and an offset. Remembers: nothing.

The states and the offset are those between two batches, taken together at the beginning; batches that follow are worked
on while the steps below are awaited, and belong to the next checkpoint. Before a partition is given up, or goes over to
another bundle, none follow. The steps, in this order, each awaited before the next:

0. The offset committed last is committed again. It changes nothing; a worker that lost its partition learns it here and
   stops before it can overwrite its successor's states.
   A crash after it: nothing has happened.
1. Alerts, scores and dead letters produced so far, and so all that led to these states, are flushed.
   A crash after it: the windows are scored again from the same states; the alerts come again with the same ids.
2. The states of the keys touched are written to the changelog, each stamped with the number of windows it has absorbed,
   and with the offsets by which a replay finds it again (`stream_app.stamps`).
   A crash after it (or amid it): records are read again from the old offset and the same windows close again; those a
   state has absorbed count their samples and change nothing else.
3. The safe offset is committed, with the accounting of everything below it, the partition's clock and the bundle as
   metadata.
   A crash after it: the next start reads from exactly there, with that bundle.
4. States of ended sessions are deleted from the changelog.
   A crash before or amid it: they are recognised as ended when they are read, and deleted by a later checkpoint.

The window stage's part of a state must be that of the *committed* offset, since the records after it are read again.
Between 2 and 3 two offsets are possible, so a state holds that part twice: as of the offset now committed and as of the
one about to be.

Another bundle takes over at such a checkpoint, and not otherwise. Let P be the next record to read. What closed before
it was scored by the old bundle, and what closes from there on is scored by the new one:

5. Steps 0 to 4 by the old pipeline; what is committed in 3 also says `swap`: to which bundle, and at P.
   A crash before 3: the commit names the old bundle, which goes on, and hands over later, at another P.
6. A new pipeline, with the new bundle, is restored from that checkpoint as after a crash, and reads again from the
   committed offset. Windows that closed below P are absorbed already; open episodes go on under their ids; what the new
   bundle has learned of an entity, as a shadow or when it was live before, is in the state under its tag.
   A crash after 3: the commit names the new bundle; the next start does this step and nothing else.
7. The swap is told on its topic; the next checkpoint's first step waits for it, and its commit says `swap` no more.
   A crash before it: the commit still says it, so it is told again by the next start, in the same words.

A bundle must not judge again what another has judged and told. After a crash the windows between the last commit and
the crash have been told by the bundle that the commit names, so it reads on to where the partition ended at the start
before it hands over. And the choice of the first bundle is a swap from none, committed before anything is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from stream_app.ledger import Accounting

_VERSION = 2  # 1 named no bundle
NO_CLOCK_US = -(2**63)  # of a partition without a record
_SEPARATOR = b"\x00"  # records refuses keys that hold it


@dataclass(frozen=True)
class Checkpoint:
    """Step 2 writes `states`, step 3 commits `offset` with `metadata`, step 4 deletes `ended`."""

    offset: int
    metadata: str
    states: dict[bytes, bytes]
    ended: tuple[bytes, ...] = field(default=())


class Swap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From the record at offset `at` on, windows are scored by the bundle `to`."""

    to: str  # digest
    version: int  # 0: it has none
    at: int
    at_ms: int  # wall clock: when it was decided; for people
    origin: str = ""  # digest of the bundle before; empty: there was none
    missed: int = 0  # windows that it passed over as a shadow: its tails know nothing of them


@dataclass(frozen=True)
class Books:
    """What a commit says of everything below its offset, and which bundle has scored it."""

    accounting: Accounting = field(default_factory=Accounting)
    clock_us: int = NO_CLOCK_US
    bundle: str = ""  # digest; empty: none, or written before bundles were named
    swap: Swap | None = None
    missed: int = 0  # windows that the shadow, if there is one, will never judge if a crash follows

    @property
    def successor(self) -> str:
        """The digest of the bundle that goes on from here."""
        return self.swap.to if self.swap else self.bundle


class _Metadata(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    v: int
    clock_us: int
    read: int
    scored: int
    late: int
    duplicate: int
    dead: int
    so_far: tuple[int, int, int, int, int] | None = None  # of everything read, for people; nothing is restored from it
    next: int = -1
    bundle: str = ""
    swap: Swap | None = None
    missed: int = 0


def metadata(books: Books, so_far: Accounting | None = None, next_offset: int = -1) -> str:
    """The text that travels in the offset commit; well under Kafka's limit of 4,096 bytes.

    books: of everything below the offset; so_far: of everything below `next_offset`, open windows included.
    """
    read, scored, late, duplicate, dead = map(int, books.accounting.counts())
    total = None if so_far is None else tuple(map(int, so_far.counts()))
    counts = (books.clock_us, read, scored, late, duplicate, dead)
    m = _Metadata(_VERSION, *counts, total, next_offset, books.bundle, books.swap, books.missed)  # type: ignore[arg-type]
    return msgspec.json.encode(m).decode()


def read_progress(text: str) -> tuple[Accounting, int] | None:
    """Accounting of everything read at the checkpoint, and the next offset then; None as for `read_books`."""
    m = _read(text)
    return None if m is None or m.so_far is None else (Accounting(*m.so_far), m.next)


def read_books(text: str) -> Books | None:
    """What a commit says; None where it is not one of ours (reset by Kafka's tool)."""
    m = _read(text)
    if m is None:
        return None
    return Books(Accounting(m.read, m.scored, m.late, m.duplicate, m.dead), m.clock_us, m.bundle, m.swap, m.missed)


def _read(text: str) -> _Metadata | None:
    try:
        return msgspec.json.decode(text, type=_Metadata)
    except (msgspec.DecodeError, UnicodeError):
        return None


def session_key(key: bytes, birth: int) -> bytes:
    """The changelog key of one session of an entity: born with the record at this offset."""
    return key + _SEPARATOR + str(birth).encode()


def split_key(state_key: bytes) -> tuple[bytes, int]:
    """Entity key and birth of a changelog key."""
    key, _, birth = state_key.rpartition(_SEPARATOR)
    return key, int(birth)
