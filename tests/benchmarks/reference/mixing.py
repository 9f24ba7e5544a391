"""(d) Tuning against mixing on the testbed: what a search, scaling back, and both forget at 90% of retain.es.

    python tests/benchmarks/reference/mixing.py [--seeds 5] [--trials 16] [--work bench] [--out results/mixing]

The same number of trials each: `tuning` searches learning rate, adapter, batch and retain weight of GA and GradDiff
without mixing; `mixing` trains the default configuration of GradDiff with as many seeds, each scaled back; `both`
searches and scales back. Of each the best of all trials counts, on the rows it was chosen by (retain-select) and,
reloaded, on retain-report. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sweeps import ROOT, note, sweep

SPEC = "search_spaces/ga.yaml"
DEFAULT = {"method": "{name: gd}", "lora__r": 8, "lora__alpha": 16, "training__lr": 1e-3, "training__batch_size": 8}
WAYS: dict[str, dict[str, Any]] = {
    "tuning": {"control__mixing": "false"},
    "mixing": DEFAULT | {"control__mixing": "true", "search__sampler": "random"},
    "both": {"control__mixing": "true"},
}
FAR = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mixing")
    arguments = parser.parse_args()
    began, rows = time.monotonic(), []
    for seed in range(arguments.seeds):
        for way, settings in WAYS.items():
            shared = {"search__trials": arguments.trials, "search__seed": seed * FAR, "evaluate__metrics": "[es]"}
            folder = sweep(SPEC, arguments.work.resolve(), f"{way}-{seed}", **shared, **settings)
            points = pd.read_parquet(folder / "pareto.parquet").to_dict("records")
            trials = pd.read_parquet(folder / "trials.parquet").to_dict("records")
            row = {"way": way, "seed": seed, "trials": len(trials), "seconds": sum(t["seconds"] for t in trials)}
            best = min(points, key=lambda point: point["metrics.forget.es"], default=None)
            for key in ("forget.es", "retain.es", "retain_report.es"):
                nothing = 1.0  # no solution: the baseline
                row[key] = best.get(f"metrics.{key}", float("nan")) if best else nothing
            rows.append(row)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(arguments.out / "best.parquet", index=False)
    note(arguments.out, began, table_of(rows))


def table_of(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: mean ± standard deviation over seeds."""
    lines = ["| | forget.es | retain.es | retain_report.es | seconds of trials |", "| --- | --- | --- | --- | --- |"]
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        cells = []
        for key in ("forget.es", "retain.es", "retain_report.es", "seconds"):
            values = [row[key] for row in mine]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            cells.append(f"{np.mean(values):.0f}" if key == "seconds" else f"{np.mean(values):.3f} ± {spread:.3f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
