"""The memory of n-grams: how probable a token is after the tokens just before it, by counting.

In: stretches of tokens. Out: surprise in nats per target. Fitted once, then frozen: four flat arrays.

Witten-Bell interpolation (Witten and Bell 1991; Chen and Goodman 1998, section 2.6), c = count, t = number of
distinct tokens seen after the context, p_0 = 1 / V:

    p_k(token | context) = (c(context, token) + t(context) p_{k-1}(token)) / (c(context) + t(context))

It is kept as ARPA files keep it: ln p of each n-gram that was seen, and for each context the factor t / (c + t) that
the next shorter context's probability gets when the token was never seen after it. So a token that was seen after its
longest context takes one look-up, and only surprising ones go further down. Contexts are 64-bit hashes: among 10
million of them two are mixed up with a probability of 3e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scenes import F32, F64, I32, I64, Bool
from models.stretches import BOS, UNK, Stretches
from models.threads import each

U64 = NDArray[np.uint64]

ORDER = 8  # of 4, 6 and 8 the best on every set of system calls and logs measured; with 6 one of them lost .16 of AUC
KEYS = 16_384  # looked up by one thread at a time
_SEED = np.uint64(0x9E3779B97F4A7C15)
_AFTER_CONTEXT = np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Ngrams:
    """Look-up tables of all orders together, sorted by hash."""

    order: int
    n_tokens: int  # V: how many tokens can occur
    grams: U64
    ln_p: F32  # of each gram
    contexts: U64
    ln_backoff: F32  # of each context: ln t / (c + t)


@dataclass(frozen=True)
class NgramSurprise:
    """Of every target, in the order of Stretches.is_target."""

    nats: F64  # -ln p at the longest order
    repeated: Bool  # the same n-gram came before in the same stretch


def fit_ngrams(sessions: Stretches, n_tokens: int, order: int = ORDER) -> Ngrams:
    """Counts every n-gram of orders 1 to `order`, the session's beginning padded, and freezes their probabilities."""
    shorter = np.full(len(sessions.tokens), -np.log(n_tokens))
    grams: list[U64] = []
    ln_p: list[F64] = []
    contexts: list[U64] = []
    ln_backoff: list[F64] = []
    for context in _contexts(sessions, order):
        gram = _gram(context, sessions.tokens)
        known, at, counts = np.unique(gram, return_index=True, return_counts=True)
        after, which = np.unique(context[at], return_inverse=True)
        types = np.bincount(which)
        seen = np.bincount(which, weights=counts)
        p = (counts + types[which] * np.exp(shorter[at])) / (seen + types)[which]
        grams.append(known)
        ln_p.append(np.log(p))
        contexts.append(after)
        ln_backoff.append(np.log(types / (seen + types)))
        shorter = np.log(p)[np.searchsorted(known, gram)]
    return Ngrams(order, n_tokens, *_sorted(grams, ln_p), *_sorted(contexts, ln_backoff))


def ngram_surprise(memory: Ngrams, stretches: Stretches) -> NgramSurprise:
    """-ln p of every target at the longest order, and which targets only repeat."""
    targets = np.flatnonzero(stretches.is_target)
    contexts = [context[targets] for context in _contexts(stretches, memory.order)]
    tokens = stretches.tokens[targets]
    surprise, open_ = np.zeros(len(targets)), np.arange(len(targets))
    for context in reversed(contexts):
        at, found = _find(memory.grams, _gram(context[open_], tokens[open_]))
        surprise[open_[found]] -= memory.ln_p[at[found]]
        open_ = open_[~found]
        at, found = _find(memory.contexts, context[open_])
        surprise[open_[found]] -= memory.ln_backoff[at[found]]
    surprise[open_] += np.log(memory.n_tokens)
    return NgramSurprise(surprise, _repeated(_gram(contexts[-1], tokens), stretches.owner[targets]))


def _repeated(gram: U64, stretch: I64) -> Bool:
    """Whether the same n-gram came before in the same stretch."""
    _, first = np.unique(_gram(gram, stretch), return_index=True)
    repeated = np.ones(len(gram), bool)
    repeated[first] = False
    return repeated


def _contexts(stretches: Stretches, order: int) -> list[U64]:
    """Hashes of the 0, 1, ... order - 1 tokens before every token. Before a stretch stands BOS or, mid-session, UNK."""
    start = np.repeat(stretches.first[:-1], np.diff(stretches.first))
    outside = np.where(stretches.begins, BOS, UNK)[stretches.owner]
    here = np.arange(len(stretches.tokens))
    context = np.full(len(here), _SEED)
    found = [context]
    for back in range(1, order):
        before = here - back
        token = np.where(before >= start, stretches.tokens[np.maximum(before, 0)], outside)
        context = _mix(context + token.astype(np.uint64))
        found.append(context)
    return found


def _gram(context: U64, token: I32 | I64) -> U64:
    return _mix(context * _AFTER_CONTEXT + token.astype(np.uint64))


def _mix(x: U64) -> U64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    x = x + _SEED
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _find(table: U64, keys: U64) -> tuple[I64, Bool]:
    """Where each key is in the sorted table, and whether it is there."""
    parts = each(lambda at: np.searchsorted(table, keys[at : at + KEYS]), range(0, len(keys), KEYS))
    at = np.minimum(np.concatenate(parts), len(table) - 1) if parts else np.empty(0, np.int64)
    return at, table[at] == keys


def _sorted(keys: list[U64], values: list[F64]) -> tuple[U64, F32]:
    key, value = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(key, kind="stable")
    return key[order], value[order].astype(np.float32)
