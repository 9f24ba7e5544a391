"""The audit's tables: what every finalist measures, every attack on every model, and the robustness of the metrics."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rayul.audit.judge import Judged, own_value
from rayul.audit.read import Audit
from rayul.audit.robustness import FORGET_METRICS, robustness
from rayul.audit.verdict import as_json
from rayul.files import write_json
from rayul.records import write_table
from rayul.records.audited import AUDIT, BEFORE


def write_audit_tables(audit: Audit, judged: list[Judged]) -> None:
    """Write finalists.parquet, attacks.parquet, robustness.parquet and verdict.json into audit/, each whole."""
    folder = audit.results.folder / AUDIT
    write_table(finalists_table(audit, judged), folder / "finalists.parquet")
    write_table(attacks_table(audit), folder / "attacks.parquet")
    write_table(_table([asdict(row) for row in robustness(audit)]), folder / "robustness.parquet")
    write_json(folder / "verdict.json", as_json(audit, judged))


def finalists_table(audit: Audit, judged: list[Judged]) -> pa.Table:
    """A row for each metric of each finalist: baseline, oracle, what the search saw, and over fresh seeds the mean, sd,
    low and high; drawn says what the bounds were drawn over."""
    rows = []
    for one in judged:
        runs = one.finalist.runs
        keys = dict.fromkeys(key for run in runs for key in run.scored[0].metrics)
        for key in keys:
            interval = own_value(audit, runs, key)
            rows.append(
                {
                    "finalist": one.finalist.name,
                    "metric": key,
                    "baseline": audit.baseline.metrics.get(key, math.nan),
                    "oracle": audit.oracle.metrics.get(key, math.nan) if audit.oracle else math.nan,
                    "searched": audit.results.with_report(one.finalist.found).metrics.get(key, math.nan),
                    **interval._asdict(),
                    "drawn": "seeds and rows" if key in runs[0].scored[0].values else "seeds",
                    "seeds": len(runs),
                }
            )
    return _table(rows)


def attacks_table(audit: Audit) -> pa.Table:
    """A row for each variant of each attack on each model: the forget metrics before and after, on the rows judged."""
    rows = []
    for row in audit.rows.values():
        if row.attack == BEFORE:
            continue
        before = audit.before(row)
        for one in row.scored:
            judged = list(one.judged) or list(range(len(before.values["forget.es"])))
            shown: dict[str, Any] = {
                "subject": row.subject,
                "seed": row.seed,
                "attack": row.attack,
                "variant": one.variant,
                "rows": len(judged),
            }
            for key in FORGET_METRICS:
                if key in before.values:
                    shown[f"{key}.before"] = float(np.array(before.values[key])[judged].mean())
                shown[f"{key}.after"] = one.metrics.get(key, math.nan)
            rows.append(shown)
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)
