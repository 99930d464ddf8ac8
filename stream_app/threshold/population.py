"""Where the threshold stage's state starts: its layout, and the tail of the population an entity borrows at first.

In: scores of entities of one kind, at training. Out: plain arrays for the bundle, and the state row of an entity never
seen. Remembers: nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.scenes import F32, F64, I64, Bool
from models.tail import (
    SCALE_WITHOUT_EXCESSES,
    Tail,
    busiest_rate,
    cluster_maxima,
    fit_tail,
    initial_threshold,
    thinned,
)
from stream_app.keys import Row

RING = 256  # peaks kept: with a cluster in 100 values a memory of 25,600 values
Ring = F32
HORIZON = 128  # of level and scale; with 256 a daily pattern of the level alarms 3.7 times too often at 1e-4
HORIZON_MAX = 512  # theirs where scores remember for long: with 128 the level follows a fault's slow rise, and hides it
MEMORIES = 20  # correlation times in a horizon
MEMORY_VALUES = 100  # of an entity, to tell its scores' correlation time
HORIZON_LONG = 4_000  # of the scale's floor, and of the initial threshold's own rate
HORIZON_YOUNG = 400  # the initial threshold's while it has seen few values
HEAD_START = 0.5  # of a horizon: what a level not learned from the entity itself is worth
FEWEST_SCORES = 50  # of a population: below it there is no tail to borrow
OFTEN_ABOVE = 5e-3  # risks above it need clusters that are more frequent than one in 100 values
RARE, OFTEN = 0.01, 0.025  # clusters per value
BUSY_MAX = 0.2  # rate times gap: denser clusters run into each other
FORM = "form"  # of a population: the rates of clusters its scores can have in both regimes, and their horizon
NEAR_START, FAR_START = 5.0, 2.0

SETTLING, GATHERING, CONTINUOUS, DISCRETE = 0.0, 1.0, 2.0, 3.0
NONE, SHOWN, HELD, GRAVE = 0.0, 1.0, 2.0, 3.0


class Columns(NamedTuple):
    """The state of `k` entities, or of one, column by column; all float64, so that a row is bytes."""

    # what a value is judged by
    level: F64
    scale: F64  # mean absolute deviation from the level
    initial: F64  # initial threshold u, in units of the scale above the level; infinite while there is none
    tail_scale: F64
    tail_shape: F64
    margin: F64  # added to the depth an alarm needs; bounded feedback
    guard: F64  # excess seen too often to be an alarm
    start_rate: F64  # of clusters; judges discrete scores
    n_peaks: F64
    mode: F64  # SETTLING: no level yet; GATHERING: no tail yet; CONTINUOUS; DISCRETE
    age: F64  # values learned from, with those that the borrowed tail is worth
    borrowed: F64  # of which borrowed; 0: no population

    # the open cluster, in values judged
    seen: F64  # values judged
    cluster_end: F64  # the number of values at which it ends if nothing exceeds until then; infinite: none is open
    piece_start: F64
    peak: F64
    piece_alarmed: F64
    episode: F64  # NONE, SHOWN, HELD back while warming, or GRAVE: shown, and known to be far from normal
    begun: F64  # when the episode began
    shown: F64  # episodes shown

    # what learning needs
    scale_long: F64
    near_tokens: F64
    far_tokens: F64
    fatigue: F64
    head: F64  # where in the ring the next peak goes
    unfitted: F64  # peaks since the last fit
    ties: F64  # share of values equal to their predecessor
    last: F64
    run: F64  # values equal to the last, in a row
    largest: F64
    largest_rate: F64  # share of values equal to the largest so far


BOOKS = slice(Columns._fields.index("seen"), Columns._fields.index("scale_long"))  # kept up to date when nothing is fed
N_COLUMNS = len(Columns._fields)
LAYOUT = np.dtype([(name, np.float64) for name in Columns._fields] + [("ring", np.float32, RING)])


@dataclass(frozen=True)
class Settings:
    """What follows from the risk (episodes per window) and the number of windows that share a sample."""

    risk: float
    rate: float  # of clusters per value, which the initial threshold keeps
    gap: int  # values without an exceedance that end a cluster
    horizon: float = HORIZON  # of level and scale

    @classmethod
    def of(cls, risk: float, overlap: int = 1, tail: dict[str, Any] | None = None) -> Settings:
        """rate 0.01, gap 16, or 0.025 and 8 for large risks; windows that overlap are one cluster: gap >= overlap.

        A population whose scores remember for long has lower rates and a longer horizon.
        """
        rare, often, horizon = np.asarray((tail or {}).get(FORM, (RARE, OFTEN, HORIZON)), np.float64).tolist()
        rate, gap = (often, 8) if risk > OFTEN_ABOVE else (rare, 16)
        return cls(risk, max(rate, 1.25 * risk), max(gap, min(overlap, int(BUSY_MAX / rate))), horizon)

    @property
    def head_start(self) -> float:
        """Values that the level has been learned from, as it were, before the first."""
        return HEAD_START * self.horizon

    @property
    def regime(self) -> str:
        return "often" if self.risk > OFTEN_ABOVE else "rare"

    @property
    def piece(self) -> int:
        """The length at which a cluster is cut for the books, so that a lasting change reaches the tail."""
        return int(0.6 / self.rate)

    @property
    def depth(self) -> float:
        """Of an alarm, without the margin: -ln risk."""
        return -math.log(self.risk)


def initial(tail: dict[str, Any], risk: float = 1e-3) -> Row:
    """The row of an entity never seen, [1]: the population's tail of the risk's regime, or nothing where there is none.

    tail: what `fit_population` gave, or {}.
    """
    row = np.zeros(1, LAYOUT)
    row["scale"], row["initial"], row["largest"], row["last"] = 1.0, np.inf, -np.inf, np.nan
    row["near_tokens"], row["far_tokens"], row["cluster_end"] = NEAR_START, FAR_START, np.inf
    packed = tail.get(Settings.of(risk).regime)
    if packed is not None:
        values = np.asarray(packed, np.float64)
        for name, value in zip(BORROWED, values[: len(BORROWED)], strict=True):
            row[name] = value
        ring = values[len(BORROWED) :]
        row["ring"][0, : len(ring)] = ring
        row["n_peaks"], row["head"], row["mode"] = len(ring), len(ring) % RING, CONTINUOUS
        row["age"] = row["borrowed"]
    return row


BORROWED = ("level", "scale", "scale_long", "initial", "tail_scale", "tail_shape", "ties", "borrowed")


def fit_population(scores: F64, entity: I64, overlap: int = 1) -> dict[str, Any]:
    """The tail that entities of one kind share, as plain arrays for a bundle; {} where the scores are too few.

    scores [n], entity [n]: any numbers; values of one entity are in order. Every entity is taken to begin as one never
    seen: at the population's level and scale, from which its own are learned. Scores that are not finite are left out.
    """
    fine = np.isfinite(scores)
    order = np.argsort(entity[fine], kind="stable")
    x, who = scores[fine][order], entity[fine][order]
    level = float(np.median(x)) if len(x) else 0.0
    scale = float(np.abs(x - level).mean()) if len(x) else 0.0
    if len(x) < FEWEST_SCORES or scale == 0:
        return {}
    horizon = float(np.clip(MEMORIES * _memory(x, who), HORIZON, HORIZON_MAX))
    residual, begins = _residuals(x, who, (level, scale), horizon)
    ties = float(np.mean((np.diff(x) == 0) & ~begins[1:]))
    start = (level, scale, float(np.minimum(np.abs(x - level), 30 * scale).mean()))
    at = np.arange(len(residual)) + (HORIZON + 1) * np.cumsum(begins)
    rates = [float(np.clip(busiest_rate(residual, at, gap) / 2, low, most)) for low, most, gap in _REGIMES]
    found: dict[str, Any] = {FORM: np.array([*rates, horizon])}
    for s in (Settings.of(1e-3, overlap, found), Settings.of(1e-2, overlap, found)):
        found[s.regime] = _pack(residual, begins, s, (start, ties))
    return found


# Rates of clusters, lowest and highest, and the gap: no regime's lowest is too low for the largest risk in it.
_REGIMES = ((1.25 * OFTEN_ABOVE, RARE, 16), (OFTEN / 2, OFTEN, 8))


def _memory(x: F64, entity: I64) -> float:
    """Values after which scores' autocorrelation is below 1/e, the median over entities of some length; 0: none is."""
    begins = np.flatnonzero(np.diff(entity, prepend=entity[:1] - 1))
    found = [
        _correlation_time(own) for own in np.split(x, begins[1:]) if len(own) >= MEMORY_VALUES and own.max() > own.min()
    ]
    return float(np.median(found)) if found else 0.0


def _correlation_time(x: F64) -> int:
    spread = 5 * float(x.std())
    centred = np.clip(x - x.mean(), -spread, spread)  # one burst is not how scores usually move
    n = len(centred)
    spectrum = np.fft.rfft(centred, 2 * n)
    acf = np.fft.irfft(spectrum * np.conj(spectrum))[: n // 2]
    below = np.flatnonzero(acf < acf[0] / math.e)
    return int(below[0]) if len(below) else n // 2


def _pack(residual: F64, begins: Bool, settings: Settings, start: tuple[tuple[float, float, float], float]) -> F64:
    """One regime's array: BORROWED, then the peaks."""
    # Entities lie a gap apart, so that no cluster spans two.
    at = np.arange(len(residual)) + (settings.gap + 1) * np.cumsum(begins)
    threshold = initial_threshold(residual, at, settings.rate, settings.gap)
    peaks = cluster_maxima(residual, at, threshold, settings.gap)
    owner = np.cumsum(begins, dtype=np.int64)[residual > threshold]
    tail = fit_tail(peaks) if len(peaks) else Tail(0.1, SCALE_WITHOUT_EXCESSES)
    kept = min(len(peaks), RING, _worth(residual - threshold, owner, np.cumsum(begins, dtype=np.int64)))
    ring = thinned(peaks, kept) if kept < len(peaks) else peaks
    borrowed = min(max(kept / settings.rate, HORIZON_YOUNG), HORIZON_LONG)
    (level, scale, scale_long), ties = start
    return np.array([level, scale, scale_long, threshold, tail.scale, tail.shape, ties, borrowed, *ring])


def _worth(excess: F64, owner: I64, entity: I64) -> int:
    """How many peaks the borrowed tail is worth: 2 / tau^2, tau the spread of ln(mean excess) between the entities.

    One entity's own past is worth all its peaks; entities that differ are worth few of another's.
    """
    above = np.bincount(owner, minlength=int(entity[-1]) + 1)
    known = np.flatnonzero(above >= 5)
    if len(known) < 3:
        return RING
    mean = np.bincount(entity[excess > 0], excess[excess > 0])[known] / above[known]
    noise = float(np.mean(1 / above[known]))  # an exponential law's mean of n has a variance of 1/n in its logarithm
    tau2 = max(float(np.var(np.log(mean))) - noise, 0.1**2)
    return int(min(max(2 / tau2, 16), RING))


def _residuals(x: F64, entity: I64, start: tuple[float, float], horizon: float) -> tuple[F64, Bool]:
    """Each value's deviation from its entity's level in units of its scale; and where an entity begins. [n]"""
    begins = np.diff(entity, prepend=entity[:1] - 1) != 0
    first = np.flatnonzero(begins)
    length = np.diff(first, append=len(x))
    order = np.argsort(-length, kind="stable")
    first, length = first[order], length[order]
    residual = np.empty(len(x))
    level, scale = start
    m, s = np.full(len(first), level), np.full(len(first), scale)
    # The recursion runs over time; all entities take a step at once.
    for step in range(int(length[0])):
        k = int(np.searchsorted(-length, -step, side="left"))
        d, now = x[first[:k] + step] - m[:k], s[:k].copy()
        residual[first[:k] + step] = d / now
        a = 1 / min(horizon, step + HEAD_START * horizon)
        m[:k] += a * np.clip(d, -3 * now, 3 * now)
        s[:k] = np.maximum(0.1 * scale, now + a * (np.minimum(np.abs(d), 3 * now) - now))
    return residual, begins
