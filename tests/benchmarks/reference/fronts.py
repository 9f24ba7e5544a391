"""(b) Every method under equal budgets on the testbed: a grid of five learning rates a method, over seeds.

    python tests/benchmarks/reference/fronts.py [--seeds 10] [--work bench] [--out results/methods]
        [--methods ga,npo --lrs 1e-3,3e-3]: a smaller grid

Writes evaluations.parquet (every evaluation of every seed) and best.parquet (per method and seed the forget.es of the
solution that forgets most at 90% and at 95% of retain.es). An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sweeps import ROOT, evaluations, note, solutions, sweep

from rayul.spec import METHODS

LIMITS = (0.9, 0.95)
SPEC = "tests/benchmarks/reference/methods.yaml"
FAR = 10_000
"""Between the seeds of two sweeps, each of which counts up by trial."""


def swept(methods: list[str], lrs: list[float], work: Path, seed: int) -> pd.DataFrame:
    """All evaluations of one seed. Compiled, which saves a third of the time, but for methods that cannot be."""
    hidden = [method for method in methods if "hidden" in METHODS[method].needs]
    parts = {"compiled": [method for method in methods if method not in hidden], "hidden": hidden}
    found = []
    for i, (name, some) in enumerate(parts.items()):
        if some:
            folder = sweep(
                SPEC,
                work,
                f"methods-{name}-{seed}",
                search__seed=seed * FAR + i * FAR // 2,
                search__trials=len(some) * len(lrs),
                method__name=f"{{choice: [{', '.join(some)}]}}",
                training__lr=f"{{choice: {lrs}}}",
                resources__compile=str(name == "compiled").lower(),
            )
            part = evaluations(folder, sweep=seed)
            found.append(part if not found else part[~part.trial_id.isin(["baseline", "oracle"])])
    return pd.concat(found)


def best(found: pd.DataFrame, limit: float) -> float | None:
    """The least forget.es of the solutions that keep `limit` of retain.es; None where none keeps it."""
    kept = found[found["metrics.retain.es"] >= limit]
    return float(kept["metrics.forget.es"].min()) if len(kept) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--lrs", default="5e-4,1e-3,2e-3,3e-3,5e-3")
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "methods")
    arguments = parser.parse_args()
    began = time.monotonic()
    methods, lrs = arguments.methods.split(","), [float(lr) for lr in arguments.lrs.split(",")]
    frames, rows = [], []
    for seed in range(arguments.seeds):
        frame = swept(methods, lrs, arguments.work.resolve(), seed)
        frames.append(frame)
        baseline = frame[frame.trial_id == "baseline"].iloc[0]
        found = solutions(frame)
        for method in methods:
            mine = found[found["params.method.name"] == method]
            for limit in LIMITS:
                value = best(mine, limit * baseline["metrics.retain.es"])
                nothing = baseline["metrics.forget.es"]
                rows.append(
                    {"method": method, "seed": seed, "limit": limit, "forget.es": nothing if value is None else value}
                )
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.concat(frames).to_parquet(arguments.out / "evaluations.parquet", index=False)
    pd.DataFrame(rows).to_parquet(arguments.out / "best.parquet", index=False)
    note(arguments.out, began, table_of(rows))


def table_of(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: forget.es of the best solution, mean ± standard deviation over seeds; what forgets most comes first."""
    cells: dict[str, list[str]] = {}
    order: dict[str, float] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        for limit in LIMITS:
            values = [r["forget.es"] for r in rows if r["method"] == method and r["limit"] == limit]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            cells.setdefault(method, []).append(f"{np.mean(values):.3f} ± {spread:.3f}")
            order.setdefault(method, float(np.mean(values)))
    head = ["| method | forget.es at 90% of retain.es | at 95% |", "| --- | --- | --- |"]
    return head + [f"| {m} | {' | '.join(cells[m])} |" for m in sorted(cells, key=order.__getitem__)]


if __name__ == "__main__":
    main()
