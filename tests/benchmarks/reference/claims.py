"""What of the paper's claims holds here, and the TOFU tables in short, from the committed records alone.

    python tests/benchmarks/reference/claims.py [--results results]

Prints markdown. Differences are paired by seed, with the 95% interval of Student's t over seeds: a bootstrap of two or
three seeds says little more than which values there were. A difference whose interval leaves zero out is marked *.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr, ttest_1samp, ttest_rel
from sweeps import ROOT

GA_FAMILY = ("ga", "gd", "kl", "wga")
LIMIT = 0.9
MIXED = "best_mixed_forget_"


def spread(values: pd.Series) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def difference(ours: pd.Series, theirs: pd.Series) -> str:
    """Mean of ours - theirs, matched by index, with its interval, and * where that leaves zero out."""
    paired = (ours - theirs).dropna().to_numpy()
    found = ttest_1samp(paired, 0).confidence_interval(0.95)
    sure = "*" if found.low > 0 or found.high < 0 else ""
    return f"{paired.mean():+.2f}{sure} ({found.low:+.2f} to {found.high:+.2f})"


def calibrated(results: Path) -> dict[str, pd.DataFrame]:
    """The calibrated comparison of each TOFU split, a row a method and seed."""
    return {path.parts[-3]: pd.read_parquet(path) for path in sorted(results.glob("tofu-*/calibrated/methods.parquet"))}


def tofu(results: Path) -> Iterator[str]:
    """forget.es of the best step, mixed to each share of retain.es."""
    for split, rows in calibrated(results).items():
        taus = sorted((float(name.removeprefix(MIXED)) for name in rows if name.startswith(MIXED)), reverse=True)
        before = rows.baseline_forget.mean()
        yield f"**{split}**, forget.es calibrated ({rows.seed.nunique()} seeds; before: {before:.2f})"
        yield ""
        heads = [f"at {tau:.0%} of retain.es" for tau in taus]
        yield f"| method | no control: forget.es | retain.es | {' | '.join(heads)} |"
        yield f"|{' --- |' * (3 + len(taus))}"
        for method, mine in sorted(rows.groupby("method"), key=lambda one: float(one[1][f"{MIXED}{LIMIT}"].mean())):
            cells = [mine.forget, mine.retain, *(mine[f"{MIXED}{tau}"] for tau in taus)]
            yield f"| {method} | {' | '.join(map(spread, cells))} |"
        yield ""


def claims(results: Path) -> Iterator[str]:
    best = pd.read_parquet(results / "methods" / "best.parquet")
    best = best[best.limit == LIMIT].pivot(index="seed", columns="method", values="forget.es")
    rows = pd.read_parquet(results / "methods" / "evaluations.parquet")
    oracle = rows[rows.trial_id == "oracle"]["metrics.forget.es"].mean()
    splits = calibrated(results)
    column = f"{MIXED}{LIMIT}"
    at_limit = {name: frame.pivot(index="seed", columns="method", values=column) for name, frame in splits.items()}
    everywhere = {"testbed": best, **at_limit}

    yield "| claim (arXiv 2406.09179) | what the records say |"
    yield "| --- | --- |"
    found = "; ".join(f"{name}: ga {spread(table.ga)}, gd {spread(table.gd)}" for name, table in everywhere.items())
    yield (
        f"| GA-based methods are far from perfect | forget.es at {LIMIT:.0%} of retain.es, {found}; "
        f"the testbed's oracle {oracle:.3f} |"
    )

    models = rows.trial_id.isin(["baseline", "oracle"])
    trained = rows[(rows.step > 0) & ~models & (rows.mixing == 1)]
    strong = trained[trained["metrics.forget.es"] < 0.1]
    rank = spearmanr(trained["metrics.forget.es"], trained["metrics.retain.es"]).statistic
    base = rows[rows.trial_id == "baseline"]["metrics.retain.es"].mean()
    kept = strong[strong["metrics.retain.es"] >= LIMIT * base]
    by = ", ".join(f"{count} of {name}" for name, count in kept["params.method.name"].value_counts().items())
    yield (
        f"| strong unlearning costs utility | of {len(trained)} evaluations without mixing {len(strong)} have "
        f"forget.es below 0.1: their median retain.es is {strong['metrics.retain.es'].median():.2f}, and "
        f"{len(kept)} keep {LIMIT:.0%} ({by}); rank correlation of forget.es and retain.es {rank:.2f} |"
    )

    orders = [f"{name}: {', '.join(table.mean().sort_values().index)}" for name, table in everywhere.items()]
    agree = []
    for name, table in at_limit.items():
        common = [method for method in table if method in best]
        agree.append(f"{spearmanr(best[common].mean(), table[common].mean()).statistic:.2f} with {name}")
    apart = [
        ttest_rel(table[better], table[worse]).pvalue < 0.05
        for table in at_limit.values()
        for better, worse in pairwise(table.mean().sort_values().index)
    ]
    yield (
        f"| one order of the methods after calibration | {'; '.join(orders)}. "
        f"Of {len(apart)} pairs of neighbours on TOFU, {sum(apart)} differ by a paired t test (p < 0.05). "
        f"Rank correlation of the testbed's {', '.join(agree)} |"
    )

    against = []
    for name, table in everywhere.items():
        family = [method for method in GA_FAMILY if method in table]
        against.append(f"{name}: {', '.join(f'{m} {difference(table[m], table.npo)}' for m in family)}")
    yield (f"| the tuned GA family against NPO | forget.es minus NPO's (below 0: forgets more), {'; '.join(against)} |")


def mixing(results: Path) -> Iterator[str]:
    """Section 4 of the page: what each arm forgets, its differences, and what its points keep on unread rows."""
    rows = pd.read_parquet(results / "mixing" / "best.parquet")
    forget = rows.pivot(index="seed", columns="way", values="forget.es")
    arms = ", ".join(f"{way} {spread(forget[way])}" for way in ("tuning", "mixing", "both"))
    pairs = (("mixing", "tuning"), ("both", "mixing"))
    yield f"best forget.es at {LIMIT:.0%} of retain.es: {arms}"
    yield f"differences: {', '.join(f'{a} minus {b} {difference(forget[a], forget[b])}' for a, b in pairs)}"
    kept = int((rows["retain_report.es"] >= LIMIT).sum())
    unread = ", ".join(f"{way} {mine.mean():.2f}" for way, mine in rows.groupby("way")["retain_report.es"])
    yield f"of {len(rows)} points {kept} keep {LIMIT:.0%} of retain_report.es; on average: {unread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    results = parser.parse_args().results
    print("\n".join([*tofu(results), *claims(results), "", *mixing(results)]))


if __name__ == "__main__":
    main()
