"""What the drift demo shows: alarms before the change, after it, and with the bundle that was refitted.

In: what a worker said on the scores and alerts topics. Out: a row per phase. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from stream_app.intervals import moment_us
from stream_app.model_store.gate import most_episodes


@dataclass(frozen=True)
class Phase:
    """Of windows that ended in some time and were judged by some bundle."""

    name: str
    windows: int
    alarmed: float  # share of them in alarm
    episodes: int  # alerts that opened
    promised: float
    depth: float  # median of score over threshold: how near to an alarm a window is

    def row(self) -> dict[str, Any]:
        """For the screen."""
        return {
            "phase": self.name,
            "windows": self.windows,
            "in alarm": f"{self.alarmed:.1%}",
            "alerts": self.episodes,
            "promised": f"{self.promised:.2g}",
            "score/threshold": f"{self.depth:.2f}",
        }

    def within_contract(self, ratio: float) -> bool:
        """As a gate would say it: no more alerts than chance gives where `ratio` times the promised ones are allowed;
        and something was judged."""
        return self.windows > 0 and self.episodes <= most_episodes(ratio * self.promised)


def phases(
    scores: Sequence[dict[str, Any]], alerts: Iterable[dict[str, Any]], changed_us: int, risk: float
) -> tuple[Phase, Phase, Phase]:
    """Before the change, after it with the first bundle, and with whichever came then."""
    first = scores[0]["bundle"] if scores else ""
    opened = [alert for alert in alerts if alert.get("status") == "open"]

    def of(name: str, which: int) -> Phase:
        mine = [s for s in scores if _phase(s["bundle"] == first, moment_us(s["data_end_time"]), changed_us) == which]
        told = {
            a["alert_id"]
            for a in opened
            if _phase(a.get("bundle") == first, moment_us(a.get("detected_at")), changed_us) == which
        }
        depths = [s["anomaly_score"] / s["threshold"] for s in mine if s["anomaly_score"] and s["threshold"]]
        alarmed = sum(bool(s["anomalous"]) for s in mine) / max(1, len(mine))
        return Phase(name, len(mine), alarmed, len(told), risk * len(mine), median(depths) if depths else 0.0)

    return of("before", 0), of("after the change", 1), of("after the promotion", 2)


def _phase(by_first: bool, at_us: int | None, changed_us: int) -> int:
    if not by_first:
        return 2
    return int(at_us is not None and at_us > changed_us)
