"""The two axes that the charts set against each other, and how numbers go onto them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayul.pareto.front import values
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Direction, Floats, forget_objective, score
from rayul.report.gone import ES
from rayul.spec import Limit, is_forgetting


@dataclass(frozen=True)
class Axis:
    """A metric on the scale of `score`: fraction forgotten, or fraction of the baseline kept."""

    metric: str
    direction: Direction
    baseline: float

    @property
    def turned(self) -> bool:
        """Whether `score` divides the baseline by the value, not the value by the baseline."""
        return self.direction != ("minimize" if is_forgetting(self.metric) else "maximize")

    @property
    def title(self) -> str:
        ratio = f"baseline / {self.metric}" if self.turned else f"{self.metric} / baseline"
        return f"{self.short}: 1 − {ratio}" if self.forgets else f"Kept: {ratio}"

    @property
    def short(self) -> str:
        """ "Forgotten" is said of forget.es alone."""
        return "Kept" if not self.forgets else "Forgotten" if self.metric == ES else f"{self.metric} gone"

    @property
    def forgets(self) -> bool:
        return is_forgetting(self.metric)

    def of(self, evaluations: Sequence[Evaluation]) -> Floats:
        return score(self.metric, self.direction, values(evaluations, [self.metric])[:, 0], self.baseline)

    def place(self, limit: Limit) -> float:
        """Where a limit on the metric lies."""
        return float(score(self.metric, self.direction, limit.on({self.metric: self.baseline}), self.baseline))

    def error(self, evaluations: Sequence[Evaluation]) -> Floats:
        """Standard error on the axis' scale, by the slope of `score` at the value; NaN where none was recorded."""
        stderr = np.array([e.stderr.get(self.metric, np.nan) for e in evaluations], dtype=np.float64)
        return stderr * self.slope(evaluations)

    def slope(self, evaluations: Sequence[Evaluation]) -> Floats:
        """By how much the place on the axis changes with the metric, without its sign."""
        value = values(evaluations, [self.metric])[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            every: Floats = np.broadcast_to(
                self.baseline / value**2 if self.turned else 1.0 / np.float64(self.baseline), value.shape
            )
            return every


def axes(results: SweepRecords) -> tuple[Axis, Axis] | None:
    """What the charts show: forgetting across, utility upwards; None when there are no two metrics to set against.

    With more than two objectives the first of each kind; with one, a criterion's metric is the other axis.
    """
    objectives = results.objectives
    x = forget_objective(objectives) or next(iter(objectives))
    limited = {limit.metric: limit.direction for limit in results.limits}
    y = next((metric for metric in [*objectives, *limited] if metric != x), None)
    if y is None:
        return None

    def axis(metric: str) -> Axis:
        direction: Any = objectives.get(metric) or limited[metric]
        return Axis(metric, direction, results.baseline.metrics.get(metric, math.nan))

    return axis(x), axis(y)


def short(numbers: Iterable[float] | npt.NDArray[np.float64], digits: int = 5) -> list[float | None]:
    """Five significant digits are more than a screen shows and half the file; what is not a number becomes null."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in numbers]


def limit_shapes(limit: Limit, axis: Axis, letter: str) -> list[dict[str, Any]]:
    """The side of the limit that breaks it as a tint, and the limit as a line."""
    other = "y" if letter == "x" else "x"
    place = axis.place(limit)
    breaks_below = limit.direction == axis.direction
    line = {
        "type": "line",
        "name": "limit",
        f"{letter}0": place,
        f"{letter}1": place,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"width": 1.5, "dash": "dash"},
    }
    tint = {
        "type": "rect",
        "name": "tint",
        "layer": "below",
        f"{letter}0": place,
        f"{letter}1": -9 if breaks_below else 9,  # beyond any fraction; `views` sets the range
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"width": 0},
    }
    return [tint, line]


def escape(text: str) -> str:
    """Plotly reads a small HTML in its texts: a metric's name must not become part of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
