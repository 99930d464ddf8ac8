"""A work folder: steps that leave a file or a folder each, so that what was finished before a kill is not done again.

In: a folder. Out: results, made now or found. Remembers: what was finished, on disk.

A step writes beside and renames: what stands under its name is whole. A kill at any moment costs the step under way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_app.errors import ConfigurationError, UsageError

ORDER, FINISHED = "order.json", "finished.json"


@dataclass(frozen=True)
class Work:
    """The folder of one order."""

    folder: Path
    say: Callable[[str], None]

    @classmethod
    def begin(cls, folder: Path, order: dict[str, Any], resume: bool, say: Callable[[str], None]) -> Work:
        """A folder for the order: that of a run that was cut short if `resume`, else an empty one. A run that has
        finished is not resumed but followed by a new one.

        Raises UsageError where a run of another order lies there to be resumed, or the folder is somebody's.
        """
        work = cls(folder, say)
        there = work.read(ORDER)
        if folder.exists() and there is None and any(folder.iterdir()):
            raise UsageError(f"{folder} exists and is no folder of a refit; name another: --out")
        if resume and (there is None or work.read(FINISHED) is not None):
            say(f"nothing to resume in {folder}: begun anew")
            resume = False
        if resume and there is not None and there != order:
            changed = sorted(name for name in order | there if order.get(name) != there.get(name))
            raise UsageError(f"{folder} holds a run with other options ({', '.join(changed)}); leave out --resume")
        if there is not None and not resume:
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ConfigurationError(f"{folder}: {problem.strerror}") from problem
        return cls(folder, say) if resume and there else work._ordered(order)

    def json(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The step whose result is a JSON file."""
        found = self.read(name)
        if found is None:
            found = make()
            self._write(name, found)
        else:
            self.say(f"{name} is there already")
        return found

    def path(self, name: str, make: Callable[[Path], None]) -> Path:
        """The step whose result is a file or a folder; `make` is given where to write."""
        path, draft = self.folder / name, self.folder / f".{name}"
        if path.exists():
            self.say(f"{name} is there already")
            return path
        if draft.is_dir():
            shutil.rmtree(draft)
        make(draft)
        draft.rename(path)
        return path

    def finish(self) -> None:
        """Nothing is left to be done, for better or worse."""
        self._write(FINISHED, {"finished": True})

    def read(self, name: str) -> dict[str, Any] | None:
        """What a finished step left; None where it did not finish."""
        try:
            found = json.loads((self.folder / name).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _ordered(self, order: dict[str, Any]) -> Work:
        self._write(ORDER, order)
        return self

    def _write(self, name: str, data: dict[str, Any]) -> None:
        draft = self.folder / f".{name}"
        draft.write_text(json.dumps(data, indent=1) + "\n")
        draft.rename(self.folder / name)
