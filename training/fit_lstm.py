"""Fits the token network by next-token prediction.

In: runs of tokens. Out: a frozen `TokenLstm`, and its training curve. Remembers: nothing.

Sessions, not tokens, are the unit: a visit takes at most `visit` consecutive tokens of a session, so that one very long
session can't fill the batches (with traces of up to 32,000 tokens that was the difference between an AUC of .70 and of
.90 on sendmail's). A visit is cut into chunks, each from the zero state, as stretches are when they are scored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import nll_loss

from models.lstm import NetSettings, TokenLstm
from models.scenes import I64, Bool
from models.stretches import BOS, UNK, Stretches

CURVE_POINTS = 50
STEPS_TIMED = 8
STEPS_MIN = 4  # of a cycle of two phases
STEPS_GRID = 50  # a budget gives a multiple of it, so that small differences in speed give the same network
FAILED_MAX = 0.1  # of the steps may have a loss that is not finite


@dataclass(frozen=True)
class LstmTraining:
    """How the network is trained."""

    chunk: int = 64
    visit: int = 512
    batch_tokens: int = 2048
    passes: int = 30  # over what one visit to each session takes, between the two bounds
    steps_min: int = 500  # with 220 a trace that was a sixth of the sessions, but 7 tokens long, was learnt by luck
    steps_max: int = 1000
    learning_rate: float = 1e-2  # 3e-3 left the held-out loss .15 nats higher in as many steps
    warm_up: float = 0.1  # of the steps, in the one-cycle schedule
    clip: float = 1.0
    unknown: float = 0.005  # of the inputs become UNK, so that its embedding is trained


@dataclass(frozen=True)
class Curve:
    """The training curve: mean loss in nats per token of up to CURVE_POINTS equal spans of steps."""

    steps: int
    loss: tuple[float, ...]
    failed: int  # steps whose loss was not finite; they changed nothing


@dataclass(frozen=True)
class Grown:
    """A network to go on from, with more classes if need be. What it makes of the tokens that it knows stays as it is:
    their embeddings, the lowest layer, are frozen."""

    old: TokenLstm
    settings: NetSettings

    def begin(self) -> TokenLstm:
        net, known = TokenLstm(self.settings), self.old.settings.n_classes
        with torch.no_grad():
            for name, weights in self.old.state_dict().items():
                net.get_parameter(name)[: len(weights)] = weights
        net.embedding.weight.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.index_fill(0, torch.arange(known, device=gradient.device), 0.0)
        )
        return net


def fit_lstm(
    runs: Stretches, begin: NetSettings | Grown, how: LstmTraining, seed: int, device: str = "cpu"
) -> tuple[TokenLstm, Curve]:
    """One network. The same seed on the same machine gives the same network. Raises ArithmeticError if it diverges."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = (begin.begin() if isinstance(begin, Grown) else TokenLstm(begin)).to(device).train()
    steps = n_steps(runs, how)
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.learning_rate, weight_decay=0.0)
    rising = max(how.warm_up, 2 / steps)  # a phase of the cycle takes two steps at least
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=steps, pct_start=rising)
    losses = np.full(steps, np.nan)
    for step, batch in zip(range(steps), _batches(runs, net.settings, how, rng), strict=False):
        inputs, alive, targets = (torch.from_numpy(column).to(device) for column in batch)
        loss = nll_loss(net.ln_p(net.hidden(inputs)[alive]), targets)
        optimiser.zero_grad(set_to_none=True)
        losses[step] = float(loss.detach())
        if np.isfinite(losses[step]):
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), how.clip)
            optimiser.step()
        schedule.step()
    failed = int(np.isnan(losses).sum())
    if failed > FAILED_MAX * steps:
        raise ArithmeticError(f"{failed} of {steps} steps had a loss that is not finite; lower the learning rate")
    parts = np.array_split(losses, min(CURVE_POINTS, steps))
    return net.eval().to("cpu").requires_grad_(False), Curve(steps, tuple(float(np.nanmean(p)) for p in parts), failed)


def n_steps(runs: Stretches, how: LstmTraining) -> int:
    """How many steps the network is trained for."""
    visited = int(np.minimum(np.diff(runs.first), how.visit).sum())
    return max(STEPS_MIN, int(np.clip(how.passes * visited / how.batch_tokens, how.steps_min, how.steps_max)))


def steps_within(seconds: float, settings: NetSettings, how: LstmTraining) -> int:
    """How many steps fit into so many seconds on this machine, at most those of the settings; timed on noise."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(UNK + 1, max(settings.n_classes, UNK + 2), how.batch_tokens * STEPS_TIMED).astype(np.int32)
    noise = Stretches(tokens, np.array([0, len(tokens)]), np.zeros(1, np.int64), np.ones(1, bool))
    timed = replace(how, visit=len(tokens), steps_min=STEPS_TIMED, steps_max=STEPS_TIMED)
    fit_lstm(noise, settings, timed, 0)  # the first steps pay for loading
    began = time.perf_counter()
    fit_lstm(noise, settings, timed, 0)
    fits = int(seconds * STEPS_TIMED / (time.perf_counter() - began))
    return min(how.steps_max, max(STEPS_GRID, fits // STEPS_GRID * STEPS_GRID))


def _batches(
    runs: Stretches, settings: NetSettings, how: LstmTraining, rng: np.random.Generator
) -> Iterator[tuple[I64, Bool, I64]]:
    """Without end: input classes [b, t], which of them are no padding [b, t], and target classes [those]."""
    previous = np.roll(runs.tokens, 1)
    previous[runs.first[:-1]] = np.where(runs.begins, BOS, UNK)
    first, size = np.empty(0, np.int64), np.empty(0, np.int64)
    while True:
        while size.sum() < how.batch_tokens:
            more = _chunks(runs, how, rng)
            first, size = np.concatenate([first, more[0]]), np.concatenate([size, more[1]])
        n = int(np.searchsorted(np.cumsum(size), how.batch_tokens)) + 1
        step = np.arange(size[:n].max())
        alive = step < size[:n, None]
        at = np.where(alive, first[:n, None] + step, first[:n, None])
        first, size = first[n:], size[n:]
        inputs = np.where((rng.random(at.shape) < how.unknown) & (previous[at] != BOS), UNK, previous[at])
        last = settings.n_classes - 1
        yield (
            np.minimum(inputs, last).astype(np.int64),
            alive,
            np.minimum(runs.tokens[at[alive]], last).astype(np.int64),
        )


def _chunks(runs: Stretches, how: LstmTraining, rng: np.random.Generator) -> tuple[I64, I64]:
    """One more pass: a random slice of every run, cut into chunks, in random order; their first tokens and sizes."""
    length = np.diff(runs.first)
    visit = np.minimum(length, how.visit)
    begin = runs.first[:-1] + (rng.random(len(length)) * (length - visit + 1)).astype(np.int64)
    n_chunks = -(-visit // how.chunk)
    which = np.repeat(np.arange(len(length)), n_chunks)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(n_chunks) - n_chunks, n_chunks)
    first = begin[which] + nth * how.chunk
    size = np.minimum(how.chunk, begin[which] + visit[which] - first)
    order = rng.permutation(len(which))
    return first[order], size[order]
