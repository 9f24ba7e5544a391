"""Results for Python users: the tables as pandas DataFrames, and what a notebook or a terminal shows of a sweep."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from rayul.pareto.results import Results

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from rayul.pareto.summary import Summary

ROWS = 20
"""Points of the front that a notebook shows."""


class Frames:
    """The tables of a sweep, with the columns of its Parquet files, made when first asked for."""

    def __init__(self, results: Results) -> None:
        self._results = results

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation, the reference models first: trial_id, step, mixing, params.*, metrics.*, ..."""
        from rayul.records import to_table

        return _frame(to_table(self._results.evaluations))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: state, reason, params.*, its best step, the fraction forgotten there, seconds."""
        from rayul.pareto.tables import trials_table

        return _frame(trials_table(self._results))

    @cached_property
    def front(self) -> pd.DataFrame:
        """One row per point of the front, best in the first objective first, with its adapter's folder."""
        from rayul.pareto.tables import front_table

        return _frame(front_table(self._results.front, self._results))

    def __repr__(self) -> str:
        return f"Frames of {self._results.name}: evaluations, trials, front"


def text(results: Results) -> str:
    """What `print(results)` says: counts, hypervolume, and the front as a table."""
    from rayul.pareto.summary import front_lines, summary_of

    summary = summary_of(results)
    return "\n".join([f"{results.name}: {_counts(summary)}", *front_lines(summary)])


def html(results: Results) -> str:
    """The same for a notebook, the front with its settings. Everything that a name or a value holds is escaped."""
    from rayul.pareto.summary import summary_of

    title = f"<p><strong>{escape(results.name)}</strong>: {escape(_counts(summary_of(results)))}</p>"
    frame = results.frames.front
    if frame.empty:
        return title + "<p>The front is empty.</p>"
    settings = [column for column in frame.columns if column.startswith("params.")]
    shown = ["trial_id", "step", "mixing", "forgotten", *(f"metrics.{metric}" for metric in results.objectives)]
    table = frame[[*shown, *settings]].rename(columns=lambda name: name.removeprefix("metrics."))
    rendered = table.to_html(index=False, max_rows=ROWS, escape=True, border=0, float_format="{:.4g}".format)
    return title + str(rendered)


def _counts(summary: Summary) -> str:
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count)
    return f"{sum(summary.states.values())} trials ({states or 'none yet'}), hypervolume {summary.hypervolume:.4f}"


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame
