"""The folder that a replay writes into: whose it is, what is in it, and whether a replay that was killed can go on.

In: what is asked for. Out: the plan to work on. Remembers: nothing that is not in the folder.

    DIR/replay.json            the header (when, how fast), the range, the models, what must be known; written last
    DIR/scores.parquet ...     with one model: what `tailrace detect` writes
    DIR/a/ DIR/b/              with two: the same for each
    DIR/diff.json diff.parquet what differs between them
    DIR/report.html ...        to be read by people
    DIR/.replay/               while it runs: the plan, states it begins with, and a folder per part
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stream_app.errors import UsageError
from stream_app.intervals import Interval
from stream_app.quiet import Quiet
from stream_app.replay.finding import Plan
from stream_app.replay.history import STATES
from stream_app.replay.merging import NAMES

WORK, PLAN, HEADER = ".replay", "plan.json", "replay.json"
_KEPT = ("lock", STATES)  # when another replay begins: what it has found already
_OURS = {*NAMES, "a", "b", "diff.json", "diff.parquet", "report.html", "report.json", "report", HEADER, WORK}


@contextmanager
def held(out: Path) -> Iterator[None]:
    """The folder, made where it is missing, and ours alone. Raises UsageError where it is somebody else's."""
    _must_be_free(out)
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with (out / WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another replay is writing into {out}; wait for it, or name another folder") from None
        yield


def begun(out: Path, request: dict[str, Any]) -> Plan | None:
    """The plan of a replay that was asked for in the same words and did not finish."""
    try:
        kept = json.loads((out / WORK / PLAN).read_text())
        return Plan.of(kept["plan"]) if kept["request"] == request else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def quiet_of(work: Path) -> Quiet:
    """In which times nothing is learned, as the control topic told it when the replay began; `work`: its own folder."""
    return Quiet([Interval(**one) for one in json.loads((work / PLAN).read_text())["quiet"]])


def begin(out: Path, request: dict[str, Any], plan: Plan, quiet: Sequence[Interval]) -> None:
    """Removes what an earlier replay left, and keeps for the case that this one is killed what may change meanwhile."""
    for path in out.iterdir():
        if path.name != WORK:
            _remove(path)
    for path in (out / WORK).iterdir():
        if path.name not in _KEPT:
            _remove(path)
    unfinished = out / WORK / f"{PLAN}.unfinished"
    kept = {"request": request, "plan": plan.as_dict(), "quiet": [asdict(one) for one in quiet]}
    unfinished.write_text(json.dumps(kept))
    unfinished.rename(out / WORK / PLAN)


def finish(out: Path, header: dict[str, Any]) -> None:
    """Writes the header, and removes what only a restart would need."""
    (out / HEADER).write_text(json.dumps(header, indent=1) + "\n")
    shutil.rmtree(out / WORK)


def is_finished(out: Path) -> bool:
    """Whether a whole replay lies there."""
    return (out / HEADER).exists()


def _must_be_free(out: Path) -> None:
    """A folder of an earlier replay may be replaced; anything else is somebody's."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    names = {path.name for path in out.iterdir()}
    if names and not ((names & {HEADER, WORK}) and names <= _OURS):
        foreign = sorted(names - _OURS)[:3] or sorted(names)[:3]
        raise UsageError(f"{out} holds something that is no replay ({', '.join(foreign)}); name another folder")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
