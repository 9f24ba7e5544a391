"""Search arms compared on real runs: hypervolume against training steps, and what pruning rules cost.

    python tests/benchmarks/trajectories.py --cache FILE      (once: 720 runs to the end, about an hour of CPU)
    python tests/benchmarks/search.py --cache FILE [--seeds 10] [--trials 64] [--out results/search]
    python tests/benchmarks/search.py --cache FILE --rules    (false prunes of each rule on all trajectories)

Every arm proposes configurations of the same grid and is answered from the cache by the exact configuration; one that
is not there is an error, never a neighbour. `flight` trials run at a time, in steps of an evaluation, so a sampler with
more in flight has seen less. Cost is training steps of all trials. Hypervolume is rayul's own
(feasible at 90% of retain.es, at least 5% forgotten, utility above the limit), of every evaluation an arm has paid for.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import statistics
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import trajectories

STEPS, EVERY = trajectories.STEPS, trajectories.EVERY
Points = list[tuple[int, float, float]]
BASE = {"forget.es": 1.0, "retain.es": 1.0}


def propose(trial: optuna.Trial) -> dict[str, Any]:
    """A configuration of the grid; numbers are ordered indices, so that a sampler can model them."""
    params: dict[str, Any] = {}
    for key, options in trajectories.SPACE.items():
        if key == "method.retain_weight" and params["method.name"] == "ga":
            continue
        if key == "method.name":
            params[key] = trial.suggest_categorical(key, options)
        else:
            params[key] = options[trial.suggest_int(key, 0, len(options) - 1)]
    return params


class Arm(NamedTuple):
    """sampler(seed); stock: driven through Ray's OptunaSearch and told last values; rules: rayul's pruning; asha: Ray's
    ASHA on forget.es; tell: rayul's choice of what stands for a trial."""

    sampler: Callable[[int], optuna.samplers.BaseSampler]
    stock: bool = False
    rules: tuple[str, ...] = ()
    asha: bool = False
    tell: str = "best"


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


ARMS: dict[str, Arm] = {
    "random": Arm(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "stock tpe": Arm(lambda seed: optuna.samplers.TPESampler(seed=seed), stock=True),
    "stock tpe + asha": Arm(lambda seed: optuna.samplers.TPESampler(seed=seed), stock=True, asha=True),
    "stock nsga2": Arm(lambda seed: optuna.samplers.NSGAIISampler(seed=seed), stock=True),
    "random + criteria": Arm(lambda seed: optuna.samplers.RandomSampler(seed=seed), rules=("criteria",)),
    "rayul, no pruning": Arm(tpe),
    "rayul, criteria": Arm(tpe, rules=("criteria",)),
    "rayul": Arm(tpe, rules=("criteria", "dominance")),
    "rayul, tell most_forgotten": Arm(tpe, rules=("criteria", "dominance"), tell="most_forgotten"),
    "rayul, tell last_feasible": Arm(tpe, rules=("criteria", "dominance"), tell="last_feasible"),
}


def spec_of(arm: Arm) -> Any:
    """The spec that rayul's scheduler and outcome read, with the arm's rules."""
    from rayul.spec.spec import from_plain

    return from_plain(
        {
            "name": "search",
            "model": "testbed",
            "data": "testbed",
            "method": "ga",
            "training": {"lr": 1e-3, "steps": STEPS, "evaluate_every": EVERY},
            "control": [{"metric": "retain.es", "at_least": "90% of baseline"}],
            "search": {"tell": arm.tell},
            "pruning": {"criteria": "criteria" in arm.rules, "dominance": "dominance" in arm.rules},
        }
    )


def evaluation(number: int, point: tuple[int, float, float]) -> Any:
    from rayul.records import Evaluation

    step, forget, retain = point
    violation = (0.9 - retain) / 0.9
    metrics = {"forget.es": forget, "retain.es": retain}
    return Evaluation(
        f"{number:04d}", step, metrics=metrics, violation={"retain.es": violation}, feasible=violation <= 0
    )


class Mine:
    """rayul's side: ask Optuna, judge with the control scheduler, tell the outcome."""

    def __init__(self, arm: Arm, seed: int) -> None:
        from rayul.records import Evaluation
        from rayul.sweep.scheduler import ControlScheduler

        self.arm, self.seed, self.spec = arm, seed, spec_of(arm)
        self.study = optuna.create_study(directions=["minimize", "maximize"])
        self.scheduler = ControlScheduler(self.spec, BASE)
        self.baseline = Evaluation("baseline", 0, mixing=0.0, metrics=BASE)
        self.trials: dict[int, optuna.Trial] = {}
        self.rows: dict[int, list[Any]] = {}

    def ask(self, number: int) -> dict[str, Any]:
        self.study.sampler = self.arm.sampler(self.seed * 10_000 + number)
        self.trials[number] = self.study.ask()
        self.rows[number] = []
        return propose(self.trials[number])

    def report(self, number: int, point: tuple[int, float, float]) -> bool:
        row = evaluation(number, point)
        self.rows[number].append(row)
        self.scheduler._remember([row])
        return bool(self.scheduler.verdict(row.trial_id, row.step))

    def end(self, number: int) -> None:
        from rayul.sweep.outcome import outcome

        told = outcome(self.rows[number], self.spec, self.baseline)
        assert told is not None
        for metric, violation in told.violations.items():
            self.trials[number].set_constraint(metric, violation)
        self.study.tell(self.trials[number], told.values)


class Stock:
    """Ray's own OptunaSearch with two objectives, and ASHA where the arm has it."""

    def __init__(self, arm: Arm, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self.search = OptunaSearch(
            space=_define, metric=["forget.es", "retain.es"], mode=["min", "max"], sampler=arm.sampler(seed)
        )
        self.asha = None
        if arm.asha:
            self.asha = ASHAScheduler(
                time_attr="step", metric="forget.es", mode="min", max_t=STEPS, grace_period=15, reduction_factor=3
            )
        self.last: dict[int, dict[str, float]] = {}

    def ask(self, number: int) -> dict[str, Any]:
        indices = self.search.suggest(f"{number}")
        if self.asha is not None:
            self.asha.on_trial_add(None, _Trial(f"{number}"))
        return {
            key: value if key == "method.name" else trajectories.SPACE[key][value] for key, value in indices.items()
        }

    def report(self, number: int, point: tuple[int, float, float]) -> bool:
        step, forget, retain = point
        result = {"step": step, "training_iteration": step, "forget.es": forget, "retain.es": retain}
        self.last[number] = result
        if self.asha is None or step == STEPS:
            return False
        return self.asha.on_trial_result(None, _Trial(f"{number}"), result) == "STOP"

    def end(self, number: int) -> None:
        self.search.on_trial_complete(f"{number}", self.last[number])


class _Trial:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def _define(trial: optuna.Trial) -> None:
    """OptunaSearch takes what a define-by-run function suggests (indices) as the configuration."""
    propose(trial)


def run(job: tuple[str, int, int, int, str]) -> dict[str, Any]:
    """One arm with one seed: (steps, hypervolume) whenever it grew, and the totals."""
    from rayul.pareto.hypervolume import hypervolume_history
    from rayul.records import Evaluation

    name, seed, flight, trials, cache = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    known = trajectories.load(Path(cache))
    arm = ARMS[name]
    side: Any = Stock(arm, seed) if arm.stock else Mine(arm, seed)
    rows, cost, started = [], [], 0
    running: dict[int, Any] = {}
    while started < trials or running:
        while started < trials and len(running) < flight:
            running[started] = iter(known[trajectories.key_of(side.ask(started))])
            side.report(started, next(running[started]))
            started += 1
        for number, points in list(running.items()):
            point = next(points)
            rows.append(evaluation(number, point))
            cost.append((cost[-1] if cost else 0) + EVERY)
            if side.report(number, point) or point[0] >= STEPS:
                side.end(number)
                del running[number]
    baseline = Evaluation("baseline", 0, mixing=0.0, metrics=BASE)
    objectives: Any = {"forget.es": "minimize", "retain.es": "maximize"}
    history = hypervolume_history(rows, baseline, objectives, {"retain.es": 0.9})
    curve = [(cost[count - 1] if count else 0, volume) for count, volume in history]
    return {"arm": name, "seed": seed, "flight": flight, "steps": cost[-1], "hypervolume": curve[-1][1], "curve": curve}


def steps_to(curve: list[tuple[int, float]], volume: float) -> float:
    return next((float(steps) for steps, reached in curve if reached >= volume), float("inf"))


def compare(results: list[dict[str, Any]], flight: int) -> str:
    """Markdown: per arm the median final hypervolume with quartiles, steps, and steps to the yardsticks."""
    mine = [r for r in results if r["flight"] == flight]
    by_arm = {name: [r for r in mine if r["arm"] == name] for name in dict.fromkeys(r["arm"] for r in mine)}
    yard = {name: statistics.median(r["hypervolume"] for r in by_arm[name]) for name in ("random", "stock tpe")}
    full = {name: statistics.median(r["steps"] for r in by_arm[name]) for name in yard}
    heads = ["arm", "final hypervolume (quartiles)", "steps"]
    heads += [f"share of the steps of {name} to its final" for name in yard]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, runs in by_arm.items():
        low, middle, high = np.quantile([r["hypervolume"] for r in runs], [0.25, 0.5, 0.75])
        cells = [name, f"{middle:.3f} ({low:.3f} to {high:.3f})", f"{statistics.median(r['steps'] for r in runs):.0f}"]
        for reference, volume in yard.items():
            share = statistics.median(steps_to(r["curve"], volume) for r in runs) / full[reference]
            cells.append("never (median)" if share == float("inf") else f"{share:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def inferiority(results: list[dict[str, Any]], flight: int) -> str:
    """Paired difference rayul - arm in final hypervolume over the seeds: mean and 95% bootstrap bound from below."""
    finals = {(r["arm"], r["seed"]): r["hypervolume"] for r in results if r["flight"] == flight}
    seeds = sorted({seed for _, seed in finals})
    rng, lines = np.random.default_rng(0), []
    for arm in dict.fromkeys(arm for arm, _ in finals if arm != "rayul"):
        differences = np.array([finals["rayul", s] - finals[arm, s] for s in seeds])
        relative = differences / np.mean([finals[arm, s] for s in seeds])
        means = relative[rng.integers(0, len(seeds), (4000, len(seeds)))].mean(1)
        lines.append(f"- rayul against {arm}: {relative.mean():+.1%}, at least {np.quantile(means, 0.05):+.1%}")
    return "\n".join(lines)


def rules(cache: Path, seeds: int, sample: int = 512) -> str:
    """False prunes: of trajectories run to the end, those a rule would stop that would have reached the final front."""
    known = list(trajectories.load(cache).items())
    heads = ["rule", "steps of criteria", "stopped", "of those on the final front", "hypervolume lost (median, worst)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for label, chosen in {"criteria": ("criteria",), "criteria + dominance": ("criteria", "dominance")}.items():
        shares, stopped, false, lost = [], 0, 0, []
        for seed in range(seeds):
            order = known[:]
            random.Random(seed).shuffle(order)
            some = order[:sample]
            kept, cut = _replay(some, ("criteria",)), _replay(some, chosen)
            full = _solutions({n: points for n, (_, points) in enumerate(some)})
            final = _front(full)
            shares.append(sum(cut.values()) / sum(kept.values()))
            ended = [n for n, step in cut.items() if step < STEPS and (chosen == ("criteria",) or step < kept[n])]
            stopped += len(ended)
            false += sum(any(n == who and step > cut[n] for who, step, _, _ in final) for n in ended)
            rest = _solutions({n: [p for p in points if p[0] <= cut[n]] for n, (_, points) in enumerate(some)})
            lost.append(1 - _volume(rest) / _volume(full))
        cells = [label, f"{statistics.mean(shares):.2f}", f"{stopped / seeds:.0f} of {sample}"]
        cells += [f"{false / max(1, stopped):.2%}", f"{statistics.median(lost):.2%}, {max(lost):.2%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _replay(some: list[tuple[str, Points]], chosen: tuple[str, ...]) -> dict[int, int]:
    """Step at which each trajectory ends under the rules, one after the other."""
    side = Mine(Arm(tpe, rules=chosen), 0)
    ends = {}
    for number, (_, points) in enumerate(some):
        side.rows[number] = []
        for point in points:
            ends[number] = point[0]
            if side.report(number, point):
                break
    return ends


def _solutions(kept: dict[int, Points]) -> list[tuple[int, int, float, float]]:
    return [
        (number, step, 1 - forget, (retain - 0.9) / 0.1)
        for number, points in kept.items()
        for step, forget, retain in points
        if step and retain >= 0.9 and forget <= 0.95
    ]


def _front(solutions: list[tuple[int, int, float, float]]) -> list[tuple[int, int, float, float]]:
    from rayul.pareto.front import non_dominated

    mask = non_dominated([s[2:] for s in solutions], ["maximize", "maximize"])
    return [s for s, keep in zip(solutions, mask, strict=True) if keep]


def _volume(solutions: list[tuple[int, int, float, float]]) -> float:
    import moocore

    return float(moocore.hypervolume(np.array([s[2:] for s in solutions]), ref=np.zeros(2), maximise=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--flights", default="2,8,32")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rules", action="store_true")
    arguments = parser.parse_args()
    if arguments.rules:
        print(rules(arguments.cache, arguments.seeds))
        return
    flights = [int(flight) for flight in arguments.flights.split(",")]
    jobs = [
        (name, seed, flight, arguments.trials, str(arguments.cache))
        for flight in flights
        for seed in range(arguments.seeds)
        for name in ARMS
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = list(pool.imap_unordered(run, jobs))
    results.sort(key=lambda r: (r["flight"], list(ARMS).index(r["arm"]), r["seed"]))
    text = [f"{datetime.now(UTC):%Y-%m-%d}, {arguments.seeds} seeds, {arguments.trials} trials of {STEPS} steps"]
    for flight in flights:
        text += [f"\n## {flight} in flight\n", compare(results, flight), "", inferiority(results, flight)]
    print("\n".join(text))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "search.md").write_text("\n".join(text) + "\n")
        (arguments.out / "search.json").write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
