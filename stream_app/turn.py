"""A turn: a batch each of several partitions in one step; the detector is asked about all their windows at once.

In: pipelines with their batches. Out: a `Result` each. Remembers: nothing.

Windows of all entities close at the same moments, whatever the partition. Asking about them together costs little more
than asking about those of one, and gives the same: a score does not depend on the other windows in its call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from models.detector import Frames, Scored
from models.scenes import Scenes, join_scenes
from stream_app.judging import Judging, Rated, Result
from stream_app.pipeline import Cut, Pipeline, Unjudged
from stream_app.samples import RawBatch
from stream_app.scoring import COLUMNS, Carried


def step(work: Sequence[tuple[Pipeline, RawBatch]]) -> list[Result]:
    """The next batch of each pipeline, as its own `step` takes it. No pipeline comes twice."""
    if len(work) == 1:
        return [work[0][0].step(work[0][1])]
    cuts = [(pipeline, pipeline.cut(batch)) for pipeline, batch in work]
    unjudged = _score(cuts)
    return [pipeline.judge(part) for (pipeline, _), part in zip(cuts, unjudged, strict=True)]


@dataclass(frozen=True)
class _Asked:
    """Windows of one pipeline, and its entities' rows."""

    judges: Judging
    scenes: Scenes
    given: Carried

    @classmethod
    def of(cls, judges: Judging, scenes: Scenes) -> _Asked:
        return cls(judges, scenes, judges.scoring.carried(scenes))


def _score(cuts: Sequence[tuple[Pipeline, Cut]]) -> list[Unjudged]:
    """As each pipeline's own `score`, with as few calls of the detector as there are detectors."""
    shared: dict[int, list[int]] = {}  # by detector: who has windows for it, each entity's in one part
    for i, (pipeline, cut) in enumerate(cuts):
        if pipeline.judges is not None and len(cut.parts) == 1 and len(cut.parts[0]):
            shared.setdefault(id(pipeline.judges.scoring.detector), []).append(i)
    rated: dict[int, Rated] = {}
    for mine in shared.values():
        asked = [_Asked.of(judges, cuts[i][1].parts[0]) for i in mine if (judges := cuts[i][0].judges) is not None]
        if len(asked) > 1 and (told := _together(asked)) is not None:
            rated.update(zip(mine, told, strict=True))
    return [
        Unjudged(cut.letters, (rated[i],), cut.over, cut.heard) if i in rated else pipeline.score(cut)
        for i, (pipeline, cut) in enumerate(cuts)
    ]


def _together(asked: list[_Asked]) -> list[Rated] | None:
    """What one call says of them; None where it fails: then each is asked for alone, and one window fails alone."""
    first = np.cumsum([0, *(len(a.given.slots) for a in asked)]).tolist()  # numbers for the entities of all, in turn
    moved = [
        replace(a.scenes, entity=(np.searchsorted(a.given.slots, a.scenes.entity) + n).astype(np.int32))
        for a, n in zip(asked, first, strict=False)
    ]
    detector, rows = asked[0].judges.scoring.detector, np.concatenate([a.given.rows for a in asked])
    try:
        scored = detector.score(join_scenes(moved), rows)
    except Exception:
        return None
    windows = np.cumsum([0, *(len(a.scenes) for a in asked)]).tolist()
    rated = []
    for k, a in enumerate(asked):
        mine = _part(scored, slice(*windows[k : k + 2]), slice(*first[k : k + 2]))
        own = replace(mine, frames=replace(mine.frames, entity=a.given.slots[mine.frames.entity - first[k]]))
        rated.append(a.judges.rated(a.scenes, a.judges.scoring.absorb(own, a.scenes, a.given)))
    return rated


def _part(scored: Scored, windows: slice, entities: slice) -> Scored:
    """What was said of some neighbouring entities, with their windows."""
    frames = scored.frames
    at = slice(*np.searchsorted(frames.entity, [entities.start, entities.stop]).tolist())
    return Scored(
        **{name: getattr(scored, name)[windows] for name in COLUMNS},
        frames=Frames(*(getattr(frames, f.name)[at] for f in fields(Frames))),
        carry=scored.carry[entities],
        explain=lambda i: scored.explain(windows.start + i),
        left_out=scored.left_out[windows] if scored.left_out is not None else None,
    )
