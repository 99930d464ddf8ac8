"""Memory: what arrays leave stays with the process, and garbage is rarely looked for.

In: nothing. Out: nothing. Remembers: glibc and Python do.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_... of malloc.h
KEPT_BYTES, MAPPED_BYTES = 1 << 30, 32 << 20  # the latter is the largest that glibc takes; more is refused in silence
# Records live until their batch is done: looking for garbage after every 700 of them, as is usual, finds none.
GARBAGE_AFTER = 50_000


def keep_freed_memory(large: bool = False) -> None:
    """Has glibc keep what one batch leaves for the next: giving it back and having it cleared anew costs more than the
    arithmetic on it. Where there is another C library nothing happens.

    large: arrays of 128 kB and more as well, which glibc maps one by one. It pays in `detect`; of a worker, with its
    several threads, scoring took a tenth more processor time.
    """
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        if large:
            mallopt(MMAP_THRESHOLD, MAPPED_BYTES)


def seek_garbage_seldom() -> None:
    """What is there now is never looked at again, and what comes rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, 20, 20)
