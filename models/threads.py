"""Threads: how many of a process's cores one call of a detector may use.

In: independent pieces of one computation. Out: their results, in order. Remembers: what this process was allowed.

One, unless a command says otherwise: a worker scores several partitions side by side as it is. The pieces are the same
whatever is allowed, and each is computed by one thread alone, so results are the same to the last bit. That holds where
libraries keep to one thread (OMP_NUM_THREADS=1); several of theirs and several of ours would also wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from models.memory import keep_freed_memory

P = TypeVar("P")
R = TypeVar("R")
_pool: ThreadPoolExecutor | None = None


def allow(n: int) -> None:
    """From now on calls in this process may use so many cores."""
    global _pool
    _pool = ThreadPoolExecutor(n, thread_name_prefix="detector") if n > 1 else None


def use_all_cores() -> None:
    """For commands that have the machine to themselves."""
    keep_freed_memory()
    allow(cores())


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(what: Callable[[P], R], pieces: Iterable[P]) -> list[R]:
    """What becomes of each piece, in their order. `what` may not call `each` again: it would wait for itself."""
    if _pool is None:
        return [what(piece) for piece in pieces]
    return list(_pool.map(what, pieces))
