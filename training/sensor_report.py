"""What is to be said of a fitted detector of sensors.

In: what the fit left. Out: plain data for the report, and lines for whoever waits. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.scenes import F64
from training.fit_parts import FittedPart
from training.fit_placement import Placed

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


def sensor_report(
    parts: dict[str, FittedPart], networks: dict[str, Any], placed: Placed, scores: F64
) -> dict[str, Any]:
    """Plain numbers and lists. `curve`: of the first network; the others' are under `networks`."""
    first: dict[str, Any] = next(iter(networks.values()), {"curve": []})
    return {
        "curve": first["curve"],
        "skipped_steps": sum(network["skipped_steps"] for network in networks.values()),
        "networks": networks,
        "parts": {n: [float(v) for v in np.nanquantile(p.held_out, QUANTILES)] for n, p in parts.items()},
        "held_out": {"windows": len(scores)},
        "held_out_scores": [float(v) for v in np.quantile(scores, np.linspace(0, 1, 201))],
        "clusters": placed.facts(),
    }


def lines(networks: dict[str, Any], placed: Placed) -> Iterator[str]:
    """How the networks' training went, and what was found."""
    for name, network in networks.items():
        curve = np.array(network["curve"])
        tenth = max(1, len(curve) // 10)
        skipped = f", {network['skipped_steps']} skipped" if network["skipped_steps"] else ""
        by_rate = ", ".join(f"{n} {rate}" for rate, n in network.get("rates", {}).items())
        begin, end = np.nanmean(curve[:tenth]), np.nanmean(curve[-tenth:])
        yield f"network {name}: {len(curve)} steps{skipped}, loss {begin:.3g} to {end:.3g}" + (
            f"; sensors by rate: {by_rate}" if by_rate else ""
        )
    yield f"{placed.quality.clusters} known behaviours; {placed.quality.noise:.0%} of the windows belong to none"
