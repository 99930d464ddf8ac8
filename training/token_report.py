"""What is to be said of a fitted token detector: what was seen, chosen and found, and what it can't see.

In: the detector and what its fit left. Out: plain data for the report. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.scenes import F64
from models.tokens import TokenDetector
from training.fit_lstm import Curve
from training.fit_placement import Placed
from training.token_sessions import Sessions

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
FEW_SESSIONS = 40


def token_report(
    sessions: Sessions, detector: TokenDetector, curves: list[Curve], scores: F64, placed: Placed
) -> dict[str, Any]:
    """Numbers, lists and texts. `scores`: of held-out windows, in nats."""
    return {
        "sessions": len(sessions),
        "tokens": len(sessions.tokens),
        "vocabulary": len(detector.vocabulary),
        "windows": [detector.windows.length_tokens, detector.windows.stride_tokens],
        "risk": detector.risk,
        "curves": [{"steps": curve.steps, "loss": list(curve.loss)} for curve in curves],
        "held_out": {
            "windows": len(scores),
            "scores": [float(v) for v in np.quantile(scores, np.linspace(0, 1, 201))],
            "quantiles": {str(q): float(np.quantile(scores, q)) for q in QUANTILES},
        },
        "clusters": placed.facts(),
        "choices": list(_choices(sessions, detector)),
        "limits": list(_limits(sessions, detector, len(scores))),
    }


def _choices(sessions: Sessions, detector: TokenDetector) -> Iterator[str]:
    length, stride = detector.windows.length_tokens, detector.windows.stride_tokens
    what = "sessions" if (sessions.position == 0).all() else "pieces of sessions"
    yield f"{len(sessions):,} {what} of {len(sessions.tokens):,} tokens, {len(detector.vocabulary):,} distinct ones"
    yield f"windows of {length} tokens, every {stride}; a session that ends early is judged by its end as well"
    yield f"a risk of {detector.risk:.1e} per window"


def _limits(sessions: Sessions, detector: TokenDetector, n_scores: int) -> Iterator[str]:
    yield "It judges the order of tokens; the time between them and what else the records hold are not looked at."
    unknown = float(np.log(len(detector.nets.ln_share) / 1e-3))
    yield f"A token that training never saw costs {unknown:.1f} nats, whichever it is."
    if len(sessions) < FEW_SESSIONS:
        yield (
            f"{len(sessions)} sessions are few: what their kind has not shown counts as strange, "
            f"and tail probabilities beyond 1 in {n_scores} are extrapolated."
        )
    if not (sessions.position == 0).all():
        yield "Sessions were cut into pieces, so that some could be held out: how a session begins was seen rarely."
    if n_scores * detector.risk < 1:
        yield f"{n_scores} held-out windows can't show whether 1 alarm in {1 / detector.risk:,.0f} windows is kept."
