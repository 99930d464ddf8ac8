"""Memory: what arrays leave stays with the process, and garbage is rarely looked for.

In: nothing. Out: nothing. Remembers: glibc and Python do.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_... of malloc.h
KEPT_BYTES = 2**31 - 1
MAPPED_BYTES = (1 << 30, 32 << 20)  # the first that this glibc takes: some refuse more than 32 MB, in silence
# Records live until their batch is done: looking for garbage after every 700 of them, as is usual, finds none.
GARBAGE_AFTER = 50_000


def keep_freed_memory() -> None:
    """Has glibc keep what one batch leaves for the next: giving it back and having it cleared anew costs more than the
    arithmetic on it. Where there is another C library nothing happens."""
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        any(mallopt(MMAP_THRESHOLD, n_bytes) for n_bytes in MAPPED_BYTES)


def seek_garbage_seldom() -> None:
    """What is there now is never looked at again, and what comes rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, 20, 20)
