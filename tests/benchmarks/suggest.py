"""Seconds that the searcher takes to propose a trial, by number of trials in the study.

    python tests/benchmarks/suggest.py [--sizes 100,500,2000] [--sampler tpe] [--running 8]

Through the searcher as a sweep uses it: journal storage on disk, a sampler made anew for each trial, two objectives,
one constraint, a conditional space of eight parameters, `--running` trials in flight. The trials come from an earlier
sweep; for `--sampler trajectory` each with 1 to 12 evaluations, as pruning leaves them. The times of 20 proposals each,
the storage's writes included; CPU seconds, since other work on the machine is not the searcher's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

PROPOSALS = 20


def spec_of(sampler: str) -> Any:
    from rayul.spec.spec import from_plain

    return from_plain(
        {
            "name": "suggest",
            "model": "testbed",
            "data": "testbed",
            "method": {
                "name": {"choice": ["gd", "npo", "simnpo", "wga"]},
                "retain_weight": {"float": [0.25, 4.0], "log": True},
                "beta": {"float": [0.05, 5.0], "log": True},
            },
            "lora": {"r": {"choice": [4, 8, 16]}, "alpha": {"choice": [8, 16, 32]}},
            "training": {
                "lr": {"float": [1e-4, 1e-2], "log": True},
                "batch_size": {"choice": [4, 8, 16]},
                "warmup_steps": {"int": [0, 20]},
            },
            "control": [{"metric": "retain.es", "at_least": "90% of baseline"}],
            "search": {"sampler": sampler, "trials": 10_000},
        }
    )


def ended(spec: Any, count: int) -> list[optuna.trial.FrozenTrial]:
    """Random configurations with an outcome that follows from them: half of them feasible."""
    from rayul.records import to_json
    from rayul.sweep.search.outcome import ROWS
    from rayul.sweep.search.samplers import distributions
    from rayul.sweep.search.searcher import WARM_START

    rng, trials = np.random.default_rng(0), []
    for _ in range(count):
        params: dict[str, Any] = {}
        for key, one in spec.space.items():
            if spec.is_active(key, params):
                kind = distributions(spec, {key: None})[key]
                if isinstance(kind, optuna.distributions.CategoricalDistribution):
                    params[key] = kind.choices[rng.integers(len(kind.choices))]
                elif isinstance(kind, optuna.distributions.IntDistribution):
                    params[key] = int(rng.integers(one.low, one.high + 1))
                else:
                    params[key] = float(np.exp(rng.uniform(np.log(one.low), np.log(one.high))))
        strength = np.log10(params["training.lr"] / 1e-4) / 2
        forget = float(np.clip(1 - strength + 0.1 * rng.normal(), 0, 1))
        retain = float(np.clip(1 - 0.2 * strength * rng.random(), 0, 1))
        violation = (0.9 - retain) / 0.9
        attributes = {WARM_START: "results/earlier"}
        if spec.search.traits.trajectories:
            attributes[ROWS] = [to_json(row) for row in trajectory(forget, retain, int(rng.integers(1, 13)))]
        trials.append(
            optuna.create_trial(
                values=[forget, retain],
                params=params,
                distributions=distributions(spec, params),
                constraints={"retain.es": violation},
                user_attrs=attributes,
            )
        )
    return trials


def trajectory(forget: float, retain: float, known: int) -> list[Any]:
    """The first evaluations, `known` of twelve, of a trial that would end there."""
    from rayul.records import Evaluation

    rows = []
    for i in range(1, known + 1):
        kept = 1 - (1 - retain) * (i / 12) ** 2
        metrics = {"forget.es": 1 - (1 - forget) * i / 12, "retain.es": kept}
        violation = (0.9 - kept) / 0.9
        stderr = {"forget.es": 0.03, "retain.es": 0.01}
        row = Evaluation("0", 5 * i, metrics=metrics, stderr=stderr, violation={"retain.es": violation})
        rows.append(replace(row, feasible=violation <= 0))
    return rows


def measure(sampler: str, size: int, running: int) -> list[float]:
    from rayul.records import BASELINE, Evaluation, Journal
    from rayul.sweep.search.searcher import OptunaSearcher, open_study

    spec = spec_of(sampler)
    baseline = Evaluation(BASELINE, 0, metrics={"forget.es": 1.0, "retain.es": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder) / "study.journal", spec, ended(spec, size))
        searcher = OptunaSearcher(study, spec, Journal(Path(folder) / "evaluations.jsonl"), baseline, 10_000)
        for _ in range(running):
            searcher.suggest("")
        seconds = []
        for _ in range(PROPOSALS):
            began = time.process_time()
            searcher.suggest("")
            seconds.append(time.process_time() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,500,2000")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--running", type=int, default=8)
    arguments = parser.parse_args()
    print("| trials in the study | median | slowest of 20 |\n| --- | --- | --- |")
    for size in map(int, arguments.sizes.split(",")):
        seconds = measure(arguments.sampler, size, arguments.running)
        print(f"| {size:,} | {1000 * statistics.median(seconds):.1f} ms | {1000 * max(seconds):.1f} ms |", flush=True)


if __name__ == "__main__":
    main()
