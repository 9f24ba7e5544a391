"""Methods before control, after early stopping and after calibration, on the testbed over paired seeds.

    python tests/benchmarks/methods.py [--seeds 10] [--taus 0.95,0.9] [--lrs 1e-3] [--out FOLDER] [--best results/gd]
        [--bench FOLDER of `rayul testbed`]

Every method runs once with each seed, all with the same adapter, batch size, steps and learning rate; METHODS lists
what differs. Per run: forget.es and retain.es of the last step (no control); of the last evaluation before the first to
break tau * baseline (early stopping); of the last adapter scaled to the largest mixing that keeps tau * baseline
(calibration), and of the evaluation whose calibration forgets most, which is what a sweep keeps. Two processes, one
thread each. With several learning rates the table has a line for each method and rate. `--bench` takes the models and
rows of a folder in place of the embedded testbed. `--best` retrains the best point of a sweep over fresh seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

METHODS: dict[str, dict[str, Any]] = {
    "ga": {},
    "gd": {},
    "kl": {},
    "po": {},
    "npo": {},
    "simnpo": {},
    "rmu": {"steering": 20.0},
    "wga": {},
}
FRESH = 1000
"""First of the seeds that no sweep has used (a sweep's trial n has seed search.seed + n)."""

_TASK: Any = None


class Job(NamedTuple):
    """label: the line of the table; bench: "testbed", or a folder like it."""

    label: str
    seed: int
    method: dict[str, Any]
    training: dict[str, Any]
    lora: dict[str, Any]
    taus: tuple[float, ...]
    bench: str


def spec_of(method: dict[str, Any], training: dict[str, Any], lora: dict[str, Any], bench: str) -> Any:
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    plain = {
        "name": "methods",
        "model": bench if bench == "testbed" else f"{bench}/model",
        "data": bench,
        "method": method,
        "training": {"lr": 1e-3, "batch_size": 8, "steps": 60, "evaluate_every": 5} | training,
        "lora": {"r": 8, "alpha": 16} | lora,
        "evaluate": {"metrics": ["es"]},
    }
    return with_testbed(from_plain(plain))


def run(job: Job) -> dict[str, Any]:
    """One method with one seed: a row of the table."""
    global _TASK
    import torch

    from rayul.unlearn.data import load_sets
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.task import load_task
    from rayul.unlearn.train import train
    from rayul.unlearn.update import attach

    torch.set_num_threads(1)
    name, seed, method, training, lora, taus, bench = job
    spec = spec_of(method, training, lora, bench)
    if _TASK is None:
        _TASK = load_task(spec, load_sets(spec.data))
    baseline = evaluate(_TASK.base, _TASK, ("es",), 64).values
    update = attach(_TASK, spec, seed)
    history = []
    best: dict[float, dict[str, Any]] = {tau: {"mixed_forget": 1.0} for tau in taus}
    last: dict[float, dict[str, Any]] = {}
    for step in train(update, _TASK, spec, seed):
        values = evaluate(update.model, _TASK, ("es",), 64).values if step else baseline
        history.append((step, values["forget.es"], values["retain.es"]))
        at = {0.0: baseline, 1.0: values}
        for tau in taus if step else ():
            last[tau] = calibrated(update, tau * baseline["retain.es"], at)
            best[tau] = min(best[tau], last[tau], key=lambda found: found["mixed_forget"])
    update.detach()
    row: dict[str, Any] = {"method": name, "seed": seed, "baseline_forget": baseline["forget.es"]}
    row |= {"baseline_retain": baseline["retain.es"], "forget": history[-1][1], "retain": history[-1][2]}
    for tau in taus:
        kept = list(itertools.takewhile(lambda point: point[2] >= tau * baseline["retain.es"], history))  # noqa: B023
        row |= {
            f"stopped_{key}_{tau}": value for key, value in zip(("step", "forget", "retain"), kept[-1], strict=True)
        }
        row |= {f"{key}_{tau}": value for key, value in last[tau].items()}
        row |= {f"best_{key}_{tau}": value for key, value in best[tau].items()}
    return row


def calibrated(update: Any, limit: float, at: dict[float, dict[str, float]]) -> dict[str, Any]:
    """The model at the largest mixing that keeps retain.es at the limit; `at` holds what was measured already."""
    from rayul.unlearn.calibrate import calibrate
    from rayul.unlearn.evaluate import evaluate

    def violation(a: float) -> float:
        if a not in at:
            with update.mixed(a):
                at[a] = evaluate(update.model, _TASK, ("es",), 64).values
        return max(0.0, limit - at[a]["retain.es"])

    found = calibrate(violation)
    values = at[found.mixing]
    return {
        "mixed_forget": values["forget.es"],
        "mixed_retain": values["retain.es"],
        "mixing": found.mixing,
        "monotone": found.monotone,
    }


def table(rows: list[dict[str, Any]], taus: Sequence[float]) -> str:
    """Markdown: mean +- standard deviation over the seeds."""

    def cell(name: str, key: str) -> str:
        values = [row[key] for row in rows if row["method"] == name]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.2f} ± {spread:.2f}"

    heads = ["method", "forget", "retain"]
    for tau in taus:
        heads += [
            f"stopped at {tau}: forget",
            "retain",
            f"last, mixed to {tau}: forget",
            "retain",
            "a",
            "runs with a = 0",
        ]
        heads += [f"best step, mixed to {tau}: forget", "retain"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name in dict.fromkeys(row["method"] for row in rows):
        cells = [name, cell(name, "forget"), cell(name, "retain")]
        for tau in taus:
            zero = [row[f"mixing_{tau}"] == 0 for row in rows if row["method"] == name]
            keys = ("stopped_forget", "stopped_retain", "mixed_forget", "mixed_retain", "mixing")
            cells += [cell(name, f"{key}_{tau}") for key in keys]
            cells.append(f"{sum(zero)}/{len(zero)}")
            cells += [cell(name, f"{key}_{tau}") for key in ("best_mixed_forget", "best_mixed_retain")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_point(folder: Path) -> dict[str, Any]:
    """The point of a sweep's front that forgets most, with its settings."""
    rows = pq.read_table(folder / "pareto.parquet").to_pylist()
    return min(rows, key=lambda row: row["metrics.forget.es"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--taus", default="0.95,0.9")
    parser.add_argument("--lrs", default="1e-3")
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations")
    parser.add_argument("--bench", default="testbed")
    parser.add_argument("--best", type=Path, default=None, help="results folder of a calibrated sweep")
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    from rayul import load_spec

    taus = tuple(float(tau) for tau in arguments.taus.split(","))
    lrs = [float(lr) for lr in arguments.lrs.split(",")]
    shared = (taus, arguments.bench)
    spec_of({"name": "ga"}, {}, {}, arguments.bench)  # builds the testbed before two processes need it

    jobs = []
    if arguments.best is not None:
        point = best_point(arguments.best)
        params = {k.removeprefix("params."): v for k, v in point.items() if k.startswith("params.") and v is not None}
        resolved = load_spec(arguments.best / "spec.yaml").at(params).resolved()
        sections = {name: resolved[name] for name in ("method", "training", "lora")}
        sections["training"] |= {"steps": point["step"], "evaluate_every": 5}
        label = f"best of {arguments.best.name}"
        seeds = range(FRESH, FRESH + arguments.seeds)
        jobs = [Job(label, seed, sections["method"], sections["training"], sections["lora"], *shared) for seed in seeds]
        print(f"{label}: {json.dumps(params)} at step {point['step']}, mixing {point['mixing']}: ")
        print(f"  forget.es {point['metrics.forget.es']:.3f}, retain.es {point['metrics.retain.es']:.3f} in the sweep")
    else:
        for seed in range(FRESH, FRESH + arguments.seeds):
            jobs += [
                Job(
                    m if len(lrs) == 1 else f"{m} {lr:g}",
                    seed,
                    {"name": m} | METHODS.get(m, {}),
                    {"lr": lr, "evaluate_every": arguments.every},
                    {},
                    *shared,
                )
                for m in arguments.methods.split(",")
                for lr in lrs
            ]

    started = time.perf_counter()
    rows = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for row in pool.imap_unordered(run, jobs):
            rows.append(row)
            print(f"{len(rows)}/{len(jobs)} {row['method']} seed {row['seed']}", file=sys.stderr, flush=True)
    order = list(dict.fromkeys(job.label for job in jobs))
    rows.sort(key=lambda row: (order.index(row["method"]), row["seed"]))
    seconds = time.perf_counter() - started
    print(f"{datetime.now(UTC):%Y-%m-%d}, {arguments.seeds} seeds from {FRESH}, {seconds:.0f} s on two processes\n")
    print(table(rows, taus))
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        for tau in taus:
            for which, key in (("last step", f"mixed_forget_{tau}"), ("best step", f"best_mixed_forget_{tau}")):
                ratios = [row[key] / row[f"stopped_forget_{tau}"] for row in mine if row[f"stopped_forget_{tau}"]]
                share = statistics.mean(ratios) if ratios else float("nan")
                median = statistics.median(row[key] for row in mine)
                print(f"{name}: calibrated at {tau}, {which}: {share:.2f} of stopped; median {median:.2f}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), arguments.out / "methods.parquet")
        (arguments.out / "table.md").write_text(table(rows, taus) + "\n")


if __name__ == "__main__":
    main()
