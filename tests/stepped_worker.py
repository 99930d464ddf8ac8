"""`plain_worker.py` under a wall clock that is an hour ahead, right, an hour behind and right again in turn.

Takes the same arguments. The monotonic clock is what it always is, as when an operator sets the time.
"""

from __future__ import annotations

import sys
import time

EVERY_S = 0.7
_real_s, _real_ns, _began = time.time, time.time_ns, time.monotonic()


def _off_s() -> int:
    return (3_600, 0, -3_600, 0)[int((time.monotonic() - _began) / EVERY_S) % 4]


def main() -> int:
    # Before anything is imported that could keep the clock as it was.
    time.time = lambda: _real_s() + _off_s()
    time.time_ns = lambda: _real_ns() + _off_s() * 1_000_000_000
    import plain_worker

    return plain_worker.main()


if __name__ == "__main__":
    sys.exit(main())
