"""The threshold, one value of one entity at a time: slow and obvious, to compare the vectorised stage with."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from models.tail import cluster_maxima, fit_tail, initial_threshold


def gpd_depth(e: float, shape: float, scale: float) -> float:
    if abs(shape) < 1e-9:
        return e / scale
    stretched = shape * e / scale
    return math.log1p(stretched) / shape if stretched > -1 else math.inf


def gpd_excess(depth: float, shape: float, scale: float) -> float:
    return scale * (depth if abs(shape) < 1e-9 else math.expm1(shape * depth) / shape)


@dataclass
class Said:
    threshold: float
    alarm: bool
    episode_start: bool
    tail_probability: float
    episode_worse: bool = False


class NaiveThreshold:
    """One entity without a population. `say(x)` judges a value, then learns from it if it feeds."""

    def __init__(self, risk: float) -> None:
        self.q = risk
        self.p, self.gap = (0.025, 8) if risk > 5e-3 else (0.01, 16)
        self.seen, self.cluster_end, self.episode, self.piece_start, self.begun = 0, math.inf, 0, 0, 0
        self.peak, self.piece_alarmed, self.last, self.run, self.shown = 0.0, False, math.nan, 0, 0
        self.begin_anew()

    def begin_anew(self) -> None:
        self.mode = "settling"
        self.first: list[float] = []
        self.residuals: list[float] = []
        self.age, self.level, self.scale, self.scale_long, self.u = 0, 0.0, 1.0, 0.0, math.inf
        self.tail_scale, self.tail_shape, self.margin, self.guard = 0.0, 0.0, 0.0, 0.0
        self.ring: deque[float] = deque(maxlen=256)
        self.near, self.far, self.fatigue, self.unfitted = 5.0, 2.0, 0.0, 0
        self.ties, self.largest, self.largest_rate, self.start_rate = 0.0, -math.inf, 0.0, 0.0
        self.shown, self.peak = 0, 0.0

    # --- the law ---------------------------------------------------------------------------------------------------

    def base(self) -> float:
        return -math.log(self.start_rate) if self.mode == "discrete" else -math.log(self.p)

    def needed(self) -> float:
        return -math.log(self.q) + (0.0 if self.mode == "discrete" else self.margin)

    def depth(self, e: float) -> float:
        lawless = self.mode == "discrete" and len(self.ring) < 5
        return self.base() + (0.0 if lawless else gpd_depth(e, self.tail_shape, self.tail_scale))

    def threshold(self) -> float:
        if self.mode in ("settling", "gathering"):
            return math.nan
        more = self.needed() - self.base()
        if self.mode == "discrete" and len(self.ring) < 5:
            e = math.inf if more > 0 else 0.0
        else:
            e = gpd_excess(max(more, 0.0), self.tail_shape, self.tail_scale)
        return self.level + self.scale * (self.u + max(e, self.guard))

    def tail_probability(self, x: float) -> float:
        if self.mode in ("settling", "gathering"):
            return math.nan
        residual = (x - self.level) / self.scale
        shift = self.needed() + math.log(self.q)
        if residual > self.u:
            return min(1.0, math.exp(shift - self.depth(residual - self.u)))
        if self.mode == "discrete":
            return 1.0
        at_u = min(math.exp(shift - self.base()), 0.5)
        share = min(max(residual / max(self.u, 1e-9), -1.0), 1.0)
        half = 0.5 * (at_u / 0.5) ** abs(share)
        return 1 - half if share < 0 else half

    def refresh_guard(self) -> None:
        n, discrete = len(self.ring), self.mode == "discrete"
        k = math.ceil((1 if discrete else 3) * self.q * n / (self.start_rate if discrete else self.p))
        if n == 0 or (discrete and k > n):
            self.guard = 0.0
        else:
            self.guard = sorted(self.ring, reverse=True)[min(max(k, 1), n) - 1]

    def fit(self) -> None:
        tail = fit_tail(np.array(self.ring))
        self.tail_scale, self.tail_shape, self.unfitted = tail.scale, tail.shape, 0
        self.refresh_guard()

    # --- a value ---------------------------------------------------------------------------------------------------

    def say(self, x: float) -> Said:
        if not math.isfinite(x):
            return Said(math.nan, False, False, math.nan)
        said = Said(self.threshold(), False, False, self.tail_probability(x))
        d = x - self.level
        residual = d / self.scale if self.scale > 0 else math.nan
        e = residual - self.u
        atom = x == self.largest and self.largest_rate > 3 * self.q
        self.note(x)
        alarm = start = False
        closed: tuple[float, bool] | None = None
        if e > 0:
            if self.mode == "discrete":
                self.refresh_guard()
            alarm = not atom and float(np.float32(min(e, 1e30))) > self.guard and self.depth(e) >= self.needed()
            start, closed = self.go_on(e, alarm, said)
        elif self.seen >= self.cluster_end:
            closed, self.cluster_end = (self.peak, self.piece_alarmed), math.inf
        self.learn(d, alarm, start)
        if closed and closed[0] > 0:
            self.feed(*closed)
        self.change_mode(x, residual)
        return said

    def note(self, x: float) -> None:
        self.seen += 1
        self.age += 1
        tied = x == self.last
        self.ties += (tied - self.ties) / min(1000.0, self.age)
        self.run = self.run + 1 if tied else 1
        self.last = x
        self.largest_rate = (
            0.0 if x > self.largest else self.largest_rate + ((x == self.largest) - self.largest_rate) / 20_000
        )
        self.largest = max(self.largest, x)
        self.near, self.far = min(self.near + 2 * self.q, 10.0), min(self.far + 0.3 * self.q, 4.0)
        self.margin = max(self.margin - 0.1 * self.q, -1.1)

    def go_on(self, e: float, alarm: bool, said: Said) -> tuple[bool, tuple[float, bool] | None]:
        """A value above u: begins a cluster, goes on with one, or cuts it."""
        opened, closed = self.cluster_end < math.inf, None
        cut = opened and self.seen - self.piece_start >= int(0.6 / self.p)
        if cut:
            closed = self.peak, self.piece_alarmed
        if not opened:
            self.episode = 0
        grave = alarm and self.depth(e) - self.needed() > math.log(10)
        worse = grave and self.episode == 1 and self.seen - self.begun >= self.gap
        if (alarm and self.episode == 0) or worse:
            promised = self.age * self.q
            held_back = promised < 2 and self.shown >= 1 + 2 * promised
            if not worse:
                self.episode, self.begun = 2 if held_back else 1, self.seen
            said.episode_start, said.episode_worse = not held_back, worse and not held_back
            self.shown += not held_back
        if grave and self.episode == 1:
            self.episode = 3
        said.alarm = alarm and self.episode != 2
        if not opened or cut:
            self.piece_start, self.peak, self.piece_alarmed = self.seen, e, alarm
        else:
            self.peak, self.piece_alarmed = max(self.peak, e), self.piece_alarmed or alarm
        self.cluster_end = self.seen + self.gap
        return not opened or cut, closed

    def learn(self, d: float, alarm: bool, start: bool) -> None:
        self.fatigue = max(self.fatigue - 0.1, 0.0) + 1.1 * alarm
        accepting = self.fatigue >= 200
        if self.mode in ("gathering", "continuous") and (accepting or not alarm):
            a = 8 / 128 if accepting else 1 / min(128, self.seen - 1 + 64)
            s = self.scale
            self.scale_long += (min(abs(d), 30 * s) - self.scale_long) / min(max(self.age, 100), 4000)
            self.level += a * min(max(d, -3 * s), 3 * s)
            self.scale = max(0.1 * self.scale_long, s + a * (min(abs(d), 3 * s) - s))
        if self.mode == "continuous":
            horizon = min(max(self.age, 400), 4000)
            self.u += self.tail_scale / (self.p * horizon) * (start - self.p)
        self.start_rate += (start - self.start_rate) / min(max(self.age, 256), 20_000)

    def feed(self, peak: float, alarmed: bool) -> None:
        if self.mode in ("settling", "gathering"):
            return
        far = alarmed and self.depth(peak) > self.needed() + math.log(30)
        if far:
            if self.far < 1:
                return
            self.far -= 1
            more = max(self.needed() + math.log(30) - self.base(), 0.0)
            peak = min(peak, gpd_excess(more, self.tail_shape, self.tail_scale))
        elif alarmed:
            if self.near < 1:
                return
            self.near -= 1
        if alarmed:
            self.margin = min(self.margin + 0.1, 2.3)
        self.ring.append(float(np.float32(min(max(peak, 1e-30), 1e30))))
        self.unfitted += 1
        if self.unfitted >= min(max(len(self.ring) // 4, 1), 8):
            self.fit()

    def change_mode(self, x: float, residual: float) -> None:
        if self.mode == "settling":
            self.first.append(x)
            if self.age == 100:
                self.settle()
        elif self.mode == "gathering":
            self.residuals.append(residual if math.isfinite(residual) else 0.0)
            if self.age == 256:
                self.begin_tail(x)
        elif self.mode == "discrete" and self.run >= 3:
            self.level = x
        if (self.mode == "continuous" and self.ties > 0.6) or (self.mode == "discrete" and self.ties < 0.3):
            self.begin_anew()

    def settle(self) -> None:
        first = [float(np.float32(x - self.first[0])) for x in self.first]
        middle = float(np.median(first))
        self.scale = self.scale_long = float(np.mean([abs(x - middle) for x in first]))
        self.level = self.first[0] + middle
        self.residuals = [(x - middle) / self.scale if self.scale > 0 else 0.0 for x in first]
        self.mode = "gathering"

    def begin_tail(self, x: float) -> None:
        if self.ties > 0.5 or not self.scale > 0:
            self.mode, self.level, self.scale, self.u, self.guard = "discrete", x, 1.0, 0.0, 0.0
            self.start_rate, self.tail_scale, self.tail_shape = 0.5 / 257, 1.0, 0.1
            return
        self.mode = "continuous"
        v = np.array(self.residuals[64:], np.float32).astype(float)
        at = np.arange(len(v))
        self.u = initial_threshold(v, at, self.p, self.gap)
        self.ring.extend(np.float32(cluster_maxima(v, at, self.u, self.gap)).astype(float).tolist())
        tail = fit_tail(cluster_maxima(v, at, self.u, self.gap))
        self.tail_scale, self.tail_shape = tail.scale, tail.shape
        self.refresh_guard()
