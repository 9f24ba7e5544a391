"""Results for Python users: a sweep's records with its front, the tables as pandas DataFrames, and what a notebook or a
terminal shows of it."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.pareto.best import best_point
from rayul.pareto.front import front_of
from rayul.records import Evaluation, to_table
from rayul.records.folder import SweepRecords, load_records
from rayul.report.summary import Summary, summary_of
from rayul.report.tables import front_table, trials_table
from rayul.report.terminal import front_lines
from rayul.words import plural

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

ROWS = 20
"""Points of the front that a notebook shows."""


class Results(SweepRecords):
    """The records of one sweep, with what a person asks of them. Made by `load_results`."""

    @cached_property
    def front(self) -> list[Evaluation]:
        """The non-dominated solutions, best in the first objective first."""
        return front_of(self)

    @cached_property
    def frames(self) -> Frames:
        """`frames.evaluations`, `frames.trials` and `frames.front`: the tables as pandas DataFrames."""
        return Frames(self)

    def best(self, at: str | None = None) -> Evaluation:
        """The point of the front that forgot most; `at`, e.g. "retain.es>=0.95*baseline", is a condition that it has to
        keep. Without limits and condition, the point that spans the largest volume alone.

        Raises InputError for a condition that is not understood, or that no point of the front keeps.
        """
        return best_point(self, at)

    def __repr__(self) -> str:
        """Counts, hypervolume, and the front as a table."""
        summary = summary_of(self)
        return "\n".join([f"{self.name}: {_counts(summary)}", *front_lines(summary)])

    def _repr_html_(self) -> str:
        """The same for a notebook, the front with its settings. Everything that a name or a value holds is escaped."""
        title = f"<p><strong>{escape(self.name)}</strong>: {escape(_counts(summary_of(self)))}</p>"
        frame = self.frames.front
        if frame.empty:
            return title + "<p>The front is empty.</p>"
        settings = [column for column in frame.columns if column.startswith("params.")]
        shown = ["trial_id", "step", "mixing", "forgotten", *(f"metrics.{metric}" for metric in self.objectives)]
        table = frame[[*shown, *settings]].rename(columns=lambda name: name.removeprefix("metrics."))
        rendered = table.to_html(index=False, max_rows=ROWS, escape=True, border=0, float_format="{:.4g}".format)
        return title + str(rendered)


class Frames:
    """The tables of a sweep, with the columns of its Parquet files, made when first asked for."""

    def __init__(self, results: Results) -> None:
        self._results = results

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation, the reference models first: trial_id, step, mixing, params.*, metrics.*, ..."""
        return _frame(to_table(self._results.evaluations))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: state, rule, reason, params.*, its best step, the fraction forgotten there, seconds."""
        return _frame(trials_table(self._results))

    @cached_property
    def front(self) -> pd.DataFrame:
        """One row per point of the front, best in the first objective first, with its adapter's folder."""
        return _frame(front_table(self._results.front, self._results))

    def __repr__(self) -> str:
        return f"Frames of {self._results.name}: evaluations, trials, front"


def load_results(folder: Path | str) -> Results:
    """Read a results folder; needs its spec.yaml and evaluations.jsonl with the baseline's row, nothing else.

    Raises InputError when a file is missing, RayulError when the journal or run.json is broken, or the journal
    has no baseline yet.
    """
    records = load_records(folder)
    return Results(**{field.name: getattr(records, field.name) for field in fields(records)})


def _counts(summary: Summary) -> str:
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items() if count)
    trials = plural(sum(summary.states.values()), "trial")
    return f"{trials} ({states or 'none yet'}), hypervolume {summary.hypervolume:.4f}"


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame
