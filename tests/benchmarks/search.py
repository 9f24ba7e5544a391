"""Search arms compared on real runs: hypervolume against training steps and time, and what pruning rules cost.

    python tests/benchmarks/search.py --cache FILE [--seeds 0-9] [--trials 64] [--out results/search]
    python tests/benchmarks/search.py --cache FILE --rules (false prunes of each rule on all trajectories)

FILE is a recorded space (recorded.py): results/search/trajectories.jsonl, or results/search/space.parquet. Every arm
proposes configurations of the same space and is answered by the run of exactly that configuration. Where a space is
recorded in part, or an arm takes a number for a range, what it proposed is moved to the nearest recorded configuration
that it has not tried, and its study is told that it proposed this one: no result stands at a configuration that it is
not of, but proposals are less free than in a sweep, the more so the less is recorded.

Trials take the seconds that theirs took, `flight` of them at a time, so a sampler with more in flight has seen less.
Steps are training steps of all trials; seconds are those of the sweep on `flight` equal cores: CPU seconds of the
recorded run, those of training and of forwards apart. Hypervolume is rayul's own (feasible at 90% of retain.es, at
least 5% forgotten, utility above the limit), of every evaluation an arm has paid for. On space.parquet each seed draws
the authors that a search selects and certifies by, and what certificates pass of its front is told as well, with the
truth over all authors. With mixing every arm's trials are calibrated; one that knows no criteria is told calibrated
values.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import math
import multiprocessing
import os
import random
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import trajectories
from recorded import DIALS, Interval, Recorded, recording
from scipy import stats
from trajectories import Point

BASE = {"forget.es": 1.0, "retain.es": 1.0}
optuna.logging.set_verbosity(optuna.logging.ERROR)
FLIGHTS = (2, 8, 32)
EVERY = 8
"""Trials after which the front is certified, to see what that would give."""


def propose(trial: optuna.Trial, space: dict[str, list[Any]]) -> dict[str, Any]:
    """A configuration of the space; numbers are ordered indices, so that a sampler can model them."""
    params: dict[str, Any] = {}
    for key, options in space.items():
        if key == "method.name":
            params[key] = trial.suggest_categorical(key, options)
        else:
            params[key] = options[trial.suggest_int(key, 0, len(options) - 1)]
    return params


class Arm(NamedTuple):
    """sampler: by name, of rayul's own or (stock) of Optuna's defaults through Ray's OptunaSearch, which is told last
    values; rules: rayul's pruning; asha: Ray's ASHA on forget.es; tell: rayul's choice of what stands for a trial;
    startup: trials before rayul's sampler models anything; flights: how many at a time it is run with; ranged: whether
    numbers of three options and more are ranges to it, of which the sampler is told the recorded value nearest to what
    it proposed (rayul's own only); prior: of the learning rate, then."""

    sampler: str
    stock: bool = False
    rules: tuple[str, ...] = ()
    asha: bool = False
    tell: str = "auto"
    startup: int = 10
    flights: tuple[int, ...] = FLIGHTS
    ranged: bool = False
    prior: tuple[float, float] | None = None


GOOD, BAD = (3.2e-3, 2.0), (1e-4, 2.0)
"""Priors of the learning rate: where trials forget most within the limit, and at the end where none forgets at all."""

BOTH = ("criteria", "dominance")
ARMS: dict[str, Arm] = {
    "random": Arm("random"),
    "stock tpe": Arm("tpe", stock=True),
    "stock tpe + asha": Arm("tpe", stock=True, asha=True),
    "stock nsga2": Arm("nsga2", stock=True),
    "rayul": Arm("tpe", rules=BOTH),
    "rayul, no pruning": Arm("tpe"),
    "rayul, criteria only": Arm("tpe", rules=("criteria",), flights=(8,)),
    "rayul, dominance only": Arm("tpe", rules=("dominance",), flights=(8,)),
    "rayul, budget only": Arm("tpe", rules=("budget",), flights=(8,)),
    "rayul + budget": Arm("tpe", rules=(*BOTH, "budget"), flights=(8,)),
    "rayul, tell last": Arm("tpe", rules=BOTH, tell="last", flights=(8,)),
    "rayul, tell best": Arm("tpe", rules=BOTH, tell="best", flights=(8,)),
    "rayul, tell most_forgotten": Arm("tpe", rules=BOTH, tell="most_forgotten", flights=(8,)),
    "rayul, tell last_feasible": Arm("tpe", rules=BOTH, tell="last_feasible", flights=(8,)),
    "rayul, random": Arm("random", rules=BOTH, flights=(8,)),
    "gp, no pruning": Arm("gp"),
    "trajectory": Arm("trajectory", rules=BOTH),
    "trajectory, no pruning": Arm("trajectory"),
    "trajectory, 6 at first": Arm("trajectory", startup=6),
    "tpe, ranges": Arm("tpe", ranged=True),
    "tpe, good prior": Arm("tpe", ranged=True, prior=GOOD),
    "tpe, bad prior": Arm("tpe", ranged=True, prior=BAD),
    "trajectory, ranges": Arm("trajectory", ranged=True),
    "trajectory, good prior": Arm("trajectory", ranged=True, prior=GOOD),
    "trajectory, bad prior": Arm("trajectory", ranged=True, prior=BAD),
}

STOCK: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}


def spec_of(recorded: Recorded, arm: Arm, mixing: bool, seed: int = 0) -> Any:
    """The spec that rayul's scheduler, sampler and outcome read, with the arm's rules and one configuration."""
    from rayul.spec.spec import from_plain

    cell = next(cell for cell in recorded.cells if cell["method.name"] == "gd")
    plain = recorded.spec.at(cell).resolved() | {
        "search": {"sampler": arm.sampler, "tell": arm.tell, "seed": seed, "startup_trials": arm.startup},
        "pruning": {rule: rule in arm.rules for rule in ("criteria", "dominance", "budget")},
    }
    plain["control"] = plain["control"] | {"mixing": mixing}
    return from_plain(plain)


def searched(spec: Any, space: dict[str, list[Any]], arm: Arm) -> Any:
    """The spec with the recorded space in it."""
    from rayul.spec.spec import from_plain

    plain = spec.resolved()
    for key, options in space.items():
        section, _, name = key.partition(".")
        form: dict[str, Any] = {"choice": options}
        if arm.ranged and isinstance(options[0], float) and len(options) > 2:
            form = {"float": [min(options), max(options)], "log": True}
            if arm.prior is not None and key == "training.lr":
                form["prior"] = dict(zip(("center", "spread"), arm.prior, strict=True))
        plain[section] = plain[section] | {name: form}
    return from_plain(plain)


def settled(trial: optuna.Trial, recorded: Recorded, keys: dict[int, str], indices: bool) -> dict[str, Any]:
    """The recorded configuration that a proposal comes to; the study is told that this one was proposed.

    indices: whether the numbers are places among the options (`propose`). keys: of those tried; this one is added.
    """

    def is_index(key: str) -> bool:
        return indices and key != "method.name"

    params = {}
    for key, value in trial.params.items():
        options = recorded.space[key]
        params[key] = options[value] if is_index(key) else value
        if params[key] not in options:
            params[key] = min(options, key=lambda option: abs(math.log(option / value)))
    found = recorded.nearest(params, set(keys.values()))
    for key, value in trial.params.items():
        told = recorded.space[key].index(found[key]) if is_index(key) else found[key]
        if told != value:
            one = trial.distributions[key]
            trial.storage.set_trial_param(trial._trial_id, key, one.to_internal_repr(told), one)
    keys[trial.number] = trajectories.key_of(found)
    return found


def evaluation(number: int, point: Point) -> Any:
    from rayul.records import Evaluation

    violation = (0.9 - point.retain) / 0.9
    metrics = {"forget.es": point.forget, "retain.es": point.retain}
    violations = {"retain.es": violation}
    errors = {"forget.es": point.forget_error, "retain.es": point.retain_error}
    return Evaluation(
        f"{number:04d}",
        point.step,
        point.mixing,
        metrics=metrics,
        stderr={key: error for key, error in errors.items() if error},
        violation=violations,
        feasible=violation <= 0,
    )


class Mine:
    """rayul's side: ask Optuna, judge with the scheduler, tell the outcome."""

    def __init__(self, arm: Arm, seed: int, mixing: bool, recorded: Recorded) -> None:
        from rayul.records import Evaluation
        from rayul.sweep.pruning.scheduler import PruningScheduler

        self.spec, self.recorded, self.space = spec_of(recorded, arm, mixing, seed), recorded, recorded.space
        self.study = optuna.create_study(directions=["minimize", "maximize"])
        self.scheduler = PruningScheduler(self.spec, BASE)
        self.baseline = Evaluation("baseline", 0, mixing=0.0, metrics=BASE)
        self.trials: dict[int, optuna.Trial] = {}
        self.keys: dict[int, str] = {}
        self.rows: dict[int, list[Any]] = {}
        self.evidence = None
        modelled = bool(self.spec.search.traits.trajectories)
        self.searched = searched(self.spec, self.space, arm) if modelled or arm.ranged else None
        if modelled:
            from rayul.sweep.search.trajectory.sampler import Evidence

            self.evidence = Evidence(self.searched, self.baseline, lambda trial_id: self.rows[int(trial_id)])

    def ask(self, number: int) -> dict[str, Any]:
        from rayul.sweep.search.samplers import sampler, suggest

        self.study.sampler = sampler(self.searched or self.spec, number, self.evidence)
        self.trials[number] = self.study.ask()
        self.rows[number] = []
        if self.searched is not None:  # it reads a choice among numbers as numbers
            suggest(self.trials[number], self.searched)
        else:
            propose(self.trials[number], self.space)
        return settled(self.trials[number], self.recorded, self.keys, indices=self.searched is None)

    def report(self, number: int, points: list[Point]) -> bool:
        from rayul.sweep.result import TrialResult

        rows = [evaluation(number, point) for point in points]
        self.rows[number] += rows
        result = TrialResult(rows).to_ray()
        return bool(self.scheduler.on_trial_result(None, _Trial(rows[0].trial_id), result) == "STOP")

    def end(self, number: int) -> None:
        from rayul.sweep.search.outcome import SOLVED, outcome

        told = outcome(self.rows[number], self.spec, self.baseline)
        assert told is not None
        for metric, violation in told.constraints.items():
            self.trials[number].set_constraint(metric, violation)
        self.trials[number].set_user_attr(SOLVED, told.solved)
        self.study.tell(self.trials[number], told.values)


class Stock:
    """Ray's own OptunaSearch with two objectives, and ASHA where the arm has it."""

    def __init__(self, arm: Arm, seed: int, mixing: bool, recorded: Recorded) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self.recorded, self.steps = recorded, recorded.spec.training.steps
        self.keys: dict[int, str] = {}
        self.found: dict[str, Any] = {}
        self.search = OptunaSearch(
            space=self._define, metric=["forget.es", "retain.es"], mode=["min", "max"], sampler=STOCK[arm.sampler](seed)
        )
        self.asha = None
        if arm.asha:
            self.asha = ASHAScheduler(
                time_attr="step",
                metric="forget.es",
                mode="min",
                max_t=self.steps,
                grace_period=self.steps // 4,
                reduction_factor=3,
            )
        self.last: dict[int, dict[str, float]] = {}

    def ask(self, number: int) -> dict[str, Any]:
        self.search.suggest(f"{number}")
        if self.asha is not None:
            self.asha.on_trial_add(None, _Trial(f"{number}"))
        return self.found

    def _define(self, trial: optuna.Trial) -> None:
        propose(trial, self.recorded.space)
        self.found = settled(trial, self.recorded, self.keys, indices=True)

    def report(self, number: int, points: list[Point]) -> bool:
        last = points[-1]
        result = {
            "step": last.step,
            "training_iteration": last.step,
            "forget.es": last.forget,
            "retain.es": last.retain,
        }
        self.last[number] = result
        if self.asha is None or not 0 < last.step < self.steps:
            return False
        return self.asha.on_trial_result(None, _Trial(f"{number}"), result) == "STOP"

    def end(self, number: int) -> None:
        self.search.on_trial_complete(f"{number}", self.last[number])


class _Trial:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class Job(NamedTuple):
    arm: str
    seed: int
    flight: int
    mixing: bool
    trials: int
    cache: str
    batch_size: int | None


def run(job: Job) -> dict[str, Any]:
    """One arm with one seed: (steps, seconds, hypervolume) whenever it grew, and the totals; of a space with authors
    also (steps, seconds, certified) after every EVERY trials."""
    from rayul.pareto.front import front
    from rayul.pareto.hypervolume import hypervolume_history
    from rayul.pareto.spread import spread
    from rayul.records import Evaluation

    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    recorded = recording(Path(job.cache), job.batch_size)
    known = recorded.trials(job.mixing, job.seed)
    arm = ARMS[job.arm]
    side: Any = (Stock if arm.stock else Mine)(arm, job.seed, job.mixing, recorded)
    baseline = Evaluation("baseline", 0, mixing=0.0, metrics=BASE)
    objectives: Any = {"forget.es": "minimize", "retain.es": "maximize"}
    rows, spent, certified, ends, steps, now = [], [], [], 0, 0, 0.0
    for now, number, interval, ended in played(side, known, job.trials, job.flight):
        steps += recorded.spec.training.evaluate_every
        rows += [evaluation(number, point) for point in interval.rows]
        spent += [(steps, now)] * len(interval.rows)
        ends += ended
        if ended and (ends % EVERY == 0 or ends == job.trials):
            points = spread(front(rows, baseline, objectives), DIALS)
            found = recorded.certified([(side.keys[int(e.trial_id)], e.step) for e in points], job.seed)
            certified += [] if found is None else [(steps, now, *found)]
    history = hypervolume_history(rows, baseline, objectives, {"retain.es": 0.9})
    curve = [(*(spent[count - 1] if count else (0, 0.0)), volume) for count, volume in history]
    totals = {"steps": steps, "seconds": now, "hypervolume": curve[-1][2], "curve": curve, "certified": certified}
    return {"job": job} | job._asdict() | totals


def played(
    side: Any, known: dict[str, list[Interval]], trials: int, flight: int
) -> Iterator[tuple[float, int, Interval, bool]]:
    """A sweep on the recorded runs: (seconds since its begin, trial, its next interval, whether that ended it)."""
    started, now = 0, 0.0
    running: list[tuple[float, int]] = []
    ahead: dict[int, list[Interval]] = {}

    def begin() -> None:
        nonlocal started
        first, *ahead[started] = known[trajectories.key_of(side.ask(started))]
        side.report(started, first.rows)
        advance(started)
        started += 1

    def advance(number: int) -> None:
        heapq.heappush(running, (now + ahead[number][0].seconds, number))

    while started < min(flight, trials):
        begin()
    while running:
        now, number = heapq.heappop(running)
        interval = ahead[number].pop(0)
        ended = side.report(number, interval.rows) or not ahead[number]
        yield now, number, interval, ended
        if not ended:
            advance(number)
            continue
        side.end(number)
        if started < trials:
            begin()


def reached(curve: list[tuple[int, float, float]], volume: float, which: int) -> float:
    """Steps (0) or seconds (1) after which a hypervolume was there; infinite where it never was."""
    return next((float(point[which]) for point in curve if point[2] >= volume), float("inf"))


REFERENCES = ("random", "stock tpe")


def compare(results: list[dict[str, Any]], flight: int, mixing: bool) -> str:
    """Markdown: per arm the median final hypervolume with quartiles, steps, seconds, and the shares of the steps and
    seconds of the reference arms that it took to reach their median final hypervolume (median over seeds)."""
    mine = [r for r in results if r["flight"] == flight and r["mixing"] is mixing]
    by_arm = {name: [r for r in mine if r["arm"] == name] for name in ARMS}
    by_arm = {name: runs for name, runs in by_arm.items() if runs}
    heads = ["arm", "final hypervolume (quartiles)", "steps", "seconds"]
    heads += [f"share of {name}'s steps (seconds) to its final" for name in REFERENCES]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, runs in by_arm.items():
        cells = [
            name,
            quartiles([r["hypervolume"] for r in runs]),
            f"{statistics.median(r['steps'] for r in runs):,.0f}",
        ]
        cells.append(f"{statistics.median(r['seconds'] for r in runs):,.0f}")
        for reference in REFERENCES:
            volume = statistics.median(r["hypervolume"] for r in by_arm[reference])
            shares = []
            for which, unit in ((0, "steps"), (1, "seconds")):
                full = statistics.median(r[unit] for r in by_arm[reference])
                share = statistics.median(reached(r["curve"], volume, which) for r in runs) / full
                shares.append("never" if share == float("inf") else f"{share:.2f}")
            cells.append(f"{shares[0]} ({shares[1]})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def quartiles(values: list[float]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


Course = list[tuple[int, float, float]]
"""(steps, seconds, value) whenever a value is known anew."""

MEASURES: dict[str, Callable[[dict[str, Any]], Course]] = {
    "hypervolume": lambda r: r["curve"],
    "certified forgetting": lambda r: [(c[0], c[1], c[2]) for c in r["certified"]],
    "certified hypervolume": lambda r: [(c[0], c[1], c[4]) for c in r["certified"]],
}


def inferiority(results: list[dict[str, Any]], measure: str, mine: str) -> str:
    """Paired difference mine - arm in the final value over the seeds that both have: mean, its lower 95% bound
    (one-sided t), and the 95% interval of 10,000 bootstrap samples of the seeds."""
    finals = {(r["arm"], r["seed"]): MEASURES[measure](r)[-1][2] for r in results}
    lines = [f"| {mine} against | mean difference | 95% bound | bootstrap interval |", "| --- | --- | --- | --- |"]
    for arm in dict.fromkeys(arm for arm, _ in finals if arm != mine):
        seeds = sorted(seed for name, seed in finals if name == arm and (mine, seed) in finals)
        differences = np.array([finals[mine, s] - finals[arm, s] for s in seeds])
        relative = differences / np.mean([finals[arm, s] for s in seeds])
        error = relative.std(ddof=1) / math.sqrt(len(seeds))
        bound = relative.mean() - stats.t.ppf(0.95, len(seeds) - 1) * error
        means = relative[np.random.default_rng(0).integers(len(seeds), size=(10_000, len(seeds)))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        lines.append(f"| {arm} | {relative.mean():+.1%} | {bound:+.1%} | {low:+.1%} to {high:+.1%} |")
    return "\n".join(lines)


RULES = {
    "criteria": ("criteria",),
    "dominance": ("dominance",),
    "budget": ("budget",),
    "criteria, dominance": BOTH,
    "criteria, dominance, budget": (*BOTH, "budget"),
}


QUARTERS = (0.25, 0.5, 0.75, 1.0)


def delays(results: list[dict[str, Any]], measure: str, mine: str) -> str:
    """Markdown: per arm the mean final value with its standard error, and the steps until its mean over the seeds is
    what it is for `mine` after a quarter, half, three quarters and all of the steps of `mine`, as a multiple of these;
    of certificates also in how many searches the point that forgets most breaks the limit."""
    arms: dict[str, list[Any]] = {}
    for r in results:
        arms.setdefault(r["arm"], []).append(r)
    steps = np.arange(0, max(r["steps"] for r in results) + 1)

    def mean_at(runs: list[Any]) -> Any:
        total = np.zeros(len(steps))
        for r in runs:
            course = MEASURES[measure](r)
            at, values = [0, *(c[0] for c in course)], [0.0, *(c[2] for c in course)]
            total += np.array(values)[np.searchsorted(at, steps, side="right") - 1]
        return total / len(runs)

    own = mean_at(arms[mine])
    full = statistics.median(r["steps"] for r in arms[mine])
    heads = ["arm", f"final {measure}", *(f"steps to {q:g} of {mine}" for q in QUARTERS)]
    heads += ["limit broken"] if measure != "hypervolume" else []
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for arm, runs in arms.items():
        curve = mean_at(runs)
        finals = np.array([MEASURES[measure](r)[-1][2] for r in runs])
        error = finals.std(ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else math.nan
        cells = [arm, f"{curve[-1]:.3f} ± {error:.3f}"]
        for q in QUARTERS:
            there = np.flatnonzero(curve >= own[int(q * full)] - 1e-12)
            first = np.flatnonzero(own >= own[int(q * full)] - 1e-12)[0]
            cells.append(f"{there[0] / max(1, first):.2f}" if there.size else "never")
        if measure != "hypervolume":
            cells.append(f"{sum(r['certified'][-1][3] for r in runs)} of {len(runs)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rules(recorded: Recorded, mixing: bool, orders: int) -> str:
    """False prunes: of the trajectories run to the end, met one after the other in `orders` random orders, those that
    a rule stops before an evaluation of theirs that is on the front of all; the hypervolume lost with them, and how
    much less a certified point forgets. Each order draws its own authors."""
    heads = ["rules", "steps kept", "stopped", "of those, on the final front later", "hypervolume lost (median, worst)"]
    full_steps = recorded.spec.training.steps
    heads.append("certified forgetting lost, points (mean, worst)")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for label, chosen in RULES.items():
        kept, stopped, false, lost, less = [], 0, 0, [], []
        for seed in range(orders):
            trials = recorded.trials(mixing, seed)
            order = random.Random(seed).sample(list(trials), len(trials))
            some = [trials[key] for key in order]
            ends = replay(recorded, some, chosen, mixing)
            kept.append(sum(ends) / (full_steps * len(some)))
            full = [(n, row) for n, trial in enumerate(some) for interval in trial for row in interval.rows]
            cut = [(n, row) for n, row in full if row.step <= ends[n]]
            stopped += sum(end < full_steps for end in ends)
            false += len({n for n, row in front_of(full) if row.step > ends[n]})
            lost.append(1 - volume_of(cut) / volume_of(full))
            found = [certified(recorded, front_of(part), order, seed) for part in (full, cut)]
            less += [] if found[0] is None else [100 * (found[0] - found[1])]
        cells = [label, f"{statistics.mean(kept):.0%}", f"{stopped / orders:.0f} of {len(order)}"]
        cells += [f"{false / max(1, stopped):.2%}", f"{statistics.median(lost):.2%}, {max(lost):.2%}"]
        cells.append(f"{statistics.mean(less):.1f}, {max(less):.1f}" if less else "not recorded")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def certified(recorded: Recorded, front: list[tuple[int, Point]], order: list[str], seed: int) -> float | None:
    """The share forgotten at the best certified point of a front of trials (`order`), None where there are no
    authors."""
    from rayul.pareto.spread import spread

    rows = sorted((evaluation(n, point) for n, point in front if point.step), key=lambda row: row.metrics["forget.es"])
    found = recorded.certified([(order[int(e.trial_id)], e.step) for e in spread(rows, DIALS)], seed)
    return None if found is None else found.forgotten


def replay(recorded: Recorded, trials: list[list[Interval]], chosen: tuple[str, ...], mixing: bool) -> list[int]:
    """The step at which each trajectory ends under the rules, one after the other."""
    side = Mine(Arm("random", rules=chosen), 0, mixing, recorded)
    ends = []
    for number, trial in enumerate(trials):
        side.rows[number] = []
        ends.append(next((i.step for i in trial if side.report(number, i.rows)), recorded.spec.training.steps))
    return ends


def scored(rows: list[tuple[int, Point]]) -> list[tuple[float, float]]:
    """Scores in the unit box; not a solution is (0, 0)."""
    return [
        (1 - p.forget, (p.retain - 0.9) / 0.1) if p.step and p.retain >= 0.9 and p.forget <= 0.95 else (0.0, 0.0)
        for _, p in rows
    ]


def front_of(rows: list[tuple[int, Point]]) -> list[tuple[int, Point]]:
    from rayul.pareto.front import non_dominated

    mask = non_dominated(scored(rows), ["maximize", "maximize"])
    return [row for row, keep in zip(rows, mask, strict=True) if keep]


def volume_of(rows: list[tuple[int, Point]]) -> float:
    import moocore

    return float(moocore.hypervolume(np.array(scored(rows)), ref=np.zeros(2), maximise=True))


def name_of(mixing: bool) -> str:
    return "with mixing" if mixing else "without mixing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", default="0-9", help="first-last")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--arms", default=None, help="separated by ; and all by default")
    parser.add_argument("--mine", default="rayul", help="the arm that the others are compared with, pair by pair")
    parser.add_argument("--flights", default="2,8,32")
    parser.add_argument("--mixing", choices=["off", "on", "both"], default="both")
    parser.add_argument("--batch-size", type=int, default=None, help="only the half of the space that has it")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="a folder for search.md and search.parquet")
    parser.add_argument("--runs", type=Path, default=Path("runs.jsonl"), help="runs that are there are not run again")
    parser.add_argument("--rules", action="store_true")
    arguments = parser.parse_args()
    modes = {"off": [False], "on": [True], "both": [False, True]}[arguments.mixing]
    first, last = map(int, arguments.seeds.split("-"))
    text = []
    if arguments.rules:
        for mixing in modes:
            text += [
                f"\n### {name_of(mixing)}\n",
                rules(recording(arguments.cache, arguments.batch_size), mixing, last - first + 1),
            ]
        print("\n".join(text))
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / "rules.md").write_text("\n".join(text).strip() + "\n")
        return
    chosen = arguments.arms.split(";") if arguments.arms else list(ARMS)
    jobs = [
        Job(name, seed, flight, mixing, arguments.trials, str(arguments.cache), arguments.batch_size)
        for seed in range(first, last + 1)
        for flight in map(int, arguments.flights.split(","))
        for mixing in modes
        for name in chosen
        if flight in ARMS[name].flights
    ]
    done = [json.loads(line) for line in arguments.runs.read_text().splitlines()] if arguments.runs.exists() else []
    known_runs = {json.dumps(r["job"]): r for r in done}
    results = [known_runs[json.dumps(job)] for job in jobs if json.dumps(job) in known_runs]
    left = [job for job in jobs if json.dumps(job) not in known_runs]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool, arguments.runs.open("a") as file:
        for result in pool.imap_unordered(run, left):
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"{len(results)}/{len(jobs)}", end="\r", file=sys.stderr, flush=True)
    for mixing in modes:
        for flight in sorted({r["flight"] for r in results}):
            text.append(f"\n### {name_of(mixing)}, {flight} in flight\n")
            if set(REFERENCES) <= set(chosen):
                text += [compare(results, flight, mixing), ""]
            if arguments.mine in chosen:
                mine = [r for r in results if (r["flight"], r["mixing"]) == (flight, mixing)]
                for measure in MEASURES if mine[0].get("certified") else ["hypervolume"]:
                    text += [inferiority(mine, measure, arguments.mine), "", delays(mine, measure, arguments.mine), ""]
    print("\n".join(text))
    if arguments.out is not None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "search.md").write_text("\n".join(text).strip() + "\n")
        order = list(ARMS).index
        results.sort(key=lambda r: (r["mixing"], r["flight"], order(r["arm"]), r["seed"]))
        rows = [
            {"arm": r["arm"], "seed": r["seed"], "flight": r["flight"], "mixing": r["mixing"]}
            | {"steps": steps, "seconds": round(seconds, 2), "hypervolume": volume}
            for r in results
            for steps, seconds, volume in r["curve"]
        ]
        pq.write_table(pa.Table.from_pylist(rows), arguments.out / "search.parquet", compression="zstd")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
