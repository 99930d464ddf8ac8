"""The slow, obvious twin of `stream_app.replay.history.Past`, and of Kafka's compaction."""

from __future__ import annotations

from dataclasses import dataclass

from stream_app.samples import Headers
from stream_app.stamps import Stamp


@dataclass(frozen=True)
class Written:
    """A record of a changelog."""

    key: bytes
    value: bytes | None
    stamp: Stamp

    def headers(self) -> Headers:
        return self.stamp.headers()


def naive_past(log: list[Written], begin: int) -> tuple[dict[bytes, bytes], set[bytes]]:
    """The states of then, and the sessions whose state somebody wrote who had lost the partition."""
    n = next((i for i, one in enumerate(log) if one.stamp.reach > begin), len(log))
    prefix = log[:n]
    newest = {one.key: i for i, one in enumerate(prefix)}
    states = {key: prefix[i].value for key, i in newest.items()}
    alive = {key: value for key, value in states.items() if value is not None}
    return alive, {key for key in alive if is_stale(prefix, newest[key])}


def is_stale(log: list[Written], at: int) -> bool:
    """Whether another has written since the writer began to, who was himself no such writer."""
    began = {one.stamp.writer: i for i, one in reversed(list(enumerate(log)))}
    mine = began[log[at].stamp.writer]
    return any(mine < began[one.stamp.writer] for one in log[:at])


def compacted(log: list[Written], end: int, swapped: int | None = None) -> list[int]:
    """The offsets that are left when Kafka's cleaner has looked at all below `end`; it has come as far as `swapped`."""
    newest = {one.key: i for i, one in enumerate(log[:end])}
    swapped = end if swapped is None else swapped
    return [i for i, one in enumerate(log) if i >= swapped or newest[one.key] == i]
