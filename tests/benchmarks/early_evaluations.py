"""What evaluations in parts would save: those that end when they can neither enter the front nor keep the limit.

    python tests/benchmarks/early_evaluations.py --cache results/search/trajectories.jsonl [--seeds 4] [--parts 8]

On the recorded sweeps of search.py, 64 trials, 8 at a time. Retain rows come first, then forget rows, as many of each.
After each part the unread rows are taken to be as good as they can be (retain.es 1, forget.es 0): only then is an
evaluation that ends early one that a complete evaluation would not have put onto the front either. Every part is taken
to have the mean of all rows, since the records have no rows: real parts differ and end later.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import search
from recorded import Recorded, recording

LIMIT, LEAST = 0.9, 0.95
"""retain.es that must be kept, and the forget.es above which an evaluation is no solution."""


def read(retain: float, forget: float, front: list[tuple[float, float]], parts: int) -> float:
    """The share of the rows after which an evaluation may end. front: (forget, retain) of the points so far."""
    shares = [k / parts for k in range(1, parts + 1)]
    if retain < LIMIT:
        return next(share for share in shares if share * retain + 1 - share < LIMIT) / 2
    for share in shares:
        best = share * forget
        if best > LEAST or any(f <= best and r >= retain for f, r in front):
            return (1 + share) / 2
    return 1.0


def saved(arm: str, seed: int, mixing: bool, recorded: Recorded, parts: int) -> tuple[float, ...]:
    """Of one sweep: evaluations; shares of them that break the limit, are told to the sampler, and are on the front
    when they come; and the shares of their rows that are saved, where what is told may be partial and where not."""
    known = recorded.trials(mixing, seed)
    side = search.Mine(search.ARMS[arm], seed, mixing, recorded)
    front: list[tuple[float, float]] = []
    found = []
    for _, _, interval, ended in search.played(side, known, 64, 8):
        for i, point in enumerate(interval.rows):
            ahead = point.retain >= LIMIT and point.forget <= LEAST
            ahead = ahead and not any(f <= point.forget and r >= point.retain for f, r in front)
            share = 1.0 if ahead else read(point.retain, point.forget, front, parts)
            if ahead:
                front = [(f, r) for f, r in front if not (point.forget <= f and point.retain >= r)]
                front.append((point.forget, point.retain))
            told = ended and i == len(interval.rows) - 1
            found.append((point.retain < LIMIT, told, ahead, 1 - share, 0.0 if told else 1 - share))
    return len(found), *np.mean(np.array(found, float), axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--parts", type=int, default=8)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    recorded = recording(options.cache)
    print("| sweep | evaluations | break the limit | told | onto the front | rows saved | what is told complete |")
    print("|" + " --- |" * 7)
    for arm in ("rayul", "rayul, no pruning"):
        for mixing in (False, True):
            runs = [saved(arm, seed, mixing, recorded, options.parts) for seed in range(options.seeds)]
            count, *shares = np.mean(runs, axis=0)
            name = f"{'without pruning' if arm != 'rayul' else 'with pruning'}{', mixing' if mixing else ''}"
            print(f"| {name} | {count:,.0f} | {' | '.join(f'{share:.0%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
