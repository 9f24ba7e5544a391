"""How much a point adds to the hypervolume of a front: the volume above the front as disjoint boxes."""

from __future__ import annotations

from itertools import pairwise

import moocore
import numpy as np

from rayul.sweep.search.trajectory.kernel import Floats


def boxes(front: Floats) -> tuple[Floats, Floats]:
    """Lower and upper corners [b, m] of disjoint boxes that fill the part of the unit box that no point of the front
    [f, m] dominates; every score is to be maximised, and the reference point is 0."""
    m = front.shape[1]
    if m == 1:
        best = min(1.0, max(0.0, float(front.max(initial=0.0))))
        return np.array([[best]]), np.array([[1.0]])
    edges = np.unique(np.concatenate([[0.0, 1.0], np.clip(front[:, -1], 0.0, 1.0)]))
    lows, highs = [], []
    for low, high in pairwise(edges):
        # In this slab the points that reach beyond it are there with their other scores.
        inner = boxes(front[front[:, -1] >= high, :-1])
        lows.append(np.column_stack([inner[0], np.full(len(inner[0]), low)]))
        highs.append(np.column_stack([inner[1], np.full(len(inner[1]), high)]))
    return np.concatenate(lows), np.concatenate(highs)


def gains(points: Floats, front: Floats) -> Floats:
    """Hypervolume [...] that each point [..., m] adds to the front [f, m] alone; points are cut off to the unit box."""
    points = np.clip(points, 0.0, 1.0)
    if front.shape[1] == 2:
        return _gains_of_two(points, nondominated(front))
    total: Floats = np.zeros(points.shape[:-1])
    for low, high in zip(*boxes(front), strict=True):
        total += np.clip(np.minimum(points, high) - low, 0.0, None).prod(-1)
    return total


def _gains_of_two(points: Floats, front: Floats) -> Floats:
    """For two objectives, without the boxes: a point (x, y) adds the area under y and above the front between x and the
    first place at which the front is below y."""
    front = front[np.argsort(front[:, 0])]
    edges = np.concatenate([[0.0], front[:, 0], [1.0]])
    area = np.concatenate(
        [[0.0], np.cumsum(np.diff(edges) * np.append(front[:, 1], 0.0))]
    )  # under the front up to each
    x, y = points[..., 0], points[..., 1]
    first = len(front) - np.searchsorted(front[::-1, 1], y, side="left")
    found: Floats = y * (x - edges[first]) - (np.interp(x, edges, area) - area[first])
    return np.where(x > edges[first], np.maximum(found, 0.0), 0.0)


def nondominated(points: Floats) -> Floats:
    """Of points [n, m], cut off to the unit box, those that no other dominates."""
    inside = np.clip(points, 0.0, 1.0)
    return inside[moocore.is_nondominated(inside, maximise=True)] if len(inside) else inside
