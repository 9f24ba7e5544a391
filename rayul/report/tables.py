"""The tables that a sweep leaves behind: one row per evaluation, per trial, and per point of the front."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rayul.files import write_json, write_text
from rayul.pareto.best import best_of_trials
from rayul.pareto.front import forgotten
from rayul.records import Evaluation, to_table, write_table
from rayul.records.folder import SweepRecords


def trials_table(results: SweepRecords) -> pa.Table:
    """trial_id, state, rule, reason, seed, params.*, steps, evaluations, best_step, best_mixing, forgotten, seconds.

    steps: taken at the last evaluation. best_* and `forgotten` (at that evaluation) are null for a trial without a
    solution. `seconds` is training and evaluation until the trial ended. A trial that never ended keeps the state
    "running".
    """
    best = best_of_trials(results)
    columns: dict[str, list[Any]] = {}
    endings = results.endings
    columns["steps"] = [results.steps(trial) for trial in endings]
    columns["evaluations"] = [len(results.trials[trial]) for trial in endings]
    columns["best_step"] = [best[trial][0].step if trial in best else None for trial in endings]
    columns["best_mixing"] = [best[trial][0].mixing if trial in best else None for trial in endings]
    columns["forgotten"] = [best[trial][1] if trial in best else None for trial in endings]
    columns["seconds"] = [e.train_seconds for e in endings.values()]
    types = {"best_mixing": pa.float64(), "forgotten": pa.float64(), "seconds": pa.float64()}

    # The parameter columns, and their types, are those of evaluations.parquet.
    flat = to_table(Evaluation(trial, 0, seed=e.seed, params=e.params) for trial, e in endings.items())
    table = flat.select(["trial_id", "seed", *(n for n in flat.column_names if n.startswith("params."))])
    for place, name in enumerate(("state", "rule", "reason"), 1):
        texts = pa.array([getattr(e, name) for e in endings.values()], type=pa.string())
        table = table.add_column(place, name, texts)
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column, type=types.get(name, pa.int64())))
    return table


def front_table(front: Sequence[Evaluation], results: SweepRecords) -> pa.Table:
    """The front with every column of evaluations.parquet, `forgotten`, and `adapter`: the exported folder, or null.

    The retain-report values of an exported point are metrics.retain_report.* (and stderr.*), as in the other rows.
    """
    rows = [results.with_report(e) for e in front]
    adapters = [results.adapters[e.key].path if e.key in results.adapters else None for e in front]
    table = to_table(rows)
    gone = forgotten(front, results.baseline, results.objectives)
    table = table.append_column("forgotten", pa.array(gone, type=pa.float64()))
    return table.append_column("adapter", pa.array(adapters, type=pa.string()))


def write_tables(results: SweepRecords, front: Sequence[Evaluation]) -> None:
    """Write evaluations.parquet, trials.parquet and pareto.parquet/.csv/.json into the results folder, each whole.

    The CSV has no columns of lists (group_sums, group_rows).
    """
    folder = results.folder
    write_table(to_table(results.evaluations), folder / "evaluations.parquet")
    write_table(trials_table(results), folder / "trials.parquet")
    pareto = front_table(front, results)
    write_table(pareto, folder / "pareto.parquet")
    rows = pareto.to_pylist()
    buffer = io.StringIO()
    single = [column.name for column in pareto.schema if not pa.types.is_list(column.type)]
    writer = csv.DictWriter(buffer, single, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "pareto.csv", buffer.getvalue())
    write_json(folder / "pareto.json", rows)
