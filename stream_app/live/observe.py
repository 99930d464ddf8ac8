"""How a worker is seen from outside: probes, and the log. What it counts is `stream_app.live.metrics`.

In: `Metrics`, and checks. Out: `/metrics` for Prometheus, `/livez` and `/readyz` for a supervisor, lines on stderr.
Remembers: nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stream_app.live.metrics import Metrics

Check = Callable[[], tuple[bool, str]]


class Probes:
    """A small local server. `alive` and `ready` name their checks; each gives whether it holds, and a word on it."""

    def __init__(self, metrics: Metrics, alive: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        self._metrics, self._alive, self._ready = metrics, alive, ready
        self._runner: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listens; gives the port, which the system chooses for 0. Raises OSError where it is taken."""
        from aiohttp import web

        async def metrics(_: Any) -> web.Response:
            body = generate_latest(self._metrics.registry)
            return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

        def probe(checks: Mapping[str, Check]) -> Any:
            async def answer(_: Any) -> web.Response:
                found = {name: check() for name, check in checks.items()}
                body = {name: {"ok": ok, "detail": detail} for name, (ok, detail) in found.items()}
                return web.json_response(body, status=200 if all(ok for ok, _ in found.values()) else 503)

            return answer

        application = web.Application()
        routes = {"/metrics": metrics, "/livez": probe(self._alive), "/readyz": probe(self._ready)}
        application.add_routes([web.get(path, answer) for path, answer in routes.items()])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


def start_log(verbose: bool = False) -> None:
    """Lines for a terminal, JSON otherwise, both on stderr. Libraries speak from warnings on, and without tracebacks
    unless `verbose`: what they mean for the user is said by us, in one sentence."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    stamp: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if not verbose:
        stamp.append(_without_traceback)
    stamp.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*stamp, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamp,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("worker").setLevel(logging.INFO)


def _without_traceback(_: Any, __: str, event: Any) -> Any:
    event.pop("exc_info", None)
    record = event.get("_record")
    if record is not None:
        record.exc_info = record.exc_text = None
    return event
