"""A time budget for the fit of tokens: how many steps, tokens and windows fit into it.

In: `Sessions` and seconds. Out: how much is done. Remembers: nothing.

Steps are timed on noise, counting and scoring on a few of the sessions. Everything is a whole multiple of a grid, so
that small differences in speed give the same bundle; the least is done however short the time, and said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from models.lstm import NetSettings, TokenLstm, TokenNets, surprises
from models.ngrams import fit_ngrams, ngram_surprise
from training.fit_lstm import LstmTraining, n_steps, steps_within
from training.token_sessions import Sessions, runs

NETWORKS, REST = 0.45, 0.35  # of the time that is left: for steps; for counting, calibrating and embedding
PILOT = 20_000  # tokens
TOKENS_GRID = 20_000
PLACED_S = 12.0  # left, in which the clusters of the most windows are found; of fewer in less
PLACED_MIN = 500


@dataclass(frozen=True)
class Wanted:
    """What is done without a budget: networks, steps, and windows that the clusters are found in, of so many tokens."""

    folds: int
    order: int
    lstm: LstmTraining
    placed: int
    placed_tokens: int  # scored by all networks for each of them


@dataclass(frozen=True)
class Extent:
    """How much is done. notes: what the budget left out."""

    steps_max: int
    tokens_max: int
    placed_max: int
    notes: tuple[str, ...] = ()


def within(sessions: Sessions, net: NetSettings, wanted: Wanted, budget: tuple[float, float]) -> Extent:
    """As much as fits. budget: seconds, and when they began by time.monotonic()."""
    seconds, began = budget
    counting, scoring = _timed(sessions, net, wanted.order)
    left = max(0.0, began + seconds - time.monotonic())
    steps = steps_within(left * NETWORKS / wanted.folds, net, wanted.lstm)
    placed = int(np.clip(wanted.placed * min(1.0, np.sqrt(left / PLACED_S)) // 100 * 100, PLACED_MIN, wanted.placed))
    # each fold counts the others and scores itself, the whole is counted once more, and some is scored by all networks
    per_token = wanted.folds * counting + scoring * (1 + wanted.folds)
    tokens = max(1, int(min(REST * left / per_token, 1e12) // TOKENS_GRID)) * TOKENS_GRID
    placed = min(placed, max(PLACED_MIN, tokens // wanted.placed_tokens // 100 * 100))
    return Extent(steps, tokens, placed, _notes(sessions, wanted, (steps, tokens, placed), seconds))


def _notes(sessions: Sessions, wanted: Wanted, most: tuple[int, int, int], seconds: float) -> tuple[str, ...]:
    (steps, tokens, placed), needed = most, n_steps(runs(sessions), wanted.lstm)
    said = [f"{steps} of {needed} steps"] if steps < needed else []
    said += [f"{tokens:,} of {len(sessions.tokens):,} tokens beside them"] if tokens < len(sessions.tokens) else []
    said += [f"clusters of {placed:,} windows"] if placed < wanted.placed else []
    return (f"to stay within {seconds:.0f} s, only {', '.join(said)}",) if said else ()


def _timed(sessions: Sessions, net: NetSettings, order: int) -> tuple[float, float]:
    """Seconds per token of counting its n-grams and of scoring it by one network."""
    few = runs(sessions.thinned(PILOT, np.random.default_rng(0)).shortened(PILOT))
    nets = TokenNets((TokenLstm(net).eval(),), np.zeros(net.n_classes, np.float32))
    clipped = np.minimum(few.tokens, net.n_classes - 1)
    known = type(few)(clipped, few.first, few.fresh, few.begins)
    surprises(nets, known)  # the first pass pays for loading
    at = [time.perf_counter()]
    memory = fit_ngrams(known, net.n_classes, order)
    at.append(time.perf_counter())
    surprises(nets, known)
    ngram_surprise(memory, known)
    at.append(time.perf_counter())
    counting, scoring = np.diff(at).tolist()
    return counting / len(few.tokens), scoring / len(few.tokens)
