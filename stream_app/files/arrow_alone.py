"""Arrow alone: pyarrow without pandas, for commands that have no use for it.

In: nothing. Out: nothing. Remembers: pyarrow does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Absent:
    """Finds no pandas, and leaves everything else to those after it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Raises ImportError for pandas."""
        if name == "pandas":
            raise ImportError("not while pyarrow looks for it")
        return None


def load_arrow_alone() -> None:
    """Loads pyarrow, and lets it find no pandas.

    With the first Python value that becomes one of Arrow's it loads pandas where that is installed, half a second,
    only to ask whether the value is one of pandas'. It looks once; who imports pandas later has it, and it then works
    with pyarrow as ever.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _Absent)
    try:
        pa.scalar(0)
    finally:
        sys.meta_path.remove(_Absent)
