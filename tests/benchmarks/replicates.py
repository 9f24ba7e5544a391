"""Whether fresh seeds of the leading configurations, in the last third of a search, find better recipes than new
configurations do.

    python tests/benchmarks/replicates.py --cache results/search/space.parquet [--draws 20] [--each 3] [--trials 64]

Of the recorded space the configurations with two seeds and more (space_record.py). A search draws authors to select by;
each of its trials trains with one of the recorded seeds, which are in random order for each search. With `new` all
trials are new configurations; with `fresh seeds` the last third is what `next_replicate` says. Both then name a recipe:

- new: the configuration that forgets most within the limit on the select rows;
- fresh seeds: of those with several seeds the one with the best mean, or with the best lower bound (`lower_bounds`).

*recipe* is what the seeds of that recipe give that the search has not read: the mean share forgotten of what a
certificate passes, with other authors than the select rows'. So of a configuration with three seeds or more one is
kept back, and of one with two the second is read where its turn comes: then both count. *weights* is the best that is
certified of the search's own trials, of the five that forget most. Differences are paired over draws of authors, with
Student's t at 95%.
"""

from __future__ import annotations

import argparse
import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import trajectories
from recorded import DIALS, LIMIT, Recorded, Wide
from scipy import stats
from search import ARMS, Mine

from rayul.pareto.replicates import NEW, lower_bounds, next_replicate

NAMES = ("new", "fresh seeds, mean", "fresh seeds, bound")
Run = tuple[str, int]
"""A configuration with one of its seeds."""


def seeds_of(path: Path) -> list[Wide]:
    """The space with each seed by itself."""
    found: list[Wide] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while not found or found[-1].runs:
            found.append(Wide(path, len(found)))
    return found[:-1]


class Draw:
    """One draw of authors. score, certified: what a search sees of a run, and what a certificate passes of it; both are
    shares forgotten. intervals: what a sampler is told of it."""

    def __init__(self, seeds: list[Wide], keys: list[str], draw: int, mixing: bool) -> None:
        self.seed, self.mixing = draw, mixing
        self.seeds: dict[str, list[Run]] = {key: [] for key in keys}
        self.score: dict[Run, float] = {}
        self.certified: dict[Run, float] = {}
        self.intervals: dict[Run, Any] = {}
        for n, space in enumerate(seeds):
            trials = space.trials(mixing, draw)
            for key in keys:
                if key not in trials:
                    continue
                run = (key, n)
                self.seeds[key].append(run)
                self.intervals[run] = trials[key]
                kept = [(1 - p.forget, i.step) for i in trials[key] for p in i.rows if p.step and p.retain >= LIMIT]
                self.score[run], step = max(kept, default=(0.0, 0))
                self.certified[run] = space.certified([(key, step)], draw).forgotten if step else 0.0

    def recipe(self, key: str, read: set[Run]) -> float:
        mine = self.seeds[key]
        return float(np.mean([self.certified[run] for run in [r for r in mine if r not in read] or mine]))

    def weights(self, read: set[Run]) -> float:
        return max(self.certified[run] for run in sorted(read, key=lambda run: -self.score[run])[:DIALS])

    def searched(self, space: Recorded, arm: str, trials: int, number: int) -> list[tuple[float, float]]:
        """(recipe, weights) by NAMES."""
        chance = random.Random(f"{self.seed} {number}")
        order = {key: chance.sample(runs, len(runs)) for key, runs in self.seeds.items()}
        side = Mine(ARMS[arm], 1000 * self.seed + number, self.mixing, space)
        tried: list[str] = []
        for i in range(trials):
            key = trajectories.key_of(side.ask(i))
            for interval in self.intervals[order[key][0]]:
                side.report(i, interval.rows)
            side.end(i)
            tried.append(key)
        read = {order[key][0] for key in tried}
        best = max(tried, key=lambda key: self.score[order[key][0]])
        found = [(self.recipe(best, read), self.weights(read))]

        known: dict[str, list[float]] = {key: [self.score[order[key][0]]] for key in tried[: round(NEW * trials)]}
        read = {order[key][0] for key in known}
        for _ in range(trials - len(known)):
            left = {key: some for key, some in known.items() if len(some) < max(2, len(order[key]) - 1)}
            again = next_replicate(left)
            if again is None:
                break
            run = order[again][len(known[again])]
            known[again].append(self.score[run])
            read.add(run)
        several = {key: some for key, some in known.items() if len(some) > 1} or known
        bounds = lower_bounds(several)
        by: list[Callable[[str], float]] = [lambda key: float(np.mean(several[key])), lambda key: bounds[key]]
        return found + [(self.recipe(max(several, key=one), read), self.weights(read)) for one in by]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--each", type=int, default=3, help="searches of a draw of authors")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--arms", default="random;rayul, no pruning;trajectory, no pruning")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    seeds = seeds_of(asked.cache)
    keys = [key for key in seeds[1].runs if key in seeds[0].runs]
    space = Recorded(seeds[0].spec, keys)
    print(", ".join(f"{sum(key in one.runs for key in keys)} with seed {n}" for n, one in enumerate(seeds)))
    print("\n| mixing | sampler | last third | recipe | against new | weights | against new |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for mixing in (False, True):
        draws = [Draw(seeds, keys, n, mixing) for n in range(asked.draws)]
        for arm in asked.arms.split(";"):
            # [draws, names, recipe and weights]
            found = np.array(
                [
                    np.mean([draw.searched(space, arm, asked.trials, k) for k in range(asked.each)], axis=0)
                    for draw in draws
                ]
            )
            for j, name in enumerate(NAMES):
                cells = ["on" if mixing else "off", arm, name]
                for column in range(2):
                    apart = found[:, j, column] - found[:, 0, column]
                    half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
                    cells += [f"{found[:, j, column].mean():.3f}", f"{apart.mean():+.3f} ± {half:.3f}" if j else ""]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
