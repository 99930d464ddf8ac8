"""Promotions and rollbacks that the control topic orders: a worker that hears of one carries it out.

In: messages of the control topic. Out: pointers on the models topic, or a line in the log that says why not. Remembers:
the orders it knows. Those that were there when the worker started are not its own: they were carried out, or nobody
was there to do it.

Every worker of the group hears an order. The first carries it out, and for the others a version has gone live since.
An order can't pass over a gate; `tailrace models promote --force` can, and its author needs the right to do so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from stream_app.config import Config
from stream_app.errors import ConfigurationError, TailraceError
from stream_app.intervals import Message, body_of
from stream_app.model_store.history import History
from stream_app.model_store.places import reference
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import promote, rollback

log = structlog.get_logger("worker")

COMMANDS = ("promote", "rollback")


class Promotions:
    """What one worker does of them. A worker whose model is a folder, or one version, has none to do."""

    def __init__(self, config: Config, known: Iterable[Message]) -> None:
        self._config = config
        wanted = reference(config.model)
        self._detector = wanted.detector if wanted is not None and wanted.which == "live" else None
        self._known = set(known)

    async def carry_out(self, heard: Iterable[Message]) -> None:
        """Does what is new among the messages, each once."""
        for message in heard:
            if message not in self._known:
                self._known.add(message)
                body = body_of(message.value)
                if body is not None and self._concerns(body):
                    await self._try(body, message.t_us // 1000)

    def _concerns(self, body: Mapping[str, Any]) -> bool:
        ours = self._detector is not None and body.get("detector") == self._config.detector
        return ours and str(body.get("command")) in COMMANDS

    async def _try(self, body: Mapping[str, Any], said_ms: int) -> None:
        said = {name: body.get(name) for name in ("command", "bundle", "by")}
        try:
            done = await self._do(body, said_ms)
        except TailraceError as problem:
            log.error("an order can't be carried out", **said, why=str(problem))
        else:
            log.info("order carried out", **said, live=done.name)

    async def _do(self, body: Mapping[str, Any], said_ms: int) -> Pointer:
        assert self._detector is not None
        reason = f"ordered by {body.get('by')}: {body.get('comment') or 'no comment'}"
        at_ms = max(time.time_ns() // 1_000_000, said_ms + 1)  # whoever said it, its clock may be ahead
        wish = Wish(self._detector, at_ms=at_ms, reason=reason, unless_since_ms=said_ms)
        if body["command"] == "rollback":
            return await rollback(self._config, wish)
        version = _version_of(await read_pointers(self._config), self._detector, body.get("bundle"))
        return await promote(self._config, replace(wish, version=version))


def _version_of(history: History, detector: str, digest: Any) -> int:
    for version, pointer in history.versions(detector).items():
        if pointer.digest == digest:
            return version
    raise ConfigurationError(f"no version of {detector} has the bundle {digest!r}; tailrace models list shows them")
