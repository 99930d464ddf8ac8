"""The parts of a replay, side by side in processes of their own.

In: parts that are not done yet. Out: their folders. Remembers: which process does which part.

A process is given one part after the other on its standard input and says on its output how far it is. It ends when
its input does, so none outlives a replay that was killed. As a module this is that process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from stream_app.errors import BrokerUnreachable, ConfigurationError, TailraceError, UsageError
from stream_app.replay.bundles import Used
from stream_app.replay.parts import Part, Place, run_part

_TOLD_EVERY = 50_000  # records; more often nobody could read
_ERRORS: dict[int, type[TailraceError]] = {2: UsageError, 3: ConfigurationError, 4: BrokerUnreachable}


@dataclass(frozen=True)
class Shared:
    """What every process is started with: where the configuration is, and where the parts go. No secrets: a process
    reads them as its parent did."""

    topic: str
    folder: str
    config: str | None = None
    brokers: str | None = None
    processes: int = 1  # that share the machine's cores


async def run_parts(shared: Shared, parts: list[Part], processes: int, tell: Callable[[int], None]) -> None:
    """Does all parts, the largest first. `tell` hears how many records have been read in all. Raises TailraceError."""
    waiting = sorted(parts, key=lambda part: part.slice.warm_up - part.slice.end)
    read: dict[str, int] = {}

    def progressed(name: str, n: int) -> None:
        read[name] = n
        tell(sum(read.values()))

    workers = [asyncio.ensure_future(_worker(shared, waiting, progressed)) for _ in range(min(processes, len(parts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _worker(shared: Shared, waiting: list[Part], progressed: Callable[[str, int], None]) -> None:
    """One process, until no part is waiting."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # more threads would add in another order
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name, json.dumps(asdict(shared)), stdin=pipe, stdout=pipe, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while waiting:
            part = waiting.pop(0)
            process.stdin.write(json.dumps(asdict(part)).encode() + b"\n")
            await process.stdin.drain()
            await _follow(process.stdout, part, progressed)
        process.stdin.close()
        await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _follow(lines: asyncio.StreamReader, part: Part, progressed: Callable[[str, int], None]) -> None:
    """Until the part is done."""
    async for line in lines:
        said = json.loads(line)
        if "error" in said:
            raise _ERRORS.get(said["code"], TailraceError)(said["error"])
        progressed(part.name, said["read"])
        if said["done"]:
            return
    raise TailraceError(f"the process that replayed partition {part.slice.partition} ended; run the command again")


# --- the process ----------------------------------------------------------------------------------------------------


def main(shared: Shared) -> NoReturn:
    """Does the parts that come on standard input, until it ends."""
    from models import threads
    from models.detector import Detector
    from models.memory import keep_freed_memory, seek_garbage_seldom
    from stream_app.cli.connection import connection
    from stream_app.files.arrow_alone import load_arrow_alone
    from stream_app.opening import open_bundle
    from stream_app.replay.folder import quiet_of
    from stream_app.replay.settings import of_topic

    load_arrow_alone()
    keep_freed_memory()
    seek_garbage_seldom()
    threads.allow(max(1, threads.cores() // shared.processes))
    folder = Path(shared.folder)
    config = of_topic(connection(Path(shared.config) if shared.config else None, shared.brokers), shared.topic)
    opened: dict[str, Detector] = {}

    def detector(used: Used) -> Detector:
        if used.path not in opened:
            opened[used.path] = open_bundle(Path(used.path), used.digest)
        return opened[used.path]

    asyncio.run(_work(Place(config, shared.topic, folder, detector, quiet_of(folder))))


async def _work(place: Place) -> NoReturn:
    """One consumer reads all parts: to begin one takes longer than a small part."""
    from stream_app.live.topic_batches import consumer_of

    parts = _parts()
    async with consumer_of(place.config) as consumer:
        while True:
            part = await asyncio.to_thread(next, parts)
            await run_part(place, part, consumer, _teller(part))
            _say(read=part.slice.end - part.slice.warm_up, done=True)


def _parts() -> Iterator[Part]:
    """Parts as they come. A thread waits for them, so that the end of the input ends a part amid its work."""
    ready = threading.Semaphore(0)
    found: list[Part] = []

    def listen() -> None:
        for line in sys.stdin:
            found.append(Part.of(json.loads(line)))
            ready.release()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        ready.acquire()
        yield found.pop(0)


def _teller(part: Part) -> Callable[[int], None]:
    told = [0]

    def tell(n: int) -> None:
        if n - told[0] >= _TOLD_EVERY:
            told[0] = n
            _say(read=n, done=False)

    return tell


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    try:
        main(Shared(**json.loads(sys.argv[1])))
    except TailraceError as problem:
        _say(error=str(problem), code=problem.exit_code)
    except Exception as problem:  # the parent tells it, as it tells its own
        if os.environ.get("TAILRACE_DEBUG"):
            raise
        _say(error=f"unexpected {type(problem).__name__}: {problem}; TAILRACE_DEBUG=1 shows where", code=1)
