"""Results for Python users: the tables as pandas DataFrames, and what a notebook or a terminal shows of a sweep."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from rayul.pareto.results import Results

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from rayul.pareto.summary import Summary


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
    """The same for a notebook. Everything that a name or a value holds is escaped."""
    from rayul.pareto.answer import headline
    from rayul.pareto.report import table
    from rayul.pareto.summary import summary_of

    summary = summary_of(results)
    shown = table(results, (summary.front or summary.least_violating)[:20])
    head = "".join(f'<th title="{escape(full)}">{escape(name)}</th>' for name, full in shown["head"])
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell, _ in row['cells'])}</tr>" for row in shown["rows"]
    )
    more = len(summary.front) - len(shown["rows"])
    note = f"<p>and {more} more in <code>.frames.front</code></p>" if more > 0 else ""
    return (
        f"<p><strong>{escape(results.name)}</strong>: {escape(headline(summary))} {escape(_counts(summary))}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
    )


def _counts(summary: Summary) -> str:
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count)
    return f"{sum(summary.states.values())} trials ({states or 'none yet'}), hypervolume {summary.hypervolume:.4f}"


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame
