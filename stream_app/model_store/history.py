"""History: all that the models topic says, and what follows from it: which version is live, which in shadow.

In: records in the order of the topic. Out: answers. Remembers: the newest pointer of each version; a value, so that a
reader may keep one while the next is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stream_app.errors import ConfigurationError
from stream_app.model_store.places import Reference
from stream_app.model_store.pointers import Pointer, PointerProblem, canonical, decode

_REFUSED_MAX = 100  # of the newest: for people to read


class Record(Protocol):
    """What is used of a Kafka record."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True)
class Entry:
    """A pointer, and where it lies."""

    offset: int
    pointer: Pointer


@dataclass(frozen=True)
class RefusedRecord:
    """A record that does not count, and why. `reason`: pointer, newer, changed."""

    offset: int
    key: str
    reason: str
    words: str


@dataclass(frozen=True)
class History:
    """`newest`: by key of the record. `end`: the offset after the last record."""

    newest: Mapping[str, Entry] = field(default_factory=dict)
    refused: tuple[RefusedRecord, ...] = ()
    end: int = 0

    def extended(self, records: Iterable[Record]) -> History:
        """This history and the records that follow it."""
        newest, refused, end = dict(self.newest), list(self.refused), self.end
        for record in records:
            end = record.offset + 1
            key = (record.key or b"").decode(errors="replace")
            if record.value is None:
                newest.pop(key, None)
                continue
            try:
                newest[key] = Entry(record.offset, _next(newest.get(key), record))
            except PointerProblem as problem:
                refused.append(RefusedRecord(record.offset, key, problem.reason, str(problem)))
        return History(newest, tuple(refused[-_REFUSED_MAX:]), end)

    def detectors(self) -> list[str]:
        """Names, sorted."""
        return sorted({entry.pointer.detector for entry in self.newest.values()})

    def versions(self, detector: str) -> dict[int, Pointer]:
        """The newest pointer of each version, from the first version to the last."""
        found = [entry.pointer for entry in self.newest.values() if entry.pointer.detector == detector]
        return {pointer.version: pointer for pointer in sorted(found, key=lambda pointer: pointer.version)}

    def live(self, detector: str) -> Pointer | None:
        """The version that serves: of those whose newest pointer says live, the one that came last; an older version
        than one that was live before counts only if it was rolled back to."""
        return next((p for p in self._latest_first(detector, "live") if not self.is_downgrade(p)), None)

    def shadow(self, detector: str) -> Pointer | None:
        """The version that runs beside the live one."""
        return next(iter(self._latest_first(detector, "shadow")), None)

    def candidate(self, detector: str) -> Pointer | None:
        """The version that is likely to go live next: the newest one, while it is a candidate that passed its gate."""
        newest = next(reversed(self.versions(detector).values()), None)
        ready = newest is not None and newest.state == "candidate" and newest.gate is not None and newest.gate.passed
        return newest if ready else None

    def is_downgrade(self, pointer: Pointer) -> bool:
        """Whether the pointer says live of a version older than one that was live, without a rollback."""
        if pointer.history and pointer.history[-1].rolled_back_from is not None:
            return False
        later = (p for p in self.versions(pointer.detector).values() if p.version > pointer.version)
        return any(live_at_ms(p) is not None for p in later)

    def named(self, wanted: Reference) -> Pointer:
        """The version that a reference names. Raises ConfigurationError in words."""
        versions = self.versions(wanted.detector)
        if wanted.which == "live":
            found = self.live(wanted.detector)
        elif wanted.which == "shadow":
            found = self.shadow(wanted.detector)
        else:
            found = versions.get(int(wanted.which))
        if found is None:
            raise ConfigurationError(self._absent(wanted, versions))
        return found

    def _latest_first(self, detector: str, state: str) -> list[Pointer]:
        entries = [e for e in self.newest.values() if e.pointer.detector == detector and e.pointer.state == state]
        return [entry.pointer for entry in sorted(entries, key=lambda entry: -entry.offset)]

    def _absent(self, wanted: Reference, versions: Mapping[int, Pointer]) -> str:
        unread = [r for r in self.refused if r.key.rpartition("/")[0] == wanted.detector]
        if unread:
            return f"{wanted} is not known, and {unread[-1].key} can't be read: {unread[-1].words}"
        if not versions:
            known = ", ".join(self.detectors()) or "nothing"
            return f"no version of {wanted.detector} was published ({known} was): tailrace models publish BUNDLE"
        has = ", ".join(f"{version} {pointer.state}" for version, pointer in versions.items())
        if wanted.which == "live":
            return f"no version of {wanted.detector} is live ({has}): tailrace models promote {wanted.detector}@VERSION"
        return f"there is no {wanted}; there are {has}"


def live_at_ms(pointer: Pointer) -> int | None:
    """When the version went live last; None if it never was."""
    return max((t.at_ms for t in pointer.history if t.state == "live"), default=None)


def _next(known: Entry | None, record: Record) -> Pointer:
    pointer = decode(record.key, record.value or b"")
    if known is not None and canonical(known.pointer) != canonical(pointer):
        words = f"{pointer.name} was published as {known.pointer.digest} and does not change"
        raise PointerProblem(words, "changed")
    return pointer
