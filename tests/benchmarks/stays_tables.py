"""What stays forgotten, from the cells that stays.py recorded.

    python tests/benchmarks/stays_tables.py [--cells DIR/cells.jsonl]

Prints the tables of results/stays/README.md, made from results/stays/cells.parquet; with --cells writes that first.
Intervals are Student's t over draws, 95%; each draw has authors and a seed of its own.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rayul.audit.recovery import recovery
from rayul.records.attacked import FINE_TUNE, Attacked

RECORDS = Path(__file__).resolve().parents[2] / "results" / "stays" / "cells.parquet"
CELL = ["method", "rule"]
LEAST = 5
"""Draws below which nothing is said of a loss."""

ATTACKS = ("own rows, LoRA", "own rows, all weights", "related rows, all weights", "unrelated rows, all weights")


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A cell as a row of the table. forget, kept: of its certified point; searched, relearned: forget.es and
    relearned.es of the point that a search would see; worst: es of the judged rows after the relearning that leaves
    most of them, and returned, what share of the forgotten that is."""
    attacked = [Attacked(**{**one, "at": tuple(one["at"]), "es": tuple(one["es"])}) for one in row.get("attacks", ())]
    found = {key: row[key] for key in ("draw", *CELL, "lr", "cpu")}
    searched = row.get("searched", {})
    measured = row.get("certified", row["baseline"])
    found |= {"searched": searched.get("forget.es", 1.0), "relearned": searched.get("relearned.es", 1.0)}
    found |= {"mixing": row.get("mixing", 0.0), "scale": row.get("scale", 0.0), "forget": measured["forget.es"]}
    found["kept"] = measured["retain_report.es"] / row["baseline"]["retain_report.es"]
    tuned = [one for one in attacked if one.attack == FINE_TUNE]
    for name in ATTACKS:
        found[name] = max((max(one.es) for one in tuned if one.variant.startswith(name)), default=math.nan)
    found["quantised"] = max((max(one.es) for one in attacked if one.attack == "quantise"), default=math.nan)
    worst = max((recovery(one) for one in tuned), key=lambda one: one.after, default=None)
    found["worst"] = worst.after if worst else found["forget"]
    found["returned"] = worst.returned if worst else math.nan
    return found


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """The draws of each loss in which every rule was tried, of losses that have at least LEAST of these."""
    tried = rows.groupby(["method", "draw"]).rule.transform("nunique") == rows.rule.nunique()
    rows = rows[tried]
    return rows[rows.groupby("method").draw.transform("nunique") >= LEAST]


def balanced(rows: pd.DataFrame) -> pd.DataFrame:
    """Of these, the draws that all losses have."""
    return rows[rows.groupby("draw").method.transform("nunique") == rows.method.nunique()]


class Mean(NamedTuple):
    """half: of its 95% interval."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.half:.2f}" if math.isfinite(self.half) else f"{self.value:.2f}"

    @property
    def sure(self) -> bool:
        """Whether its interval leaves zero out."""
        return abs(self.value) > self.half


def mean(values: Sequence[float] | pd.Series) -> Mean:
    """Over draws; NaN are left out."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Mean(float(found.mean()) if len(found) else math.nan, math.nan)
    return Mean(float(found.mean()), float(stats.t.ppf(0.975, len(found) - 1) * stats.sem(found)))


def by_cell(rows: pd.DataFrame) -> Iterator[str]:
    heads = ["loss", "rule", "draws", "certified", "kept", *ATTACKS, "4 or 8 bits", "worst relearning", "share back"]
    yield f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}"
    columns = ["forget", "kept", *ATTACKS, "quantised", "worst", "returned"]
    for (method, rule), mine in rows.groupby(CELL, sort=False):
        told = [str(found) if math.isfinite((found := mean(mine[key])).value) else "" for key in columns]
        yield f"| {method} | {rule} | {len(mine)} | {' | '.join(told)} |"


def against_plain(rows: pd.DataFrame) -> Iterator[str]:
    """Paired by draw, of each loss, and of all over the losses' mean in a draw that has all."""
    yield f"| loss | rule | draws | certified forget.es | after the worst relearning | share back |\n|{' --- |' * 6}"
    parts = dict(list(rows.groupby("method", sort=False)))
    if len(parts) > 1:
        parts["all"] = balanced(rows)
    for name, mine in parts.items():
        for rule in dict.fromkeys(rows.rule[rows.rule != "plain"]):
            found = []
            for key in ("forget", "worst", "returned"):
                table = mine.pivot(index=["draw", "method"], columns="rule", values=key)
                gained = mean((table[rule] - table["plain"]).groupby("draw").mean())
                known = math.isfinite(gained.half)  # not where fewer than two draws were attacked
                found.append(f"{gained.value:+.2f}{'*' if gained.sure else ''} ± {gained.half:.2f}" if known else "")
            yield f"| {name} | {rule} | {mine.draw.nunique()} | {' | '.join(found)} |"


class Choice(NamedTuple):
    """What two ways of choosing a cell lead to, each a row a draw: worst and returned."""

    theirs: pd.DataFrame
    ours: pd.DataFrame

    def told(self, names: tuple[str, str]) -> Iterator[str]:
        for name, chosen in zip(names, self, strict=True):
            often = (chosen.method + " " + chosen.rule).value_counts()
            cells = ", ".join(f"{cell} ({count})" for cell, count in often.items())
            yield f"| {name} | {mean(chosen.forget)} | {mean(chosen.worst)} | {mean(chosen.returned)} | {cells} |"
        yield ""
        gained = mean(self.ours.returned.to_numpy() - self.theirs.returned.to_numpy())
        yield f"Difference of the shares: {gained.value:+.2f} ± {gained.half:.2f}; their ratio: {self.ratio:.2f}."

    @property
    def ratio(self) -> float:
        return float(self.ours.returned.mean() / self.theirs.returned.mean())


HEADS = f"| chosen by | certified | after the worst relearning | share back | which (draws) |\n|{' --- |' * 5}"


def plain_and_robust(rows: pd.DataFrame) -> Choice:
    """In each draw the plain cell and the robust cell that leave least after relearning in all other draws: the best of
    many would look good on the draws that chose it."""
    chosen: dict[bool, list[pd.Series]] = {True: [], False: []}
    for draw, own in rows.groupby("draw"):
        others = rows[rows.draw != draw].groupby(CELL).worst.mean()
        for plain, kept in chosen.items():
            allowed = [key for key in others.index if (key[1] == "plain") == plain]
            kept.append(own.set_index(CELL, drop=False).loc[others[allowed].idxmin()])
    return Choice(pd.DataFrame(chosen[True]), pd.DataFrame(chosen[False]))


def searches(rows: pd.DataFrame) -> Choice:
    """In each draw, a search over its cells: that with the lowest forget.es, and that with the lowest relearned.es,
    both scaled back to the limit."""
    found = [rows.loc[rows.groupby("draw")[key].idxmin()] for key in ("searched", "relearned")]
    return Choice(*(one.reset_index(drop=True) for one in found))


def again(rows: pd.DataFrame, choice: Choice) -> Choice:
    """The same recipes in the draws that did not choose them: other authors, another seed."""
    means = {}
    for name, chosen in choice._asdict().items():
        parts = []
        for one in chosen.itertuples():
            others = rows[(rows.method == one.method) & (rows.rule == one.rule) & (rows.draw != one.draw)]
            parts.append({**one._asdict(), **others[["forget", "worst", "returned"]].mean().to_dict()})
        means[name] = pd.DataFrame(parts)
    return Choice(**means)


def chosen(rows: pd.DataFrame) -> Iterator[str]:
    """What choosing a cell leads to."""
    yield "The plain cell and the robust cell that leave least after relearning in the other draws:\n"
    yield HEADS
    yield from plain_and_robust(rows).told(("plain", "robust"))
    yield "\nA search of each draw, by forget.es and by relearned.es:\n"
    yield HEADS
    found = searches(rows)
    yield from found.told(("forget.es", "relearned.es"))
    yield "\nThe recipes that these searches found, on the other draws:\n"
    yield HEADS
    yield from again(rows, found).told(("forget.es", "relearned.es"))
    ranks = {
        key: mean([float(own[key].corr(own.worst, method="spearman")) for _, own in rows.groupby("draw")])
        for key in ("relearned", "searched")
    }
    yield ""
    yield f"Rank correlation with es after the worst relearning, within a draw: {ranks['relearned']} of relearned.es,"
    yield f"{ranks['searched']} of forget.es."


def tables(rows: pd.DataFrame) -> Iterator[str]:
    rows = complete(rows)
    yield "## Every cell\n"
    yield from by_cell(rows)
    yield "\n## Rules against plain\n"
    yield from against_plain(rows)
    counts = rows.groupby("method", sort=False).draw.nunique()
    parts = {", ".join(counts.index): balanced(rows)}
    if len(counts) > 1 and counts.max() > counts.min():
        parts[f"{counts.idxmax()} alone"] = rows[rows.method == counts.idxmax()]
    for name, mine in parts.items():
        yield f"\n## Choosing among the cells of {name} ({mine.draw.nunique()} draws)\n"
        yield from chosen(mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=None)
    asked = parser.parse_args()
    if asked.cells is not None:
        from stays import METHODS, RULES, read  # with torch

        RECORDS.parent.mkdir(exist_ok=True)
        order = {(method, rule): i for i, (method, rule) in enumerate(itertools.product(METHODS, RULES))}
        cells = sorted(read(asked.cells), key=lambda row: (order[row["method"], row["rule"]], row["draw"]))
        pd.DataFrame([flat(row) for row in cells]).to_parquet(RECORDS, index=False)
    print("\n".join(tables(pd.read_parquet(RECORDS))))


if __name__ == "__main__":
    main()
