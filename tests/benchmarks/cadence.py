"""What `evaluate_every: auto` repeats without reading: of full runs, how far each such evaluation is from the truth.

    python tests/benchmarks/cadence.py [--trials 24] [--spec search_spaces/ga.yaml] [--set KEY=VALUE ...]

Random settings of the space, trained alone on the testbed to the last step. Every evaluation reads all rows, and is
compared with the one that auto would have put in its place. Then sweeps of some of these trials, drawn at random: in
how many the best point and the whole front within the limit are the same with auto as with every row read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from rayul.records import BASELINE, Evaluation
from rayul.records.objectives import MIN_FORGOTTEN
from rayul.spec import load_spec
from rayul.sweep.search.samplers import suggest
from rayul.testbed import with_testbed
from rayul.unlearn import trial
from rayul.unlearn.cadence import Watch
from rayul.unlearn.data import load_sets
from rayul.unlearn.job import TrialJob
from rayul.unlearn.task import load_task

found: list[tuple[bool, Evaluation | None]] = []
"""Of each evaluation whether auto repeats it, and what it would have said."""


class Observed(Watch):
    """Notes what it would have done, and has every row read."""

    def repeats(self, step: int) -> bool:
        repeated = super().repeats(step)
        found.append((repeated, self.last))
        return False


def tell_sweeps(whole: Any, auto: Any, trials: Any, size: int, count: int = 2000) -> None:
    """whole, auto: [n, 3] share forgotten, share kept, whether within the limit, of the same n evaluations."""
    rng = np.random.default_rng(0)
    same_best = same_front = 0
    lost = []
    for _ in range(count):
        drawn = np.flatnonzero(np.isin(trials, rng.choice(np.unique(trials), size, replace=False)))
        fronts = [front(rows[drawn]) for rows in (whole, auto)]
        best = [
            max((rows[drawn][i, 0] for i in found), default=0.0)
            for rows, found in zip((whole, auto), fronts, strict=True)
        ]
        same_best += best[0] == best[1]
        same_front += fronts[0] == fronts[1]
        lost.append(best[0] - best[1])
    print(
        f"{count} sweeps of {size} of these trials: the same best point in {same_best / count:.1%}, the same front in "
        f"{same_front / count:.1%}; the best has forgotten {np.mean(lost):.5f} less on average, at most {max(lost):.3f}"
    )


def front(rows: Any) -> set[int]:
    """Of the evaluations within the limit that have forgotten enough, those that no other one beats."""
    able = [i for i, (gone, _, within) in enumerate(rows) if within and gone >= MIN_FORGOTTEN]
    return {
        i
        for i in able
        if not any((rows[j, :2] >= rows[i, :2]).all() and (rows[j, :2] > rows[i, :2]).any() for j in able)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path("search_spaces/ga.yaml"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=16, help="trials of a sweep that is drawn from these")
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = with_testbed(load_spec(asked.spec, ["training.evaluate_every=auto", "control.mixing=false", *asked.changes]))
    sets = load_sets(spec.data)
    task = load_task(spec, sets)
    baseline = trial.reference_evaluation(task, spec, BASELINE)
    study = optuna.create_study(
        directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=asked.seed)
    )
    trial.Watch = Observed  # type: ignore[misc]
    rows: list[tuple[Any, ...]] = []
    for number in range(asked.trials):
        job = TrialJob.of(spec, number, suggest(study.ask(), spec), baseline.metrics)
        found.clear()
        read = [s.evaluations[0] for s in trial.run_trial(task, job) if s.evaluations and s.evaluations[0].step]
        for e, (repeated, last) in zip(read, found, strict=True):
            told = last.metrics["forget.es"] if repeated and last is not None else np.nan
            seen = last if repeated and last is not None else e
            auto = seen.metrics["forget.es"], seen.metrics["retain.es"], seen.feasible
            rows.append(
                (repeated, told, e.metrics["forget.es"], e.metrics["retain.es"], e.feasible, number, e.step, auto)
            )
    *columns, autos = zip(*rows, strict=True)
    repeated, told, forget, retain, feasible, trials, steps = (np.array(column) for column in columns)
    base = baseline.metrics["forget.es"]
    solution = feasible.astype(bool) & (1 - forget / base >= MIN_FORGOTTEN)
    same = forget >= 0.9999 * base
    print(f"{len(rows)} evaluations of {asked.trials} trials; nothing forgotten at {same.mean():.1%}")
    print(f"repeated: {repeated.mean():.1%} of all, {repeated[same].mean():.1%} of those with nothing forgotten")
    wrong = np.abs(told - forget)[repeated]
    print(
        f"forget.es of those: mean error {wrong.mean():.4f}, largest {wrong.max():.3f}; solutions among them: ", end=""
    )
    print(f"{(repeated & solution).sum()} of {solution.sum()}; beyond the limit: {(repeated & ~feasible).sum()}")
    whole = np.stack([1 - forget / base, retain / baseline.metrics["retain.es"], feasible], axis=1)
    auto = np.array(autos, dtype=float) / [base, baseline.metrics["retain.es"], 1]
    auto[:, 0] = 1 - auto[:, 0]
    tell_sweeps(whole.astype(float), auto, trials, asked.size)
    for i in np.flatnonzero(repeated & (np.abs(told - forget) > 0.02)):
        print(f"trial {trials[i]:.0f} step {steps[i]:.0f}: forget.es {forget[i]:.3f}, retain.es {retain[i]:.3f}")


if __name__ == "__main__":
    main()
