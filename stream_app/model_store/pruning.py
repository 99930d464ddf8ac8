"""Pruning: bundles that nobody will ask for any more, deleted where they lie and where they were fetched to.

In: the history. Out: `Pruned`. Remembers: nothing.

Kept are the bundles of every version that is live, in shadow or a candidate, of the last `registry.keep` that retired,
and of the one that a rollback would bring back. Pointers stay: which version was live when is history.

1. The pointers whose bundles go say so, in one change.
2. Chunks get tombstones, and files behind a URL are deleted. A kill before or amid it: the same command goes on.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.live.security import client_settings
from stream_app.model_store.history import History, live_at_ms
from stream_app.model_store.places import cache_folder, data_topic
from stream_app.model_store.pointers import PRUNED, Pointer, with_fields
from stream_app.model_store.storage import KAFKA, remove_at
from stream_app.model_store.topic import change, reaching, read_pointers, reading
from stream_app.model_store.transitions import previous

_POLL_MS = 1_000
# A publisher stores its chunks before anything refers to them; none takes so long.
_UNCLAIMED_MS = 24 * 3_600_000
# Whoever fetched a bundle has opened it by then.
_IN_USE_S = 3_600.0


@dataclass
class _Stored:
    """The chunks of one bundle, by key; when the last of them was written."""

    keys: set[bytes] = field(default_factory=set)
    at_ms: int = 0


@dataclass(frozen=True)
class Pruned:
    """What was deleted: bundles by version, chunks that no version claims, folders of the cache on this machine."""

    versions: tuple[str, ...] = ()
    chunks: int = 0
    unclaimed: int = 0
    cached: int = 0


def kept(history: History, retired: int) -> set[str]:
    """The digests of bundles that somebody may ask for."""
    found: set[str] = set()
    for name in history.detectors():
        versions = history.versions(name).values()
        found |= {pointer.digest for pointer in versions if pointer.state != "retired"}
        left = sorted((p for p in versions if p.state == "retired"), key=lambda p: live_at_ms(p) or 0)
        found |= {pointer.digest for pointer in left[-retired:]}
        with suppress(ConfigurationError):  # nothing was live before
            found.add(previous(history, name).digest)
    return found


def gone(history: History, retired: int) -> list[Pointer]:
    """The versions of all detectors whose bundles nobody will ask for."""
    wanted = kept(history, retired)
    return [p for name in history.detectors() for p in history.versions(name).values() if p.digest not in wanted]


async def prune(config: Config, dry_run: bool = False) -> Pruned:
    """Deletes what is not kept. Raises BrokerUnreachable, ConfigurationError, StoreUnreachable."""
    retired, history = config.registry.keep, await read_pointers(config)
    if not dry_run:
        history = await change(config, lambda known: [_marked(p) for p in gone(known, retired) if p.reason != PRUNED])
    chosen, stored = gone(history, retired), await _stored(config)
    mine = {p.digest for name in history.detectors() for p in history.versions(name).values()}
    before_ms = time.time_ns() // 1_000_000 - _UNCLAIMED_MS
    unclaimed = {key for digest, s in stored.items() if digest not in mine and s.at_ms < before_ms for key in s.keys}
    chunks = {key for pointer in chosen for key in stored.get(pointer.digest, _Stored()).keys}
    elsewhere = [pointer for pointer in chosen if not pointer.location.startswith(KAFKA)]
    there = {pointer.name for pointer in chosen if pointer.digest in stored}
    if dry_run:
        return Pruned(tuple(sorted(there | {p.name for p in elsewhere})), len(chunks), len(unclaimed))
    await _bury(config, chunks | unclaimed)
    there |= {p.name for p in elsewhere if await asyncio.to_thread(remove_at, config, p)}
    cached = await asyncio.to_thread(prune_cache, config, history)
    return Pruned(tuple(sorted(there)), len(chunks), len(unclaimed), cached)


def prune_cache(config: Config, history: History) -> int:
    """Deletes from this machine's cache the bundles that are not kept, and what a kill left of a fetch; gives how many.
    What was in use within the hour stays, and so do bundles of other clusters."""
    root, n = cache_folder(config), 0
    drafts = root.glob(".fetching-*")
    for path in (*(root / p.digest.removeprefix("sha256:") for p in gone(history, config.registry.keep)), *drafts):
        with suppress(OSError):  # nobody needs it to be gone
            if time.time() - path.stat().st_mtime > _IN_USE_S:
                shutil.rmtree(path)
                n += 1
    return n


def _marked(pointer: Pointer) -> Pointer:
    return with_fields(pointer, reason=PRUNED)


async def _stored(config: Config) -> dict[str, _Stored]:
    """What lies on the data topic, by digest."""
    found: dict[str, _Stored] = {}
    async with reading(config, data_topic(config)) as (consumer, tp):
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            for record in (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, []):
                digest = (record.key or b"").rpartition(b"/")[0].decode(errors="replace")
                stored = found.setdefault(digest, _Stored())
                if record.value is None:
                    stored.keys.discard(record.key)
                elif digest:
                    stored.keys.add(record.key)
                    stored.at_ms = max(stored.at_ms, record.timestamp)
    return {digest: stored for digest, stored in found.items() if stored.keys}


async def _bury(config: Config, keys: Iterable[bytes]) -> None:
    """A tombstone for each; compaction frees the room."""
    with reaching(config):
        async with AIOKafkaProducer(acks="all", **client_settings(config)) as producer:
            sent = [await producer.send(data_topic(config), None, key, 0) for key in sorted(keys)]
            await asyncio.gather(*sent)
