"""What may follow what: the pointers to append for a promotion, a shadow, a rollback.

In: the history, and what is wanted. Out: pointers, or an error in words. Remembers: nothing; no Kafka, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_app.errors import CheckFailed, ConfigurationError
from stream_app.model_store.history import History, live_at_ms
from stream_app.model_store.places import Reference
from stream_app.model_store.pointers import Pointer, State, Transition, with_state

WINDOWS = "windows"  # in a pointer's lineage: kind, length and stride, which all versions of a detector share


@dataclass(frozen=True)
class Wish:
    """`version`: None is the latest, or for a rollback the one that was live before. `forced`: why a gate is passed
    over. `reason`: for the record. `unless_since_ms`: nothing where a version went live since."""

    detector: str
    version: int | None = None
    at_ms: int = 0
    forced: str | None = None
    reason: str | None = None
    unless_since_ms: int | None = None


def promoted(history: History, wish: Wish) -> list[Pointer]:
    """The version goes live, and the one before it retires; nothing where it is live already.

    Raises CheckFailed without a passed gate, unless forced; ConfigurationError for what can't be.
    """
    chosen, live = _chosen(history, wish), history.live(wish.detector)
    if live is not None and (live.version == chosen.version or _is_over(wish, live)):
        return []
    if live is not None and chosen.version < live.version:
        words = f"{chosen.name} is older than {live.name}, which is live"
        raise ConfigurationError(
            f"{words}; the way back is tailrace models rollback {wish.detector} --to {chosen.version}"
        )
    check_alike(chosen, live)
    if wish.forced is None:
        _check_gate(chosen)
    reason = f"forced: {wish.forced}" if wish.forced else wish.reason
    retired = [] if live is None else [_moved(live, "retired", wish, f"{chosen.name} went live")]
    return [*retired, with_state(chosen, Transition("live", wish.at_ms, reason))]


def rolled_back(history: History, wish: Wish) -> list[Pointer]:
    """The version that was live before, or the one that is named, goes live again, and the present one retires."""
    live = _live(history, wish.detector)
    if _is_over(wish, live):
        return []
    target = previous(history, wish.detector) if wish.version is None else _chosen(history, wish)
    if target.version == live.version:
        return []
    if target.version > live.version:
        raise ConfigurationError(f"{target.name} is not older than {live.name}, which is live; promote it instead")
    check_alike(target, live)
    back = Transition("live", wish.at_ms, wish.reason or "rolled back", rolled_back_from=live.version)
    return [_moved(live, "retired", wish, wish.reason or f"rolled back to {target.name}"), with_state(target, back)]


def shadowed(history: History, wish: Wish) -> list[Pointer]:
    """The version runs in shadow, and the one that did is a candidate again."""
    chosen, present = _chosen(history, wish), history.shadow(wish.detector)
    if chosen.state == "live":
        raise ConfigurationError(f"{chosen.name} is live; a shadow is another version")
    if present is not None and present.version == chosen.version:
        return []
    check_alike(chosen, history.live(wish.detector))
    others = [] if present is None else [_moved(present, "candidate", wish, f"{chosen.name} went into shadow")]
    return [*others, _moved(chosen, "shadow", wish, wish.reason)]


def unshadowed(history: History, wish: Wish) -> list[Pointer]:
    """Nothing runs in shadow any more."""
    present = history.shadow(wish.detector)
    return [] if present is None else [_moved(present, "candidate", wish, wish.reason)]


def previous(history: History, detector: str) -> Pointer:
    """The newest version older than the live one that was live and was not itself rolled back from since.

    Raises ConfigurationError.
    """
    live, versions = _live(history, detector), history.versions(detector)
    for version in sorted(versions, reverse=True):
        at_ms = live_at_ms(versions[version])
        if version < live.version and at_ms is not None and _withdrawn_at_ms(history, versions[version]) < at_ms:
            return versions[version]
    raise ConfigurationError(f"no version before {live.name} was live; name one: --to VERSION")


def check_alike(chosen: Pointer, live: Pointer | None) -> None:
    """Raises ConfigurationError unless both cut the stream into the same windows: states are kept across a swap."""
    mine, theirs = chosen.lineage.get(WINDOWS), live.lineage.get(WINDOWS) if live else None
    if live is not None and mine != theirs:
        words = f"{chosen.name} has the windows {mine} and {live.name}, which is live, {theirs}"
        raise ConfigurationError(f"{words}; publish it under another detector's name")


def _is_over(wish: Wish, live: Pointer) -> bool:
    return wish.unless_since_ms is not None and (live_at_ms(live) or 0) > wish.unless_since_ms


def _live(history: History, detector: str) -> Pointer:
    live = history.live(detector)
    if live is None:
        raise ConfigurationError(f"no version of {detector} is live, so there is nothing to roll back")
    return live


def _chosen(history: History, wish: Wish) -> Pointer:
    versions = history.versions(wish.detector)
    return history.named(Reference(wish.detector, wish.version or max(versions, default=1)))


def _check_gate(chosen: Pointer) -> None:
    if chosen.gate is not None and chosen.gate.passed:
        return
    failed = [] if chosen.gate is None else [c for c in chosen.gate.checks if not c.passed]
    told = "; ".join(f"{c.name} is {c.value}, limit {c.limit}" for c in failed) or "no gate has looked at it"
    raise CheckFailed(f"{chosen.name} may not go live: {told}. --force --reason WHY passes over it, and is recorded")


def _moved(pointer: Pointer, state: State, wish: Wish, reason: str | None) -> Pointer:
    return with_state(pointer, Transition(state, wish.at_ms, reason))


def _withdrawn_at_ms(history: History, pointer: Pointer) -> int:
    """When the version was last rolled back from; -1 if never."""
    transitions = (t for p in history.versions(pointer.detector).values() for t in p.history)
    return max((t.at_ms for t in transitions if t.rolled_back_from == pointer.version), default=-1)
