"""Chunks: a bundle's files on a topic, in records that every broker takes.

In: files, or the records of one bundle. Out: records, or files. Remembers: nothing.

The key is `<digest>/<index>`, the headers name the file and say how many chunks there are. Nothing here is trusted:
whether the files are those that were published is told by their digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_app.errors import BundleRefused

# A broker takes records of 1 MB by default, with key and headers.
CHUNK_BYTES = 850_000
CHUNKS_MAX = 100_000
_FILE, _CHUNKS = "tailrace.file", "tailrace.chunks"


@dataclass(frozen=True)
class Chunk:
    """A part of one file. `index` counts over all files of the bundle, of which there are `count` parts."""

    index: int
    count: int
    file: str
    data: bytes

    def key(self, digest: str) -> bytes:
        return f"{digest}/{self.index}".encode()

    def headers(self) -> list[tuple[str, bytes]]:
        return [(_FILE, self.file.encode()), (_CHUNKS, str(self.count).encode())]


def cut(files: Mapping[str, bytes]) -> list[Chunk]:
    """The files in parts, each file from its beginning to its end."""
    parts = [
        (name, data[at : at + CHUNK_BYTES])
        for name, data in files.items()
        for at in range(0, max(1, len(data)), CHUNK_BYTES)
    ]
    return [Chunk(i, len(parts), name, part) for i, (name, part) in enumerate(parts)]


def chunk_of(digest: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Chunk | None:
    """The chunk in a record; None where it belongs to another bundle, was deleted, or is none."""
    prefix = f"{digest}/".encode()
    if key is None or value is None or not key.startswith(prefix):
        return None
    named = dict(headers)
    index, count = _number(key.removeprefix(prefix)), _number(named.get(_CHUNKS, b""))
    if index is None or count is None or not index < count <= CHUNKS_MAX:
        return None
    return Chunk(index, count, named.get(_FILE, b"").decode(errors="replace"), value)


def joined(chunks: Mapping[int, Chunk], name: str) -> dict[str, bytes]:
    """The files. Raises BundleRefused where a chunk is missing."""
    count = max((chunk.count for chunk in chunks.values()), default=0)
    missing = [i for i in range(count) if i not in chunks]
    if missing or not chunks:
        raise BundleRefused(f"{name}: {len(missing) or 'all'} of its chunks are missing", "missing")
    files: dict[str, list[bytes]] = {}
    for i in range(count):
        files.setdefault(chunks[i].file, []).append(chunks[i].data)
    return {file: b"".join(parts) for file, parts in files.items()}


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= len(str(CHUNKS_MAX)) else None
