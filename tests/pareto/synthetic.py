"""Made-up results folders: the shape of a sweep's records, without a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rayul.records import BASELINE, COMPLETED, FAILED, ORACLE, PRUNED, Ending, Evaluation, Record, to_json

OBJECTIVES = {"forget.es": "minimize", "retain.es": "maximize"}
BASE = {"forget.es": 0.98, "retain.es": 0.96, "general.es": 0.9, "forget.prob": 0.95, "retain.prob": 0.94}
ROWS = {"forget": 80, "retain": 120, "general": 60}

SPEC = """\
name: synthetic
model: testbed
data: testbed
method: {name: {choice: [ga, gd]}, retain_weight: {float: [0.0, 4.0]}}
lora: {r: {choice: [4, 8, 16]}}
training: {lr: {float: [1e-4, 5e-3], log: true}, steps: 60, evaluate_every: 5}
objectives: {forget.es: minimize, retain.es: maximize}
control:
  - {metric: retain.es, at_least: 90% of baseline, patience: 1}
search: {sampler: tpe, trials: 64, seed: 0}
provenance:
  command: rayul sweep search_spaces/ga.yaml --trials 64
  versions: {rayul: 0.1.0, python: 3.11.9, torch: 2.13.0, ray: 2.60.0, optuna: 5.0.0}
  commit: af7f511
  hardware: {cpu: 2 cores, gpu: none, memory_gb: 24}
"""


def baseline(metrics: dict[str, float] | None = None) -> Evaluation:
    values = BASE if metrics is None else metrics
    return Evaluation(BASELINE, 0, metrics=values, stderr=dict.fromkeys(values, 0.01), rows=ROWS)


def oracle() -> Evaluation:
    values = BASE | {"forget.es": 0.08, "forget.prob": 0.04}
    return Evaluation(ORACLE, 0, metrics=values, stderr=dict.fromkeys(values, 0.012), rows=ROWS)


def evaluation(
    trial: str, step: int, forget: float, retain: float, base: Evaluation | None = None, **more: object
) -> Evaluation:
    """A row with the two objectives, judged by `retain.es >= 90% of baseline`."""
    limit = 0.9 * (BASE if base is None else base.metrics)["retain.es"]
    violation = (limit - retain) / limit if retain == retain else math.inf
    fields = {
        "metrics": {"forget.es": forget, "retain.es": retain},
        "stderr": {"forget.es": 0.03, "retain.es": 0.02},
        "violation": {"retain.es": violation},
        "feasible": violation <= 0,
        "rows": ROWS,
    }
    return Evaluation(trial, step, **(fields | more))  # type: ignore[arg-type]


def ends(e: Evaluation, state: str = COMPLETED, rule: str = "", reason: str = "") -> tuple[Record, Record]:
    """The last evaluation of a trial, and its ending."""
    return e, e.ended(state, rule, reason)


def sweep(trials: int, evaluations: int = 12, seed: int = 0, fail_every: int = 23, prune: bool = True) -> list[Record]:
    """References, then trials that sink like GA does: utility holds for a while and then falls with the forgetting.

    A trial is pruned at its first violation when `prune`; every `fail_every`-th one fails without metrics.
    """
    draw = np.random.default_rng(seed)
    rows: list[Record] = [baseline(), oracle()]
    for number in range(trials):
        trial = f"{number:04d}"
        lr = float(math.exp(draw.uniform(math.log(1e-4), math.log(5e-3))))
        method = str(draw.choice(["ga", "gd"]))
        params: dict[str, object] = {"method.name": method, "lora.r": int(draw.choice([4, 8, 16])), "training.lr": lr}
        if method == "gd":
            params["method.retain_weight"] = float(draw.uniform(0, 4))
        if fail_every and number % fail_every == fail_every - 1:
            reason = f"OutOfMemoryError: tried to allocate {draw.integers(20, 90)} MiB at step 5"
            rows.append(Ending(trial, FAILED, "OutOfMemoryError", reason, params=params, train_seconds=1.5))
            continue
        speed = lr * (0.75 + 0.5 * draw.random()) * 40
        hold = 2.2 + 0.5 * float(params.get("method.retain_weight", 0.0)) + draw.normal(0, 0.3)
        for i in range(1, evaluations + 1):
            step = 5 * i
            depth = 1 - math.exp(-speed * step / 3)
            forget = float(np.clip(0.98 * (1 - depth) + draw.normal(0, 0.01), 0, 1))
            retain = float(np.clip(0.96 * (1 - depth**hold * 0.98) + draw.normal(0, 0.008), 0, 1))
            row = evaluation(trial, step, forget, retain, seed=number, params=params, train_seconds=0.4 * step)
            extra = {"general.es": retain * 0.93, "forget.prob": forget * 0.9, "retain.prob": retain * 0.97}
            stderr = {
                k: math.sqrt(max(v * (1 - v), 1e-4) / ROWS[k.split(".")[0]]) for k, v in (row.metrics | extra).items()
            }
            row = replace(row, metrics=row.metrics | extra, stderr=stderr, device="cpu")
            rows.append(row)
            if prune and not row.feasible:
                limit = 0.9 * BASE["retain.es"]
                reason = f"retain.es {retain:.3f} is below its limit {limit:.3f} at step {step}"
                rows.append(row.ended(PRUNED, "retain.es", reason))
                break
        else:
            rows.append(row.ended(COMPLETED))
    return rows


def evaluations_of(records: Iterable[Record]) -> list[Evaluation]:
    return [record for record in records if isinstance(record, Evaluation)]


def write_folder(folder: Path, rows: Iterable[Record], spec: str = SPEC) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")
    (folder / "evaluations.jsonl").write_text("".join(to_json(e) + "\n" for e in rows), encoding="utf-8")
    return folder
