"""Fits the token detector: networks and n-grams cross-fitted over sessions, calibrated on what each has not seen.

In: `Dataset` of tokens. Out: `Trained`: the bundle, and what the report shows. Remembers: nothing.

    for each of three folds: network and n-grams on the other two -> values of the fold's tokens
    all values -> ordinary values, calibrations, the population's tail
    the three networks, averaged, and n-grams of everything -> the detector; its embeddings -> view, clusters
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.bundle import Bundle, golden_of
from models.calibration import fit_calibration, surprise
from models.detector import WindowSpec
from models.lstm import N_CLASSES_MAX, NetSettings, TokenLstm, TokenNets, surprises
from models.ngrams import ORDER, fit_ngrams
from models.scenes import F32, F64, I64, Scenes
from models.stretches import stretches_of
from models.token_bundle import arrays_of, settings_of
from models.token_view import View, embed, fit_view
from models.token_windows import WindowValues, nothing_remembered, scored_before, window_values
from models.tokens import N_ORDINARY, PARTS, TokenDetector, TokenScale, token_values
from stream_app.errors import ConfigurationError
from stream_app.intervals import Interval
from stream_app.threshold.population import FEWEST_SCORES, fit_population
from training import token_rehearsal
from training.dataset import Dataset
from training.fit_lstm import Curve, Grown, LstmTraining, fit_lstm
from training.fit_placement import Placed, fit_membership, fit_placement
from training.limits import WINDOWS_FEW, few_windows
from training.token_budget import Wanted, within
from training.token_rehearsal import Start, sample_of
from training.token_report import token_report
from training.token_sessions import Sessions, apart, by_frequency, joined, runs, sessions_of, windows_of

WINDOWS = WindowSpec(length_tokens=64, stride_tokens=32)
LSTM = LstmTraining()
GOING_ON = LstmTraining(learning_rate=1e-3, steps_min=100, steps_max=300)  # a tenth as fast, a third as long
TOKENS_MIN = 100  # fewer say nothing about order
MEMORY_TOKENS_MAX = 3_000_000  # counting n-grams of all orders takes some 200 bytes a token
HELD_TOKENS_MAX = 300_000  # per fold, to calibrate on: 3 s of scoring, and 10,000 windows
PLACED_DRAWN = 4  # strides drawn for each window that the clusters are fitted to
PLACED_MAX = 5_000  # windows that the clusters are fitted to: beyond it the tree grows, not what it shows
LEAST_EXCESS = 0.01  # of a part's statistic beyond its 95 % point; .07 was the least seen on real sets
LEAST_EXCESS_TOTAL = 0.5  # nats; 1 if the parts were exponential and one alone mattered
SESSION_RISK = 0.01  # false alarms per session that ends, where there is no other wish
RISK_BOUNDS = (1e-5, 1e-2)
STREAM_RISK = 1e-3  # per window, where sessions are too few to count
SESSIONS_COUNTED = 20
GOLDEN_SESSIONS, GOLDEN_WINDOWS = 8, 32


@dataclass(frozen=True)
class TokenTraining:
    """How the detector is trained. The defaults are for every set alike."""

    seed: int = 0
    windows: WindowSpec = WINDOWS
    folds: int = 3
    hidden: int = 64
    order: int = ORDER
    lstm: LstmTraining = LSTM
    device: str = "cpu"
    budget_s: float | None = None  # for everything that `fit` does; what it leaves out is said and in the report
    tokens_max: int = MEMORY_TOKENS_MAX  # that n-grams are counted in; and calibrated on, if fewer than HELD_TOKENS_MAX
    placed_max: int = PLACED_MAX  # windows that clusters are found in
    risk: float | None = None  # per window; None: by `default_risk`
    without: tuple[Interval, ...] = ()  # sessions that overlap them are not learned from
    noise: bool = False  # tell from which membership on a window is noise: for alarms.also
    start: Start | None = None  # to go on from; windows and networks have its shape then
    say: Callable[[str], None] = lambda _: None  # told what has been done


@dataclass(frozen=True)
class Trained:
    """The bundle, ready to be written, what was chosen, and figures for the report."""

    bundle: Bundle
    choices: tuple[str, ...]
    report: dict[str, Any]


@dataclass(frozen=True)
class _Data:
    sessions: Sessions
    fold: I64  # [s]
    share: F32  # [vocabulary]
    net: NetSettings
    start: Start | None

    def rehearsed(self, sessions: Sessions) -> Sessions:
        """With the sample of what was learned before."""
        return joined(sessions, self.start.sample) if self.start else sessions

    def begin(self, f: int) -> NetSettings | Grown:
        """What the network of a fold is made from. The one gone on from has not seen the old sessions of its fold."""
        return Grown(self.start.detector.nets.nets[f], self.net) if self.start else self.net


@dataclass(frozen=True)
class _Fold:
    """What was fitted to all folds but one, and what it says of that one."""

    net: TokenLstm
    curve: Curve
    held: _Held


@dataclass(frozen=True)
class _Held:
    """Windows that the fold's network and n-grams have not seen."""

    session: I64  # [w]
    windows: WindowValues
    targets: F32  # [t, part]


def fit(data: Dataset, how: TokenTraining) -> Trained:
    """Everything that `train` does with tokens. Raises ConfigurationError, in words, where the data do not suffice."""
    began = time.monotonic()
    vocabulary, counts = by_frequency(data)
    if how.start is not None:
        vocabulary, counts = how.start.numbered(vocabulary, counts)
        how = _going_on(how, how.start.detector)
    ids = {word: vocabulary[word] for word in data.vocabulary}
    sessions, left_out = apart(sessions_of(data, ids, how.windows), data, how.without)
    _must_suffice(data, sessions, how)
    rng = np.random.default_rng(how.seed)
    net = NetSettings(min(len(counts), N_CLASSES_MAX), hidden=how.hidden)
    ready = _Data(sessions, rng.permutation(len(sessions)) % how.folds, _shares(counts, net.n_classes), net, how.start)
    how, left = _within_budget(how, ready, began)
    folds = [_fold(ready, f, how, rng) for f in range(how.folds)]
    scale, scores, owner = _calibrated([fold.held for fold in folds])
    how.say(f"calibrated on {len(scores):,} windows of {len(np.unique(owner)):,} sessions that were held out")
    nets = TokenNets(tuple(fold.net for fold in folds), ready.share)
    view, placed, of_noise = _placed(ready, nets, how, rng)
    how.say(f"{placed.quality.clusters} known behaviours; {placed.quality.noise:.0%} of the windows belong to none")
    detector = TokenDetector(
        vocabulary=vocabulary,
        windows=how.windows,
        nets=nets,
        memory=fit_ngrams(runs(ready.rehearsed(sessions).thinned(how.tokens_max, rng)), len(counts) - 1, how.order),
        scale=scale,
        view=view,
        known=placed.known,
        tail=fit_population(scores, owner, -(-how.windows.length_tokens // how.windows.stride_tokens)) | of_noise,
        risk=how.risk or default_risk(sessions, how.windows),
    )
    report = token_report(sessions, detector, [fold.curve for fold in folds], scores, placed)
    report |= {"n_windows": len(scores), "left_out": left_out, "budget": list(left)}
    golden, sample = _golden(ready, how, rng), sample_of(ready.rehearsed(sessions), rng)
    return Trained(_bundle(detector, (golden, sample), how), (*report["choices"], *left), report)


def _within_budget(how: TokenTraining, ready: _Data, began: float) -> tuple[TokenTraining, tuple[str, ...]]:
    """The training cut to its budget, and what that leaves out."""
    if how.budget_s is None:
        return how, ()
    wanted = Wanted(how.folds, how.order, how.lstm, how.placed_max, PLACED_DRAWN * how.windows.stride_tokens)
    most = within(ready.sessions, ready.net, wanted, (how.budget_s, began))
    lstm = replace(how.lstm, steps_max=most.steps_max, steps_min=min(most.steps_max, how.lstm.steps_min))
    for note in most.notes:
        how.say(note)
    return replace(how, lstm=lstm, tokens_max=most.tokens_max, placed_max=most.placed_max), most.notes


def _going_on(how: TokenTraining, old: TokenDetector) -> TokenTraining:
    nets = old.nets.nets
    return replace(how, windows=old.windows, folds=len(nets), hidden=nets[0].settings.hidden, lstm=GOING_ON)


def _bundle(detector: TokenDetector, kept: tuple[Scenes, Sessions], how: TokenTraining) -> Bundle:
    golden, sample = kept
    settings = settings_of(detector) | {"seed": how.seed, "training": asdict(how.lstm)}
    settings |= {"sample": {"sessions": len(sample), "tokens": len(sample.tokens)}}
    return Bundle(
        "tokens",
        settings,
        arrays_of(detector) | token_rehearsal.arrays_of(sample),
        golden_of(detector, golden),
        detector.tail,
    )


def default_risk(sessions: Sessions, spec: WindowSpec) -> float:
    """Per window: one false alarm in a hundred sessions, where enough of them end; else one in a thousand windows."""
    n_ended = int(sessions.ends.sum())
    if n_ended < SESSIONS_COUNTED:
        return STREAM_RISK
    return float(np.clip(SESSION_RISK * n_ended / len(windows_of(sessions, spec)), *RISK_BOUNDS))


def _must_suffice(data: Dataset, sessions: Sessions, how: TokenTraining) -> None:
    if len(data) < TOKENS_MIN or len(sessions) < how.folds:
        one = 2 * how.folds * how.windows.length_tokens
        raise ConfigurationError(
            f"{len(data)} tokens in {len(data.entities)} sessions are too few to train on: at least {TOKENS_MIN} "
            f"tokens are needed, in at least {how.folds} sessions or in one of {one} tokens"
        )
    n = len(windows_of(sessions, how.windows))
    if n < FEWEST_SCORES:
        raise ConfigurationError(
            f"{len(data):,} tokens in {len(data.entities)} sessions make {n} windows, too few to tell how normal ones "
            f"score; at least {FEWEST_SCORES} are needed: sessions, or {how.windows.stride_tokens} tokens more in them"
        )
    if n < WINDOWS_FEW:
        how.say(few_windows(n))


def _shares(counts: I64, n_classes: int) -> F32:
    """ln of each token's share in its class; of those in the last class by how often they came."""
    share = np.zeros(len(counts), np.float32)
    if len(counts) > n_classes:
        rare = counts[n_classes - 1 :]
        share[n_classes - 1 :] = np.log(rare / rare.sum())
    return share


def _fold(ready: _Data, f: int, how: TokenTraining, rng: np.random.Generator) -> _Fold:
    others = ready.rehearsed(ready.sessions.at(np.flatnonzero(ready.fold != f)))
    net, curve = fit_lstm(runs(others), ready.begin(f), how.lstm, how.seed * how.folds + f, how.device)
    how.say(f"network {f + 1} of {how.folds}: {curve.steps} steps, {curve.loss[-1]:.3f} nats per token at their end")
    memory = fit_ngrams(runs(others.thinned(how.tokens_max, rng)), len(ready.share) - 1, how.order)
    own = np.flatnonzero(ready.fold == f)
    held = ready.sessions.at(own).thinned(min(HELD_TOKENS_MAX, how.tokens_max), rng)
    scenes = windows_of(held, how.windows)
    carry = _fresh(scenes, how.windows)
    stretches = stretches_of(scenes, scored_before(scenes, carry), len(ready.share))
    targets = token_values(memory, stretches, surprises(TokenNets((net,), ready.share), stretches))
    session = f * len(ready.sessions) + scenes.entity.astype(np.int64)
    return _Fold(net, curve, _Held(session, window_values(scenes, stretches, targets, carry), targets))


def _fresh(scenes: Scenes, spec: WindowSpec) -> Any:
    row = nothing_remembered(spec.length_tokens - spec.stride_tokens, len(PARTS))
    return np.repeat(row, len(np.unique(scenes.entity)))


def _calibrated(held: list[_Held]) -> tuple[TokenScale, F64, I64]:
    """The scale, and the held-out windows' scores with their sessions."""
    ordinary = np.concatenate([h.targets for h in held]).mean(0, dtype=np.float64)
    means = np.concatenate([h.windows.means(ordinary, N_ORDINARY) for h in held])
    parts = tuple(fit_calibration(means[:, i], LEAST_EXCESS) for i in range(len(PARTS)))
    added = sum((surprise(c, means[:, i]) for i, c in enumerate(parts)), np.zeros(len(means)))
    total = fit_calibration(added, LEAST_EXCESS_TOTAL)
    return TokenScale(ordinary, parts, total), surprise(total, added), np.concatenate([h.session for h in held])


def _placed(
    ready: _Data, nets: TokenNets, how: TokenTraining, rng: np.random.Generator
) -> tuple[View, Placed, dict[str, Any]]:
    """The view and the clusters of windows drawn from all sessions, each seen with the context it has in the stream."""
    some = ready.rehearsed(ready.sessions).thinned(PLACED_DRAWN * how.placed_max * how.windows.stride_tokens, rng)
    scenes = windows_of(some, how.windows)
    stretches = stretches_of(scenes, scored_before(scenes, _fresh(scenes, how.windows)), len(ready.share))
    hidden = surprises(nets, stretches).mean_hidden
    chosen = np.sort(rng.permutation(len(hidden))[: how.placed_max])
    view = fit_view(hidden[chosen])
    points = embed(view, hidden[chosen])
    return view, fit_placement(points), fit_membership(points, how.say) if how.noise else {}


def _golden(ready: _Data, how: TokenTraining, rng: np.random.Generator) -> Scenes:
    """The first windows of some sessions, drawn."""
    n = min(GOLDEN_SESSIONS, len(ready.sessions))
    some = ready.sessions.at(np.sort(rng.permutation(len(ready.sessions))[:n]))
    few = how.windows.length_tokens + how.windows.stride_tokens * (GOLDEN_WINDOWS // n - 1)
    return windows_of(some.shortened(few), how.windows)
