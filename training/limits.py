"""What a detector of sensors can't see, by how much it was given to learn from; said in words, with the numbers.

In: facts about the data and the detector. Out: sentences. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
PATTERNS = (("daily", "days", DAY_S), ("weekly", "weeks", 7 * DAY_S))
TIMES_SEEN = 3  # a pattern seen fewer times can't be told from chance
ENTITIES_FEW = 3
WINDOWS_FEW = 1_000  # below it fewer than ten windows show what a risk of 1 % is
CLUSTERS_NOISY = 0.4  # of the training windows in no cluster: the clusters say little


@dataclass(frozen=True)
class Given:
    """span_s: event time that the data cover; window_s: what is looked at in one piece."""

    span_s: float
    entities: int
    window_s: float
    held_out: int  # windows
    risk: float
    noise: float  # share of the training windows


def sensor_limits(given: Given) -> Iterator[str]:
    """A sentence for each thing that more or other data would mend."""
    for name, unit, period_s in PATTERNS:
        if given.span_s < TIMES_SEEN * period_s:
            yield (
                f"A {name} pattern needs {TIMES_SEEN} {unit} of data; you gave {spoken(given.span_s)}: what is usual "
                "at one time of it and not at another is not told apart."
            )
    yield (
        f"It looks at {spoken(given.window_s)} at once: what changes more slowly is followed by the threshold, and "
        "told as drift, not as an alert."
    )
    if given.held_out * given.risk < 1:
        yield (
            f"{given.held_out:,} held-out windows can't show whether 1 alarm in {1 / given.risk:,.0f} windows is kept; "
            "tail probabilities beyond them are extrapolated."
        )
    if given.entities < ENTITIES_FEW:
        yield (
            f"It was trained on {of_entities(given.entities)}: how far others may differ is not known, "
            "so a new one is warming until its own windows have set its threshold."
        )
    if given.noise > CLUSTERS_NOISY:
        yield (
            f"{given.noise:.0%} of the training windows belong to no known behaviour: clusters name the rest, and an "
            "alert's cluster says little. The score does not need them."
        )


def of_entities(n: int) -> str:
    """So many, in words."""
    return "1 entity" if n == 1 else f"{n:,} entities"


def few_windows(n: int, stride_s: float | None = None) -> str:
    """A warning for whoever trains on so few windows, of time a stride each.

    >>> few_windows(150, 9.0)
    'warning: 150 windows are few: how often it alarms is extrapolated; 1,000 (2.5 hours of data) or more would show it'
    """
    wanted = f" ({spoken(WINDOWS_FEW * stride_s)} of data)" if stride_s else ""
    return (
        f"warning: {n:,} windows are few: how often it alarms is extrapolated; {WINDOWS_FEW:,}{wanted} or more would "
        "show it"
    )


def spoken(seconds: float) -> str:
    """A duration in its largest unit that is not below two.

    >>> spoken(172_800), spoken(90), spoken(0.5)
    ('2 days', '90 seconds', '0.5 seconds')
    """
    for name, size in (("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"
