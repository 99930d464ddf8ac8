"""From clusters to labels: what each cluster is made of, when a point counts as none of them, and pseudo-labels.

In: clusters and membership probabilities of points. Out: purities, a calibrated threshold, labels. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I32, I64, Bool


@dataclass(frozen=True)
class MembershipThreshold:
    """Below `tau`, or in the noise, a point counts as none of the clusters. `reached`: the asked rate is kept."""

    tau: float
    false_rate: float  # of held-out normal points that count as none
    noise: float  # of them that are noise already: no threshold can go below it
    reached: bool

    def said(self, asked: float) -> str:
        """One sentence for a reader."""
        if self.reached:
            return (
                f"membership below {self.tau:.3f} or noise: {self.false_rate:.1%} of normal points, {asked:.0%} allowed"
            )
        return (
            f"no threshold keeps {asked:.0%}: {self.noise:.1%} of normal points are noise already; "
            "use the score's tail probability, and the cluster as context"
        )


@dataclass(frozen=True)
class Purity:
    """One cluster's make-up."""

    cluster: int
    n: int
    label: str  # the most frequent
    purity: float  # its share


@dataclass(frozen=True)
class PseudoLabels:
    """A label per point, and which of them to keep."""

    label: list[str]  # of its cluster; "" for noise
    kept: Bool


def calibrate_membership(cluster: I32 | I64, membership: F32 | F64, false_rate: float = 0.05) -> MembershipThreshold:
    """The largest tau so that at most `false_rate` of these held-out normal points [n] are noise or below it."""
    noise = float(np.mean(cluster < 0))
    if noise > false_rate:
        return MembershipThreshold(0.0, noise, noise, False)
    inside = np.where(cluster < 0, -1.0, membership)
    ordered = np.sort(inside)
    tau = float(ordered[min(len(ordered) - 1, int(false_rate * len(ordered)))])
    return MembershipThreshold(max(tau, 0.0), float(np.mean(inside < tau)), noise, True)


def purities(cluster: I32 | I64, label: Sequence[str]) -> list[Purity]:
    """Of each cluster but the noise, by its number; `label` [n] is true, or a teacher's."""
    labels = np.asarray(label, str)
    found = []
    for c in np.unique(cluster[cluster >= 0]):
        names, counts = np.unique(labels[cluster == c], return_counts=True)
        found.append(Purity(int(c), int(counts.sum()), str(names[counts.argmax()]), float(counts.max() / counts.sum())))
    return found


def pseudo_labels(
    cluster: I32 | I64, membership: F32 | F64, purity: Sequence[Purity], least: tuple[float, float] = (0.9, 0.5)
) -> PseudoLabels:
    """Every point gets its cluster's label; kept are those of clusters as pure, and points as firm, as `least` says."""
    of_cluster = {p.cluster: p for p in purity}
    known = [of_cluster.get(int(c)) for c in cluster]
    pure = np.array([p is not None and p.purity >= least[0] for p in known], bool)
    return PseudoLabels([p.label if p else "" for p in known], pure & (membership.astype(np.float64) >= least[1]))
