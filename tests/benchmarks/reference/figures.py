"""The figures of results/README.md, from the committed records alone.

    python tests/benchmarks/reference/figures.py [--results results]

What has no records yet is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from scipy import stats
from sweeps import ROOT

from rayul.pareto.attainment import attainment, outline
from rayul.report.figures import BLUE, GREEN, GREY, ORANGE, SKY, STYLE, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY, "#cc79a7")
WIDTH = 6.9


def figure(columns: int, height: float = 2.9, rows: int = 1, **shared: bool) -> Figure:
    from matplotlib.figure import Figure as New

    made = New(figsize=(WIDTH, height))
    made.subplots(rows, columns, **shared)
    return made


def fronts_of(rows: pd.DataFrame, method: str) -> list[np.ndarray]:
    """One [n, 2] a seed: share forgotten and retain.es of each feasible evaluation of a method."""
    trained = rows[rows.feasible & (rows.step > 0) & (rows["params.method.name"] == method)]
    return [
        np.column_stack([1 - seed["metrics.forget.es"], seed["metrics.retain.es"]])
        for _, seed in trained.groupby("sweep")
    ]


def margin(recorded: dict[str, float], seeds: int) -> float:
    """Half of an interval of verdict.json, at least that of Student's t over the seeds (each end at 95%): audits of
    before November 28, 2026 recorded a bootstrap, which is too narrow over a few seeds."""
    over_seeds = stats.t.ppf(0.95, seeds - 1) * recorded["sd"] / math.sqrt(seeds)
    return max(over_seeds, (recorded["high"] - recorded["low"]) / 2)


def testbed(results: Path) -> Figure:
    """Left: every evaluation of ga.yaml and its front. Right: the finalists as searched and over fresh seeds."""
    rows = pd.read_parquet(results / "testbed" / "evaluations.parquet")
    front = pd.read_parquet(results / "testbed" / "pareto.parquet").sort_values("metrics.forget.es")
    verdicts = json.loads((results / "testbed" / "audit" / "verdict.json").read_text())["verdicts"]
    made = figure(2)
    left, right = made.axes
    base = rows[rows.trial_id == "baseline"].iloc[0]
    x, y = (
        1 - rows["metrics.forget.es"] / base["metrics.forget.es"],
        rows["metrics.retain.es"] / base["metrics.retain.es"],
    )
    left.scatter(x, y, s=4, color=GREY, alpha=0.5, label="every evaluation")
    left.plot(1 - front["metrics.forget.es"], front["metrics.retain.es"], "o-", color=BLUE, label="front")
    oracle = rows.trial_id == "oracle"
    left.scatter(x[oracle], y[oracle], marker="*", s=40, color=GREEN, label="oracle")
    left.axhline(0.9, color=VERMILLION, ls="--", lw=0.8)
    left.set(xlabel="forgotten", ylabel="retain.es kept", ylim=(0.5, 1.02), title="a sweep of GA and GradDiff")
    left.legend(loc="lower left")
    for i, one in enumerate(verdicts):
        kept, gone = one["kept"][0], one["forgotten"]
        searched, unread = (gone["searched"], kept["searched"]), (gone["value"], kept["unread"]["value"])
        right.annotate("", unread, searched, arrowprops={"arrowstyle": "->", "color": GREY, "lw": 0.8})
        right.plot(*searched, "o", color=COLOURS[i], mfc="white", label=f"{one['finalist']} as searched")
        right.errorbar(
            *unread,
            yerr=margin(kept["unread"], len(one["seeds"])),
            xerr=margin(gone, len(one["seeds"])),
            fmt="s",
            color=COLOURS[i],
            lw=0.8,
            label="" if i else "■ fresh seeds, unread rows",
        )
    right.axhline(0.9, color=VERMILLION, ls="--", lw=0.8)
    right.set(xlabel="forgotten", ylabel="retain kept", ylim=(0.15, 1.25), title="the winner's curse")
    right.legend(loc="lower left")
    return made


def methods(results: Path) -> Figure:
    """Left: what every method forgets at 90% of retain.es, a dot a seed. Right: median attainment surfaces of five."""
    best = pd.read_parquet(results / "methods" / "best.parquet")
    best = best[best.limit == 0.9]
    rows = pd.read_parquet(results / "methods" / "evaluations.parquet")
    order = best.groupby("method")["forget.es"].mean().sort_values(ascending=False).index.tolist()
    made = figure(2, 3.4)
    left, right = made.axes
    for i, method in enumerate(order):
        values = best[best.method == method]["forget.es"]
        left.scatter(values, [i] * len(values), s=9, color=BLUE, alpha=0.6)
        left.plot([values.mean()], [i], "|", color=VERMILLION, ms=9)
    left.set_yticks(range(len(order)), order)
    left.set(xlabel="forget.es at 90% of retain.es (| mean)", xlim=(0, 1.02), title="every method, equal budgets")
    shown = [*dict.fromkeys([*order[::-1][:4], "ga", "npo"])]
    for colour, method in zip(COLOURS, shown, strict=False):
        line = outline(attainment(fronts_of(rows, method))["median"], 0.0, 0.9)
        if len(line):
            right.plot(*line.T, color=colour, label=method)
    right.set(
        xlabel="forgotten", ylabel="retain.es", ylim=(0.9, 1.005), xlim=(0, 1), title="attained by half of the seeds"
    )
    right.legend(loc="lower left")
    return made


def fronts(results: Path) -> Figure:
    """The front of every method: what every seed, half of them and the best one attain."""
    rows = pd.read_parquet(results / "methods" / "evaluations.parquet")
    best = pd.read_parquet(results / "methods" / "best.parquet")
    order = best[best.limit == 0.9].groupby("method")["forget.es"].mean().sort_values().index.tolist()
    columns = 5
    made = figure(columns, 4.4, rows=-(-len(order) // columns), sharex=True, sharey=True)
    for axes, method in zip(made.axes, order, strict=False):
        surfaces = attainment(fronts_of(rows, method))
        for (name, surface), look in zip(surfaces.items(), (":", "-", "--"), strict=True):
            line = outline(surface, 0.0, 0.9)
            if len(line):
                axes.plot(*line.T, look, color=BLUE, lw=1.2 if look == "-" else 0.8, label=name)
        axes.set(title=method, xlim=(0, 1), ylim=(0.9, 1.005))
    for axes in made.axes[len(order) :]:
        axes.set_axis_off()
    handles, names = made.axes[0].get_legend_handles_labels()
    made.axes[-1].legend(handles, names, loc="center", title="of the seeds")
    made.supxlabel("forgotten", fontsize=8)
    made.supylabel("retain.es", fontsize=8)
    return made


def tofu(results: Path) -> Figure:
    """Per forget split: forget.es of each method, best step and rate, calibrated at four limits."""
    splits = sorted(path.parent for path in results.glob("tofu-*/calibrated/methods.parquet"))
    if not splits:
        raise FileNotFoundError("tofu-*/calibrated/methods.parquet")
    made = figure(len(splits))
    for axes, split in zip(made.axes, splits, strict=True):
        rows = pd.read_parquet(split / "methods.parquet")
        taus = sorted(float(name.rsplit("_", 1)[1]) for name in rows if name.startswith("best_mixed_forget_"))
        rows["name"] = rows.method.str.split().str[0]
        for colour, (name, mine) in zip(COLOURS, rows.groupby("name", sort=False), strict=False):
            curve = [mine.groupby("method")[f"best_mixed_forget_{tau}"].mean().min() for tau in taus]
            axes.plot(taus, curve, "o-", color=colour, label=name)
        axes.set(xlabel="share of retain.es to keep", ylim=(0, 1.02), title=split.parent.name.removeprefix("tofu-"))
    made.axes[0].set_ylabel("forget.es, calibrated")
    made.axes[0].legend(loc="upper left")
    return made


def mixing(results: Path) -> Figure:
    """What tuning, mixing and both forget at 90% of retain.es, and what the chosen point keeps on unread rows."""
    rows = pd.read_parquet(results / "mixing" / "best.parquet")
    made = figure(2, 2.4)
    for axes, key in zip(made.axes, ("forget.es", "retain_report.es"), strict=True):
        for i, way in enumerate(dict.fromkeys(rows.way)):
            values = rows[rows.way == way][key]
            axes.scatter([i] * len(values), values, s=12, color=COLOURS[i], alpha=0.7)
            axes.plot([i - 0.2, i + 0.2], [values.mean()] * 2, color=COLOURS[i])
        axes.set_xticks(range(rows.way.nunique()), list(dict.fromkeys(rows.way)))
        axes.set(title=key)
    made.axes[1].axhline(0.9, color=VERMILLION, ls="--", lw=0.8)
    return made


def stays(results: Path) -> Figure:
    """Left: forget.es of certified points of each rule, before and after the worst relearning, by loss. Right: what a
    search measures of a point, and what the attacks find on other rows."""
    rows = pd.read_parquet(results / "stays" / "cells.parquet")
    rows = rows[rows.groupby(["method", "rule"]).draw.transform("nunique") >= 5]
    losses, rules = list(dict.fromkeys(rows.method)), list(dict.fromkeys(rows.rule))
    made = figure(2, 3.2)
    left, right = made.axes
    for i, rule in enumerate(rules):
        for j, loss in enumerate(losses):
            mine = rows[(rows.rule == rule) & (rows.method == loss)]
            if mine.empty:
                continue
            y = len(rules) - 1 - i + 0.6 * (j + 0.5) / len(losses) - 0.3
            before, after = mine.forget.mean(), mine.worst.mean()
            half = stats.t.ppf(0.975, len(mine) - 1) * stats.sem(mine.worst) if len(mine) > 1 else 0
            left.plot([before, after], [y, y], color=COLOURS[j], lw=0.8)
            left.plot(before, y, "o", color=COLOURS[j], mfc="white", ms=4)
            left.errorbar(after, y, xerr=half, fmt="o", color=COLOURS[j], ms=4, lw=0.8, label="" if i else loss)
    left.set_yticks(range(len(rules)), rules[::-1])
    left.set(
        xlabel="forget.es: ○ certified, ● after relearning", xlim=(0, 1.35), title="what returns, by gradient rule"
    )
    left.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])  # beyond is the legend
    left.legend(loc="center right")
    for i, rule in enumerate(rules):
        mine = rows[rows.rule == rule]
        right.scatter(mine.relearned, mine.worst, s=12, color=COLOURS[i], alpha=0.8, label=rule)
    right.axline((0, 0), slope=1, color=GREY, lw=0.6)
    right.set(
        xlabel="relearned.es, in the search",
        ylabel="forget.es after the attacks",
        title="relearned.es against the attacks",
    )
    right.set(xlim=(0, 1.02), ylim=(0, 1.02))
    right.legend(loc="lower right")
    return made


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "testbed": testbed,
    "methods": methods,
    "fronts": fronts,
    "tofu": tofu,
    "mixing": mixing,
    "stays": stays,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    results = parser.parse_args().results
    (results / "figures").mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in FIGURES.items():
            try:
                made = draw(results)
            except FileNotFoundError as missing:
                print(f"{name}: left out, there is no {missing.filename or missing}")
                continue
            path = results / "figures" / f"{name}.png"
            made.savefig(path, dpi=170)
            print(path)


if __name__ == "__main__":
    main()
