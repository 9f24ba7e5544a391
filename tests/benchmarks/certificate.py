"""Does a certificate hold? Searches and certificates replayed on authors drawn from a large population.

    nice python tests/benchmarks/certificate.py [--repeats 1000] [--seed 0] [--refine 10]

results/certificate/scored.parquet (certificate_record.py made it) has adapters at the coefficients of their dials, with
the es of each of hundreds of authors that the model has memorised. A repeat draws a few of the adapters as what a
search has found, and select groups and certify groups from the authors, with replacement: the population is then
exactly what the file has, and a choice can be compared with the truth. Every arm chooses an adapter and a coefficient
to keep 90% of the baseline's es. It breaks the limit where the mean over the population does. Writes
results/certificate/table.md.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from rayul.pareto import certificate
from rayul.pareto.front import non_dominated
from rayul.spec import Limit

FOLDER = Path(__file__).parents[2] / "results" / "certificate"
SHARE, ALPHA, POINTS = 0.9, 0.1, 5
LIMIT = Limit.share("retain.es", True, SHARE)
COEFFICIENTS = 10
"""Of a dial, as certificate_record.py scores them."""
SELECT = 20
"""Select groups of the arms that have certify groups beside them, as many as the testbed has."""
COUNTS = (10, 20, 40, 80)
SEARCHED = 7
"""Adapters that a repeat's search has found, drawn from all: else one that forgets most would decide every repeat."""

Floats = NDArray[np.float64]
Choice = tuple[int, int] | None
"""An adapter and the place of a coefficient on its dial; None where an arm finds nothing."""


class Scored(NamedTuple):
    """forgotten [A, C], share of the baseline's forget.es; authors [A, C, N]; baseline [N]. NaN where a dial was not
    scored to its end: the model is ruined there."""

    forgotten: Floats
    authors: Floats
    baseline: Floats


def load(path: Path) -> Scored:
    rows = pq.read_table(path).to_pylist()
    base = next(row for row in rows if row["trial"] < 0)
    baseline = np.array(base["authors"], dtype=np.float64)
    keys = list(dict.fromkeys((row["trial"], row["step"]) for row in rows if row["trial"] >= 0))
    forgotten = np.full((len(keys), COEFFICIENTS), np.nan)
    authors = np.full((len(keys), COEFFICIENTS, len(baseline)), np.nan)
    for row in rows:
        if row["trial"] >= 0:
            at = keys.index((row["trial"], row["step"])), round(row["mixing"] * COEFFICIENTS) - 1
            forgotten[at] = 1 - row["forget"] / base["forget"]
            authors[at] = row["authors"]
    return Scored(forgotten, authors, baseline)


def refined(scored: Scored, factor: int) -> Scored:
    """With so many coefficients in place of each, by straight lines between those that were scored."""
    weights = np.arange(1, factor + 1) / factor

    def between(values: Floats, first: Floats) -> Floats:
        before = np.concatenate([first, values[:, :-1]], axis=1)
        mixed = [(1 - w) * before + w * values for w in weights]
        return np.stack(mixed, axis=2).reshape(len(values), -1, *values.shape[2:])

    start = np.broadcast_to(scored.baseline, (len(scored.authors), 1, len(scored.baseline)))
    return Scored(between(scored.forgotten, np.zeros((len(start), 1))), between(scored.authors, start), scored.baseline)


class Drawn(NamedTuple):
    """Margins of one repeat, [A, C, groups]."""

    scored: Scored
    select: Floats
    certify: Floats
    rng: np.random.Generator


def margins(scored: Scored, chosen: NDArray[np.int64]) -> Floats:
    return scored.authors[..., chosen] - SHARE * scored.baseline[chosen]


def best(scored: Scored, passing: NDArray[np.bool_]) -> Choice:
    """What forgot most among the coefficients [A, C] that an arm takes."""
    gone = np.where(passing & (scored.forgotten >= 0.05), scored.forgotten, -np.inf)
    i, j = np.unravel_index(gone.argmax(), gone.shape)
    return (int(i), int(j)) if gone[i, j] > -np.inf else None


def means_keep(d: Floats) -> NDArray[np.bool_]:
    return np.nan_to_num(d.mean(-1), nan=-1.0) >= 0


def front(drawn: Drawn) -> list[tuple[int, int]]:
    """The search's front on the select groups: coefficients that keep the limit, none beaten, most forgotten first."""
    kept = np.argwhere(means_keep(drawn.select) & (drawn.scored.forgotten >= 0.05))
    points = np.array([[drawn.scored.forgotten[i, j], drawn.select[i, j].mean()] for i, j in kept]).reshape(-1, 2)
    found = [tuple(map(int, place)) for place in kept[non_dominated(points, ["maximize", "maximize"])]]
    return sorted(found, key=lambda place: -drawn.scored.forgotten[place])


def spread(drawn: Drawn, points: int) -> dict[int, int]:
    """Adapters that get a dial, with the last place of it: `rayul.pareto.spread`."""
    adapters: dict[int, int] = {}
    for i, j in front(drawn):
        adapters[i] = max(j, adapters.get(i, 0))
    names = list(adapters)
    places = np.unique(np.round(np.linspace(0, len(names) - 1, min(points, len(names)))).astype(int)) if names else []
    return {names[p]: adapters[names[p]] for p in places}


def dials(drawn: Drawn, points: int, level: float, p_values: Callable[[Floats, Floats], Floats]) -> Choice:
    """The certified coefficient that forgot most. p_values: of certify margins, given the select margins."""
    passing = np.zeros(drawn.scored.forgotten.shape, dtype=bool)
    for i, last in spread(drawn, points).items():
        walk = certificate.walk([p_values(drawn.certify[i, : last + 1], drawn.select[i, : last + 1])], level)
        if walk.passed:
            passing[i, walk.passed - 1] = True
    return best(drawn.scored, passing)


def t_p_values(certify: Floats, select: Floats) -> Floats:
    return certificate.t_p_values(certify)


def e_p_values(certify: Floats, select: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return 1 / certificate.e_values(LIMIT, certify, certificate.bets(LIMIT, select))


def mean_rule(drawn: Drawn) -> Choice:
    return best(drawn.scored, means_keep(drawn.certify))


def mean_and_report(drawn: Drawn) -> Choice:
    passing = np.zeros(drawn.scored.forgotten.shape, dtype=bool)
    for place in front(drawn):
        passing[place] = drawn.certify[place].mean() >= 0
    return best(drawn.scored, passing)


def t_bound(drawn: Drawn) -> Choice:
    flat = drawn.certify.reshape(-1, drawn.certify.shape[-1])
    known = ~np.isnan(flat).any(1)
    passing = np.zeros(len(flat), dtype=bool)
    passing[known] = certificate.t_p_values(flat[known]) <= ALPHA
    return best(drawn.scored, passing.reshape(drawn.scored.forgotten.shape))


def bootstrap_bound(drawn: Drawn) -> Choice:
    n = drawn.certify.shape[-1]
    weights = drawn.rng.multinomial(n, [1 / n] * n, 500) / n
    means = np.nan_to_num(drawn.certify, nan=-1.0) @ weights.T
    return best(drawn.scored, np.quantile(means, ALPHA, axis=-1) >= 0)


ARMS: dict[str, Callable[[Drawn], Choice]] = {
    "mean rule (before)": mean_rule,
    "mean rule, then the mean on report groups": mean_and_report,
    "search by a bootstrap bound": bootstrap_bound,
    "search by a t bound": t_bound,
    "best of 5 t tests, uncorrected": lambda drawn: dials(drawn, POINTS, ALPHA, t_p_values),
    "t dials, 5 points": lambda drawn: dials(drawn, POINTS, ALPHA / POINTS, t_p_values),
    "t dials, 2 points": lambda drawn: dials(drawn, 2, ALPHA / 2, t_p_values),
    "t dial, 1 point": lambda drawn: dials(drawn, 1, ALPHA, t_p_values),
    "e-value dials, 5 points": lambda drawn: dials(drawn, POINTS, ALPHA / POINTS, e_p_values),
    "e-value dial, 1 point": lambda drawn: dials(drawn, 1, ALPHA, e_p_values),
}


class Outcome(NamedTuple):
    """Of one arm in one repeat. below: share of forget.es that it forgets less than the oracle's choice."""

    broken: bool
    below: float
    nothing: bool


def replay(scored: Scored, n: int, repeats: int, seed: int) -> dict[str, list[Outcome]]:
    rng = np.random.default_rng([seed, n])
    truth = scored.authors.mean(-1) / scored.baseline.mean()
    found: dict[str, list[Outcome]] = {name: [] for name in ARMS}
    for _ in range(repeats):
        tried = rng.choice(len(scored.authors), SEARCHED, replace=False)
        own = Scored(scored.forgotten[tried], scored.authors[tried], scored.baseline)
        oracle = best(own, np.nan_to_num(truth[tried]) >= SHARE)
        ideal = 0.0 if oracle is None else own.forgotten[oracle]
        select, certify = (rng.integers(0, len(scored.baseline), count) for count in (SELECT, n))
        drawn = Drawn(own, margins(own, select), margins(own, certify), rng)
        for name, arm in ARMS.items():
            place = arm(drawn)
            broken = place is not None and truth[tried][place] < SHARE
            gone = 0.0 if place is None else own.forgotten[place]
            found[name].append(Outcome(broken, ideal - gone, place is None))
    return found


def table(scored: Scored, repeats: int, seed: int) -> list[str]:
    lines = [
        "| n | arm | breaks the limit (95% interval) | forgets, points below the oracle | nothing chosen |",
        "| --- | --- | --- | --- | --- |",
    ]
    for n in COUNTS:
        for name, found in replay(scored, n, repeats, seed).items():
            broken = sum(one.broken for one in found)
            low, high = stats.binomtest(broken, repeats).proportion_ci()
            below = 100 * np.mean([one.below for one in found])
            none = np.mean([one.nothing for one in found])
            rate = f"{broken / repeats:.1%} ({low:.1%} to {high:.1%})"
            lines.append(f"| {n} | {name} | {rate} | {below:.1f} | {none:.0%} |")
            print(lines[-1], flush=True)
    return lines


def sizes(scored: Scored, draws: int, seed: int) -> list[str]:
    """How often one t test passes a model that is exactly at the limit: the margins of every coefficient that truly
    keeps 85% to 95%, shifted to a mean of 0."""
    rng = np.random.default_rng([seed, 1])
    truth = scored.authors.mean(-1) / scored.baseline.mean()
    near = margins(scored, np.arange(len(scored.baseline)))[np.abs(truth - SHARE) <= 0.05]
    near = near - near.mean(-1, keepdims=True)
    lines = [
        f"One t test at the limit itself, over {len(near)} coefficients that truly keep 85% to 95% (spread of the "
        f"groups {near.std(-1).mean():.2f}, skewness {stats.skew(near, axis=-1).mean():.1f}):",
        "",
        "| n | level | passes on average | worst coefficient |",
        "| --- | --- | --- | --- |",
    ]
    for n in COUNTS:
        chosen = rng.integers(0, near.shape[-1], (draws, n))
        p = np.stack([certificate.t_p_values(d[chosen]) for d in near])
        for level in (ALPHA, ALPHA / POINTS):
            rates = (p <= level).mean(-1)
            lines.append(f"| {n} | {level:.0%} | {rates.mean():.1%} | {rates.max():.1%} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refine", type=int, default=1, help="coefficients in place of each, interpolated")
    asked = parser.parse_args()
    scored = refined(load(FOLDER / "scored.parquet"), asked.refine)
    lines = [*sizes(scored, 5000, asked.seed), "", *table(scored, asked.repeats, asked.seed)]
    machine = f"{platform.machine()}, 2 shared cores"
    command = f"python tests/benchmarks/certificate.py --repeats {asked.repeats} --seed {asked.seed}"
    command += f" --refine {asked.refine}" if asked.refine > 1 else ""
    print(machine, command, datetime.now(UTC).date())
    place = FOLDER / ("table.md" if asked.refine == 1 else f"table-{asked.refine}.md")
    place.write_text("\n".join([f"{datetime.now(UTC).date()}, {machine}: `{command}`", "", *lines, ""]))


if __name__ == "__main__":
    main()
