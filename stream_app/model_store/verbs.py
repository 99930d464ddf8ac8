"""What people and jobs do with versions: publish, shadow, promote, roll back.

In: the configuration and what is wanted. Out: the pointer as it is thereafter. Remembers: nothing.

A publisher (1) opens the bundle as a worker would, (2) stores its files and waits until they are safe, (3) appends the
pointer. Killed after (1) or amid (2) it leaves nothing that anybody refers to, and a restart goes on with what is
stored; killed in (3), the pointer is there or is not; a restart finds it and gives it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import BundleRefused, ConfigurationError
from stream_app.model_store import transitions
from stream_app.model_store.fetching import FILES, fetch
from stream_app.model_store.history import History
from stream_app.model_store.places import Reference, cache_folder
from stream_app.model_store.pointers import PRUNED, Gate, Pointer, Transition, with_fields
from stream_app.model_store.signing import private_key, signed
from stream_app.model_store.storage import store
from stream_app.model_store.topic import change, create_topics, read_pointers
from stream_app.model_store.transitions import WINDOWS, Wish
from stream_app.opening import facts, open_bundle


@dataclass(frozen=True)
class Publication:
    """What is published. `lineage` comes on top of the bundle's own; `key`: default is `registry.signing_key`."""

    detector: str
    bundle: Path
    lineage: Mapping[str, Any] = field(default_factory=dict)
    gate: Gate | None = None
    key: Path | None = None
    reason: str | None = None


async def publish(config: Config, what: Publication) -> Pointer:
    """The bundle becomes the next version of the detector, a candidate; if it is one already, that one is given.

    Raises BundleRefused for a bundle that can't be opened, ConfigurationError without a key where one is needed,
    BrokerUnreachable.
    """
    key = _signing_key(config, what.key)
    detector = await asyncio.to_thread(open_bundle, what.bundle)
    files = {name: (what.bundle / name).read_bytes() for name in FILES}
    size = sum(map(len, files.values()))
    if size > config.registry.max_bytes:
        words = f"{what.bundle} has {size} bytes; registry.max_bytes allows {config.registry.max_bytes}"
        raise BundleRefused(words, "size")
    lineage = {**facts(what.bundle)["lineage"], **what.lineage, WINDOWS: windows_of(detector)}
    await asyncio.to_thread(create_topics, config)
    location = await store(config, what.detector, detector.digest, files)

    def next_version(history: History) -> list[Pointer]:
        versions = history.versions(what.detector)
        if known := [pointer for pointer in versions.values() if pointer.digest == detector.digest]:
            return [with_fields(p, reason=what.reason) for p in known if p.reason == PRUNED]  # it is there again
        now, version = Transition("candidate", now_ms(), what.reason), max(versions, default=0) + 1
        named: dict[str, Any] = {"detector": what.detector, "version": version, "digest": detector.digest}
        kept: dict[str, Any] = {"location": location, "bytes": size, "lineage": lineage, "gate": what.gate}
        return [signed(Pointer(v=1, **named, **kept, state="candidate", reason=what.reason, history=(now,)), key)]

    versions = (await change(config, next_version)).versions(what.detector)
    return next(pointer for pointer in reversed(versions.values()) if pointer.digest == detector.digest)


async def promote(config: Config, wish: Wish) -> Pointer:
    """The version goes live, once its bundle was fetched and opened as the workers will. Raises CheckFailed without a
    passed gate, BundleRefused, ConfigurationError, BrokerUnreachable."""
    await _must_open(config, wish, transitions.promoted)
    return await _done(config, wish, transitions.promoted, "live")


async def rollback(config: Config, wish: Wish) -> Pointer:
    """The version that was live before goes live again. Raises as `promote` does."""
    to_do = await _must_open(config, wish, transitions.rolled_back)
    if to_do and wish.version is None:  # named now: rolled back once, even if it must be tried twice
        wish = replace(wish, version=transitions.previous(await read_pointers(config), wish.detector).version)
    return await _done(config, wish, transitions.rolled_back, "live")


async def shadow(config: Config, wish: Wish) -> Pointer:
    """The version runs beside the live one. Raises as `promote` does."""
    await _must_open(config, wish, transitions.shadowed)
    return await _done(config, wish, transitions.shadowed, "shadow")


async def unshadow(config: Config, wish: Wish) -> None:
    """Nothing runs beside the live one any more."""
    await change(config, lambda history: transitions.unshadowed(history, _now(wish)))


def windows_of(detector: Detector) -> dict[str, Any]:
    """What all versions of one detector must share, or states could not be kept across a swap."""
    return {"kind": detector.kind, **{name: value for name, value in asdict(detector.windows).items() if value}}


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


async def _must_open(config: Config, wish: Wish, step: Callable[[History, Wish], list[Pointer]]) -> bool:
    """Raises for a step that can't be taken, and for a bundle that workers would refuse. Gives whether one is left."""
    to_do = step(await read_pointers(config), _now(wish))
    for pointer in to_do:
        if pointer.state in ("live", "shadow"):
            folder = await asyncio.to_thread(fetch, config, pointer, cache_folder(config))
            await asyncio.to_thread(open_bundle, folder, pointer.digest)
    return bool(to_do)


async def _done(config: Config, wish: Wish, step: Callable[[History, Wish], list[Pointer]], state: str) -> Pointer:
    history = await change(config, lambda history: step(history, _now(wish)))
    return history.named(Reference(wish.detector, state))


def _now(wish: Wish) -> Wish:
    return replace(wish, at_ms=wish.at_ms or now_ms())


def _signing_key(config: Config, given: Path | None) -> Ed25519PrivateKey | None:
    path = given or config.registry.signing_key
    if path is not None:
        return private_key(path)
    if config.registry.allow_unsigned:
        return None
    hint = (
        "give --key FILE or registry.signing_key (tailrace models keygen makes one), or registry.allow_unsigned: true"
    )
    raise ConfigurationError(f"nobody would trust an unsigned version: {hint}")
