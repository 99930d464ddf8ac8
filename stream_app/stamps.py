"""When a record of a changelog was written, in offsets of its source: so that past states can be told from later ones.

In: a checkpoint, and the commit that is in force when its states are written. Out: a Kafka header. Remembers: of the
states of a partition, from which record on they know nothing. Records without a stamp, as earlier versions wrote them,
are recovered like all others.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from stream_app.checkpoint import Books, read_books, read_progress
from stream_app.samples import Headers

_NAME = "tailrace.at"
_FORM = struct.Struct("<qqqq8s")
_REACH = struct.Struct("<q")


@dataclass(frozen=True)
class Stamp:
    """What a restart right after the record would begin with."""

    reach: int  # the record after the last that the states knew of which the writer had, by whomever they were written
    committed: int  # the offset in force, from which records would be read again
    clock_us: int  # the partition's, below `committed`
    missed: int  # windows that a shadow had not judged
    writer: bytes  # one pipeline while it held the partition; 8 bytes

    @classmethod
    def made(cls, metadata: str, commit: tuple[int, str], writer: bytes) -> Stamp:
        """Of a writer who began with nothing. metadata: of the checkpoint that is written; commit: offset and metadata
        in force."""
        progress, taken = read_progress(metadata), read_books(metadata)
        assert progress is not None
        assert taken is not None
        offset, text = commit
        return cls(progress[1], offset, (read_books(text) or Books()).clock_us, taken.missed, writer)

    @classmethod
    def of(cls, headers: Headers) -> Stamp | None:
        """The stamp among a record's headers; None where there is none of ours."""
        found = next((value for name, value in headers if name == _NAME), b"")
        return cls(*_FORM.unpack(found)) if len(found) == _FORM.size else None

    def headers(self) -> Headers:
        return ((_NAME, _FORM.pack(*astuple(self))),)


class Recovered(dict[bytes, bytes]):
    """The states of a partition, by session, as they are kept up to date. A worker that starts again writes when it has
    read less than the one before it had, so it is the states who know how far they reach."""

    reach = 0
    unstamped = False  # some of them don't tell

    def note(self, headers: Sequence[Headers]) -> None:
        """Of records that were put into it."""
        stamps = {value for of_record in headers for name, value in of_record if name == _NAME}
        self.reach = max([self.reach, *(_REACH.unpack_from(stamp)[0] for stamp in stamps)])
        self.unstamped |= not all(headers)
