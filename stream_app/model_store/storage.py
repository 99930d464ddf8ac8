"""Where the bundles themselves lie: in chunks on a topic beside the models topic, or behind any fsspec URL.

In: files, or a pointer. Out: a location, or files. Remembers: nothing. What is fetched is not verified here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer

from stream_app.config import Config
from stream_app.errors import BundleRefused, ConfigurationError, StoreUnreachable
from stream_app.live.security import client_settings
from stream_app.model_store.chunks import Chunk, chunk_of, cut, joined
from stream_app.model_store.places import data_topic
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.topic import reaching, reading

KAFKA = "kafka:"
_POLL_MS = 1_000
_FETCH_BYTES = 8 << 20
_QUIET_POLLS_MAX = 30


async def store(config: Config, detector: str, digest: str, files: Mapping[str, bytes]) -> str:
    """Puts the files where the configuration says, and gives the place once they are safe there.

    What lies there already is kept. Raises BrokerUnreachable, ConfigurationError.
    """
    if config.registry.store is not None:
        return _store_at(f"{config.registry.store.rstrip('/')}/{detector}/{digest.removeprefix('sha256:')}", files)
    topic, chunks = data_topic(config), {chunk.index: chunk for chunk in cut(files)}
    there = await _found(config, digest, 0, whole=True)
    offsets = [offset for offset, chunk in there.values() if chunks.get(chunk.index) == chunk]
    wanted = [chunk for i, chunk in chunks.items() if i not in there or there[i][1] != chunk]
    offsets += await _sent(config, digest, wanted)
    # Where the first one lies is a hint, which saves reading all that was published before.
    return f"{KAFKA}{topic}#{min(offsets)}"


async def load(config: Config, pointer: Pointer, names: Collection[str], whole: bool = False) -> dict[str, bytes]:
    """The files that a pointer names; `whole`: what was written of them last, wherever it lies on the topic.

    Raises BundleRefused, ConfigurationError, BrokerUnreachable.
    """
    if pointer.bytes > config.registry.max_bytes:
        words = f"{pointer.name} has {pointer.bytes} bytes; registry.max_bytes allows {config.registry.max_bytes}"
        raise BundleRefused(words, "size")
    if not pointer.location.startswith(KAFKA):
        return _load_from(_allowed_url(config, pointer), pointer, names)
    topic, _, hint = pointer.location.removeprefix(KAFKA).partition("#")
    if topic != data_topic(config):
        words = f"{pointer.name} lies on topic {topic!r}; this configuration reads {data_topic(config)!r}"
        raise BundleRefused(words, "location")
    start = int(hint) if hint.isdigit() and len(hint) < len(str(2**63)) and not whole else 0
    found = await _found(config, pointer.digest, start, whole)
    return joined({i: chunk for i, (_, chunk) in found.items()}, pointer.name)


def remove_at(config: Config, pointer: Pointer) -> bool:
    """Deletes the files of a pointer that lie behind a URL; gives whether there were any. Raises as `load` does."""
    url = _allowed_url(config, pointer)
    system, path = _file_system(url)
    try:
        if not system.exists(path):
            return False
        system.rm(path, recursive=True)
    except Exception as problem:  # each backend has errors of its own
        raise StoreUnreachable(f"{url} can't be deleted: {type(problem).__name__}: {problem}") from problem
    return True


# --- Kafka -----------------------------------------------------------------------------------------------------------


async def _found(config: Config, digest: str, start: int, whole: bool) -> dict[int, tuple[int, Chunk]]:
    """The chunks of a bundle from an offset on, with their offsets, of two with one index the later; `whole`: to the
    end of the topic, and not only until all are there. Raises BundleRefused for more bytes than are allowed."""
    found: dict[int, tuple[int, Chunk]] = {}
    async with reading(config, data_topic(config), max_partition_fetch_bytes=_FETCH_BYTES) as (consumer, tp):
        first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        consumer.seek(tp, min(max(first, start), end))
        quiet = count = 0
        while await consumer.position(tp) < end and quiet < _QUIET_POLLS_MAX:
            records = (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
            quiet = 0 if records else quiet + 1
            for record in records:
                if chunk := chunk_of(digest, record.key, record.value, record.headers):
                    found[chunk.index], count = (record.offset, chunk), chunk.count
                elif record.value is None:  # pruned, or none of ours
                    found = {i: there for i, there in found.items() if there[1].key(digest) != record.key}
            size = sum(len(chunk.data) for _, chunk in found.values())
            if size > config.registry.max_bytes:
                words = f"the chunks of {digest} have {size} bytes; registry.max_bytes is {config.registry.max_bytes}"
                raise BundleRefused(words, "size")
            if count and not whole and all(i in found for i in range(count)):
                break
    return {i: found[i] for i in found if i < count}  # what was written last says how many there are


async def _sent(config: Config, digest: str, chunks: Collection[Chunk]) -> list[int]:
    """Writes the chunks; gives their offsets once all replicas have them."""
    if not chunks:
        return []
    with reaching(config):
        async with AIOKafkaProducer(acks="all", **client_settings(config)) as producer:
            sent = [
                await producer.send(data_topic(config), c.data, c.key(digest), 0, headers=c.headers()) for c in chunks
            ]
            return [(await future).offset for future in sent]


# --- fsspec ----------------------------------------------------------------------------------------------------------


def _store_at(url: str, files: Mapping[str, bytes]) -> str:
    system, path = _file_system(url)
    try:
        system.makedirs(path, exist_ok=True)
        for name, data in files.items():
            place = f"{path}/{name}"
            if not (system.exists(place) and system.cat_file(place) == data):
                system.pipe_file(place, data)
    except Exception as problem:  # each backend has errors of its own
        raise StoreUnreachable(f"{url} can't be written: {type(problem).__name__}: {problem}") from problem
    return url


def _load_from(url: str, pointer: Pointer, names: Collection[str]) -> dict[str, bytes]:
    """No more is read than was published, whatever lies there."""
    system, path = _file_system(url)
    files: dict[str, bytes] = {}
    left = pointer.bytes
    for name in names:
        try:
            files[name] = data = system.cat_file(f"{path}/{name}", start=0, end=left + 1)
        except FileNotFoundError:
            raise BundleRefused(f"{pointer.name}: there is no {name} at {url}", "missing") from None
        except Exception as problem:  # each backend has errors of its own
            raise StoreUnreachable(f"{url} can't be read: {type(problem).__name__}: {problem}") from problem
        left -= len(data)
        if left < 0:
            raise BundleRefused(f"{pointer.name}: more than the {pointer.bytes} bytes published at {url}", "size")
    return files


def _allowed_url(config: Config, pointer: Pointer) -> str:
    """The pointer's URL, if it is where this configuration keeps bundles: a pointer must not send us anywhere."""
    root, url = config.registry.store, pointer.location
    if root is None or not url.startswith(root.rstrip("/") + "/"):
        words = f"{pointer.name} lies at {url!r}, which is not below registry.store ({root})"
        raise BundleRefused(words, "location")
    below = url.removeprefix(root.rstrip("/") + "/")
    if below != f"{pointer.detector}/{pointer.digest.removeprefix('sha256:')}":
        raise BundleRefused(f"{pointer.name} lies at {below!r} below registry.store, not at its own place", "location")
    return url


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as problem:
        raise ConfigurationError(f"registry.store: {url} can't be used: {problem}") from None
    return system, str(path)
