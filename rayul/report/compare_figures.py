"""A comparison's figures for papers: the trade-off of every sweep, and what the seeds of each search attain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rayul.pareto.attainment import attainment, outline
from rayul.report.axes import Axis
from rayul.report.compare import Comparison
from rayul.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    Drawing,
    draw_limits,
    in_percent,
    save_figures,
)
from rayul.report.leads import FEWEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = tuple(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, GREY), "os^Dvp", strict=True))
"""Colour and mark of each recipe, in every figure; vermillion is the limit's."""
STROKES = ("solid", "dashed", "dotted", "dashdot")
"""Of the seeds of a recipe."""


def write_comparison_figures(c: Comparison, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the fronts and, of sweeps that differ in their seed alone, the attainment surfaces; nothing where there are
    no two metrics to set against each other. Returns the paths. Raises InputError as `check_formats` does."""
    drawings: dict[str, Drawing] = {}
    if (chosen := c.axes) is not None:
        drawings["fronts"] = (2.8, lambda figure: draw_fronts(figure, c, chosen))
        if c.seeds:
            drawings["attainment"] = (2.8, lambda figure: draw_attainment(figure, c, chosen))
    return save_figures(drawings, folder, formats)


def draw_fronts(figure: Figure, c: Comparison, chosen: tuple[Axis, Axis]) -> None:
    """The front of every sweep with standard errors, on the first one's baseline, and the common limits."""
    x, y = chosen
    plot = figure.subplots()
    named = set()
    for entry, (recipe, seed) in zip(c.entries, c.places, strict=True):
        colour, mark = LOOKS[recipe % len(LOOKS)]
        points = sorted(entry.front, key=lambda e: float(x.of([e])[0]))
        if not points:
            continue
        at: dict[str, Any] = {"x": x.of(points), "y": y.of(points)}
        if len(c.objectives) == 2:
            plot.step(at["x"], at["y"], where="pre", color=colour, ls=STROKES[seed % len(STROKES)], zorder=2)
        errors: dict[str, Any] = {"xerr": x.error(points), "yerr": y.error(points), "elinewidth": 0.5}
        one = c.recipes[recipe]
        name = entry.label if len(one.sweeps) == 1 else f"{one.label} ({len(one.sweeps)} seeds)"
        plot.errorbar(**at, **errors, fmt=mark, color=colour, label=None if recipe in named else name, zorder=3)
        named.add(recipe)
    for e, mark, name in ((c.baseline, "D", "baseline"), (c.common.oracle, "*", "oracle")):
        if e is not None:
            plot.plot(x.of([e]), y.of([e]), mark, color="black", ms=4 if mark == "D" else 7, label=name, zorder=4)
    _finish(figure, plot, c, chosen)


def draw_attainment(figure: Figure, c: Comparison, chosen: tuple[Axis, Axis]) -> None:
    """What half of a recipe's seeds attain as a line, and between what all and at least one attain a band; of two seeds
    a line for each."""
    x, y = chosen
    plot = figure.subplots()
    fronts = [np.stack([x.of(entry.front), y.of(entry.front)], axis=1) for entry in c.entries]
    every = np.concatenate([fronts[i] for group in c.seeds for i in group])
    if len(every):
        left, bottom = (every.min(axis=0) - 0.06 * np.maximum(np.ptp(every, axis=0), 0.1)).tolist()
        for group in c.seeds:
            colour, _ = LOOKS[c.places[group[0]][0] % len(LOOKS)]
            if len(group) < FEWEST:
                for i in group:
                    line = outline(attainment([fronts[i]])["best"], left, bottom)
                    stroke = STROKES[c.places[i][1] % len(STROKES)]
                    plot.plot(line[:, 0], line[:, 1], color=colour, ls=stroke, label=c.entries[i].label)
                continue
            surfaces = attainment([fronts[i] for i in group])
            lines = {name: outline(surface, left, bottom) for name, surface in surfaces.items()}
            if len(lines["worst"]):
                band = np.concatenate([lines["best"], lines["worst"][::-1]])
                plot.fill(band[:, 0], band[:, 1], color=colour, alpha=0.2, lw=0)
            name = next(one.label for one in c.recipes if one.sweeps == tuple(group))
            label = f"{name}: median of {len(group)} seeds"
            plot.plot(lines["median"][:, 0], lines["median"][:, 1], color=colour, label=label)
        plot.set_xlim(left=left)
        plot.set_ylim(bottom=bottom)
    _finish(figure, plot, c, chosen)


def _finish(figure: Figure, plot: Axes, c: Comparison, chosen: tuple[Axis, Axis]) -> None:
    draw_limits(plot, c.common, chosen[1])
    in_percent(plot, "xy")
    plot.set_xlabel(chosen[0].title)
    plot.set_ylabel(chosen[1].title)
    figure.legend(loc="outside upper center", ncols=2, handletextpad=0.3, labelspacing=0.25, columnspacing=1)
