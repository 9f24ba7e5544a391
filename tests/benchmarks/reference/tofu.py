"""(c) The real TOFU rows: a target and its oracle for each forget split, a sweep with the TOFU suite, and methods
calibrated at four limits.

    python tests/benchmarks/reference/tofu.py --data FOLDER [--splits forget01,forget05,forget10] [--authors 60]
        [--trials 12] [--seeds 3] [--work bench] [--out results]

FOLDER has the data set's files. The target learns `authors` of TOFU's 200 authors with all real-author and world-fact
rows, the oracle the same without the forgotten ones, both from scratch (`rayul testbed`). Writes results/tofu-<split>
(the sweep's small files) and results/tofu-<split>/calibrated. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from sweeps import ROOT, keep, note, rayul, sweep

TAUS = "0.95,0.9,0.6,0.4"
METHODS = "ga,gd,kl,npo,simnpo,wga"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", default="forget01,forget05,forget10")
    parser.add_argument("--authors", type=int, default=60)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="of the calibrated comparison; 0 leaves it out")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--lrs", default="2e-3")
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    arguments = parser.parse_args()
    for split in arguments.splits.split(","):
        began = time.monotonic()
        bench = arguments.work.resolve() / f"tofu{arguments.authors}-{split}"
        if not (bench / "testbed.json").exists():
            rayul(
                "testbed",
                str(bench),
                "--data",
                str(arguments.data),
                "--authors",
                str(arguments.authors),
                "--forget",
                split,
            )
        folder = sweep(
            "search_spaces/tofu.yaml",
            arguments.work.resolve(),
            f"tofu-{split}",
            model=json.dumps({"path": str(bench / "model")}),
            oracle=json.dumps({"path": str(bench / "oracle")}),
            data__tofu=arguments.data.resolve(),
            data__forget=split,
            data__authors=arguments.authors,
            training__lr="{float: [1e-4, 5e-3], log: true}",
            evaluate__final="[forget_quality, model_utility]",
            search__trials=arguments.trials,
        )
        out = arguments.out / f"tofu-{split}"
        keep(folder, out)
        note(out, began, [*told(folder), "", *trained(bench)])
        if arguments.seeds:
            calibrate(bench, out / "calibrated", arguments)


def told(folder: Path) -> list[str]:
    """Markdown: baseline, oracle and the points of the front, with forget quality and model utility."""
    keys = ("forget.es", "retain.es", "retain_report.es", "forget.forget_quality", "retain_report.model_utility")
    models = pd.read_parquet(folder / "evaluations.parquet").to_dict("records")
    rows = [row for row in models if row["trial_id"] in ("baseline", "oracle")]
    rows += pd.read_parquet(folder / "pareto.parquet").to_dict("records")
    lines = [f"| model | {' | '.join(keys)} |", f"|{' --- |' * (len(keys) + 1)}"]
    for row in rows:
        name = row["trial_id"] if row["step"] == 0 else f"trial {row['trial_id']}, step {row['step']}"
        values = [row.get(f"metrics.{key}") for key in keys]
        lines.append(f"| {name} | {' | '.join('–' if pd.isna(v) else f'{v:.3g}' for v in values)} |")
    return lines


def trained(bench: Path) -> list[str]:
    """What target and oracle were trained on, and what they have memorised."""
    made = json.loads((bench / "testbed.json").read_text())
    rows = ", ".join(f"{count} {name}" for name, count in made["rows"].items())
    shape = f"{made['recipe']['layers']} layers of width {made['recipe']['hidden_size']}"
    lines = [f"Target and oracle: Llamas with {shape}, on {rows} rows (neither was trained on holdout rows).", ""]
    for role, found in made["memorised"].items():
        strengths = ", ".join(f"{name} {value:.3f}" for name, value in found["es"].items())
        lines.append(f"- {role}: {found['epochs']} epochs in {found['seconds'] / 60:.1f} min; es of {strengths}")
    return lines


def calibrate(bench: Path, out: Path, arguments: argparse.Namespace) -> None:
    script = ROOT / "tests" / "benchmarks" / "methods.py"
    options = {
        "--bench": bench,
        "--taus": TAUS,
        "--seeds": arguments.seeds,
        "--methods": arguments.methods,
        "--lrs": arguments.lrs,
        "--every": 20,
        "--out": out,
    }
    argv = [str(word) for pair in options.items() for word in pair]
    subprocess.run([sys.executable, str(script), *argv], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
