"""(b) Every method under equal budgets on the testbed: a grid of five learning rates a method, over seeds.

    python tests/benchmarks/reference/fronts.py [--seeds 10] [--work bench] [--out results/methods]

Writes evaluations.parquet (every evaluation of every seed) and best.parquet (per method and seed the forget.es of the
solution that forgets most at 90% and at 95% of retain.es). An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sweeps import ROOT, evaluations, note, solutions, sweep

SPEC = "tests/benchmarks/reference/methods.yaml"
FAR = 10_000
"""Between the seeds of two sweeps, each of which counts up by trial."""


def best(table: pa.Table, baseline: dict[str, Any], limit: float) -> dict[str, Any] | None:
    """The solution that forgets most while it keeps `limit` of retain.es; None where none keeps it."""
    kept = [r for r in table.to_pylist() if r["metrics.retain.es"] >= limit * baseline["metrics.retain.es"]]
    return min(kept, key=lambda row: row["metrics.forget.es"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "methods")
    arguments = parser.parse_args()
    began = time.monotonic()
    tables, rows = [], []
    for seed in range(arguments.seeds):
        folder = sweep(SPEC, arguments.work.resolve(), f"methods-{seed}", search__seed=seed * FAR)
        table = evaluations(folder, sweep=seed)
        tables.append(table)
        baseline = next(row for row in table.to_pylist() if row["trial_id"] == "baseline")
        found = solutions(table)
        for method in dict.fromkeys(found["params.method.name"].to_pylist()):
            mine = found.filter(pa.compute.field("params.method.name") == method)
            for limit in (0.9, 0.95):
                row = best(mine, baseline, limit)
                value = row["metrics.forget.es"] if row else baseline["metrics.forget.es"]
                rows.append({"method": method, "seed": seed, "limit": limit, "forget.es": value})
    arguments.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables, promote_options="default"), arguments.out / "evaluations.parquet")
    pq.write_table(pa.Table.from_pylist(rows), arguments.out / "best.parquet")
    note(arguments.out, began, table_of(rows))


def table_of(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: forget.es of the best solution, mean ± standard deviation over seeds; what forgets most comes first."""
    cells: dict[str, list[str]] = {}
    order: dict[str, float] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        for limit in (0.9, 0.95):
            values = [r["forget.es"] for r in rows if r["method"] == method and r["limit"] == limit]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            cells.setdefault(method, []).append(f"{np.mean(values):.3f} ± {spread:.3f}")
            order.setdefault(method, float(np.mean(values)))
    head = ["| method | forget.es at 90% of retain.es | at 95% |", "| --- | --- | --- |"]
    return head + [f"| {m} | {' | '.join(cells[m])} |" for m in sorted(cells, key=order.__getitem__)]


if __name__ == "__main__":
    main()
