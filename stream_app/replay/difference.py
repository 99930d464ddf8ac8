"""What two models said differently of the same records: alerts matched by entity and overlap.

In: alerts of A and of B. Out: `Change`s: same, added, lost, moved, changed. Remembers: nothing.

Of an entity's alerts those that overlap longest are matched first, each with at most one other. What B alone has is
*added*, what A alone has is *lost*. A pair whose first or last moment differs has *moved*; a pair with another cause
(reason or strongest sensor), or whose score lies above its threshold by another factor, has *changed*; both may be so.
Scores of two bundles have units of their own, so the factor is compared and not the score.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

SCORE_DIFFERS = 0.1  # of the factor above the threshold: a tenth is beyond rounding, and worth a look
KINDS = ("added", "lost", "moved", "changed", "same")
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One model's alert."""

    alert_id: str
    start: str
    end: str
    anomaly_score: float
    threshold: float
    factor: float | None  # score over threshold
    tail_probability: float | None
    reason: str
    sensor: str  # the strongest; empty where there is none
    opened: bool  # in the range; else before it

    @classmethod
    def of(cls, m: Message) -> Side:
        score, threshold = m["anomaly_score"], m["threshold"]
        factor = score / threshold if score is not None and threshold and threshold > 0 else None
        sensor = m["sensors"][0]["sensor"] if m["sensors"] else ""
        bounds = (m["alert_id"], m["data_start_time"], m["data_end_time"])
        return cls(*bounds, score, threshold, factor, m["tail_probability"], m["reason"], sensor, m["opened"])


@dataclass(frozen=True)
class Change:
    """An alert of A, of B, or of both. `kinds`: added, lost, or any of moved and changed, or same."""

    entity: str
    kinds: tuple[str, ...]
    a: Side | None
    b: Side | None
    start_moved_s: float | None = None  # B's less A's
    end_moved_s: float | None = None
    factor_ratio: float | None = None  # B's over A's
    cause: tuple[str, str] | None = None  # A's and B's, where they differ


@dataclass(frozen=True)
class Difference:
    """All changes, by entity and time."""

    changes: tuple[Change, ...]
    counts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"counts": self.counts, "alerts": [asdict(change) for change in self.changes]}


def difference(a: Iterable[Message], b: Iterable[Message]) -> Difference:
    """Compares the alerts of two models, one message each, as `merging.alerts_of` gives them."""
    ours, theirs = _by_entity(a), _by_entity(b)
    changes = [
        change for entity in sorted({*ours, *theirs}) for change in _entity(entity, ours[entity], theirs[entity])
    ]
    counts = Counter(kind for change in changes for kind in change.kinds)
    totals = {"a": sum(map(len, ours.values())), "b": sum(map(len, theirs.values()))}
    return Difference(tuple(changes), totals | {kind: counts[kind] for kind in KINDS})


def _by_entity(messages: Iterable[Message]) -> defaultdict[str, list[Side]]:
    found: defaultdict[str, list[Side]] = defaultdict(list)
    for m in messages:
        found[m["entity"]].append(Side.of(m))
    return found


def _entity(entity: str, ours: list[Side], theirs: list[Side]) -> list[Change]:
    pairs = _matched(ours, theirs)
    changes = [_pair(entity, ours[i], theirs[k]) for i, k in pairs.items()]
    changes += [Change(entity, ("lost",), side, None) for i, side in enumerate(ours) if i not in pairs]
    taken = set(pairs.values())
    changes += [Change(entity, ("added",), None, side) for k, side in enumerate(theirs) if k not in taken]
    return sorted(changes, key=_start)


def _start(change: Change) -> tuple[str, str]:
    side = change.a or change.b
    assert side is not None
    return side.start, side.alert_id


def _matched(ours: list[Side], theirs: list[Side]) -> dict[int, int]:
    """Which of theirs belongs to which of ours. Longest overlap first; of equal ones the earlier."""
    candidates = [
        (-overlap, a.start, b.start, i, k)
        for i, a in enumerate(ours)
        for k, b in enumerate(theirs)
        if (overlap := _overlap_s(a, b)) >= 0
    ]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for *_, i, k in sorted(candidates):
        if i not in pairs and k not in taken:
            pairs[i] = k
            taken.add(k)
    return pairs


def _overlap_s(a: Side, b: Side) -> float:
    """Seconds in common; negative where there is none. Tokens may share one time: then zero is an overlap."""
    gap = (min(_time(a.end), _time(b.end)) - max(_time(a.start), _time(b.start))).total_seconds()
    instant = a.start == a.end or b.start == b.end
    return gap if gap > 0 or (instant and gap == 0) else -1.0


def _pair(entity: str, a: Side, b: Side) -> Change:
    start, end = ((_time(y) - _time(x)).total_seconds() for x, y in ((a.start, b.start), (a.end, b.end)))
    ratio = b.factor / a.factor if a.factor and b.factor else None
    causes = (f"{a.reason} {a.sensor}".strip(), f"{b.reason} {b.sensor}".strip())
    cause = causes if causes[0] != causes[1] else None
    rescored = ratio is not None and abs(math.log(ratio)) > math.log1p(SCORE_DIFFERS)
    kinds = ("moved",) * bool(start or end) + ("changed",) * bool(rescored or cause)
    return Change(entity, kinds or ("same",), a, b, start, end, ratio, cause)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def write(found: Difference, out: Path) -> None:
    """diff.json, and diff.parquet with a row per alert or pair."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (out / "diff.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    rows = [_row(change) for change in found.changes]
    pq.write_table(pa.Table.from_pylist(rows, _schema()), out / "diff.parquet")


def _row(change: Change) -> dict[str, Any]:
    row: dict[str, Any] = {"entity": change.entity, "kinds": list(change.kinds)}
    row |= {name: getattr(change, name) for name in ("start_moved_s", "end_moved_s", "factor_ratio")}
    for name, side in (("a", change.a), ("b", change.b)):
        row |= {f"{name}_{field}": value for field, value in (asdict(side) if side else {}).items()}
    return row


def _schema() -> Any:
    import pyarrow as pa

    number = dict.fromkeys(("start_moved_s", "end_moved_s", "factor_ratio"), pa.float64())
    kinds = {"str": pa.string(), "float": pa.float64(), "float | None": pa.float64(), "bool": pa.bool_()}
    sides = {f"{s}_{f.name}": kinds[str(f.type)] for s in "ab" for f in Side.__dataclass_fields__.values()}
    return pa.schema({"entity": pa.string(), "kinds": pa.list_(pa.string())} | number | sides)
