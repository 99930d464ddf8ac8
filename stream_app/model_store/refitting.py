"""When to refit by itself, and when to promote what came of it: decided from what the topics say.

In: the history of versions, drift events, the wall clock. Out: the next step. Remembers: nothing: whoever is restarted
decides as before, since what was done stands on the models topic.

    a drift event of the live bundle -- settle --> refit --> shadow -- promote_after --> compared
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_app.model_store.history import History
from stream_app.model_store.pointers import Pointer

ON_DRIFT = "refit on drift"  # how the reason of such a version begins


@dataclass(frozen=True)
class Patience:
    """Of a refit on drift, in milliseconds of the wall clock. `promote_after` of None: a person promotes."""

    settle: int  # of the new normal to be collected after the event
    at_most: int  # between the beginnings of two refits
    promote_after: int | None = None  # in shadow; 0: at once, without one; None: a person promotes


@dataclass(frozen=True)
class Drifted:
    """The newest drift event of a bundle, by the time it was published."""

    bundle: str
    at_ms: int


@dataclass(frozen=True)
class Wait:
    """Nothing is to be done yet, for the reason given."""

    why: str


@dataclass(frozen=True)
class DoRefit:
    """Records from this Kafka timestamp on are of the new normal."""

    since_ms: int


@dataclass(frozen=True)
class Decide:
    """The shadow has run for long enough to be compared with the live version."""

    shadow: Pointer
    since_ms: int


Step = Wait | DoRefit | Decide


def next_step(history: History, name: str, drifted: list[Drifted], patience: Patience, now_ms: int) -> Step:
    """What to do now about the detector `name`. `drifted`: in the order of the topic."""
    shadow, live = history.shadow(name), history.live(name)
    if shadow is not None and is_ours(shadow) and patience.promote_after is not None:
        since_ms = shadow.history[-1].at_ms
        if now_ms >= since_ms + patience.promote_after:
            return Decide(shadow, since_ms)
        return Wait(f"{shadow.name} runs in shadow")
    if live is None:
        return Wait(f"no version of {name} is live")
    mine = [event for event in drifted if event.bundle == live.digest]
    if not mine:
        return Wait(f"{live.name} does not drift")
    made_ms = last_made_ms(history, name)
    fresh = [event for event in mine if event.at_ms > made_ms]
    if not fresh:
        return Wait(f"{live.name} was refitted since it drifted")
    since_ms = fresh[0].at_ms
    if now_ms < since_ms + patience.settle:
        return Wait(f"{live.name} drifts; collecting the new normal")
    if now_ms < made_ms + patience.at_most:
        return Wait(f"{live.name} drifts, but the last refit is too young")
    return DoRefit(since_ms)


def is_ours(pointer: Pointer) -> bool:
    """Whether the version came of a refit on drift."""
    return bool(pointer.history) and (pointer.history[0].reason or "").startswith(ON_DRIFT)


def last_made_ms(history: History, name: str) -> int:
    """When the newest version that came of a refit on drift was published; long ago where there is none."""
    return max((p.history[0].at_ms for p in history.versions(name).values() if is_ours(p)), default=-(2**62))
