"""The obvious twin of `models.placement.assign`: one point, one neighbour, one step up the tree at a time."""

from __future__ import annotations

import numpy as np

from models.placement import Placement


def assign(known: Placement, points: np.ndarray) -> tuple[list[int], list[float]]:
    labels, probabilities = [], []
    for point in points:
        distance = np.sqrt(((known.points - point) ** 2).sum(1))
        order = np.argsort(distance, kind="stable")[: 2 * known.min_samples]
        own = distance[order[min(known.min_samples, len(order) - 1)]]
        reach = [max(known.core_distance[i], own, distance[i]) for i in order]
        at = int(np.argmin(reach))
        neighbour = order[at]
        joins = 1 / reach[at] if reach[at] > 0 else np.finfo(float).max
        node = known.parent[neighbour]
        if known.departure[neighbour] > joins:
            while node > 0 and known.node_lambda[node] >= joins:
                node = known.node_parent[node]
        label = int(known.node_label[node])
        top = known.node_max_lambda[node]
        labels.append(label)
        probabilities.append(0.0 if label < 0 else 1.0 if top == 0 else min(top, joins) / top)
    return labels, probabilities
