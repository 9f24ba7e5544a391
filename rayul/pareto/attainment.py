"""How far several runs of one search reach: the attainment surfaces (Grunert da Fonseca et al. 2001)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from rayul.records.objectives import Floats

SURFACES = ("best", "median", "worst")


def attainment(fronts: Sequence[Floats]) -> Mapping[str, Floats]:
    """Corners [n, 2] of the regions that at least one run, half of them and every run attain, left to right.

    fronts: one array [n, 2] per run, both coordinates better when larger. A run with an empty front attains nothing, so
    one of them leaves "worst" empty.
    """
    runs = len(fronts)
    needed = dict(zip(SURFACES, (1, math.ceil(runs / 2), runs), strict=True))
    full = [(i, points) for i, points in enumerate(fronts) if len(points)]
    found = {}
    for name, count in needed.items():
        if count > len(full) or not full:
            found[name] = np.empty((0, 2))
            continue
        points = np.concatenate([points for _, points in full])
        sets = np.repeat(np.arange(len(full)), [len(points) for _, points in full])
        # moocore minimises, and counts in percent of the runs that it sees.
        surface = moocore.eaf(-points, sets, percentiles=[100 * count / len(full)])[:, :2]
        found[name] = -surface[np.argsort(-surface[:, 0])]
    return found


def outline(surface: Floats, left: float, bottom: float) -> Floats:
    """The border [m, 2] of a region as a line to draw: from the left edge down the stairs to the bottom edge."""
    if not len(surface):
        return np.empty((0, 2))
    corners = [(left, float(surface[0, 1]))]
    for (x, y), lower in zip(surface.tolist(), [*surface[1:, 1].tolist(), bottom], strict=True):
        corners += [(x, y), (x, lower)]
    return np.array(corners)
