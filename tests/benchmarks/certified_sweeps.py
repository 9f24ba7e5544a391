"""Do the certified points of whole sweeps keep their limit on authors that took no part?

    python tests/benchmarks/certified_sweeps.py --work DIR --seeds 101 102 103 104 105

The README's sweep (search_spaces/ga.yaml) once for each seed, into DIR/SEED; one that is there is not run
again. A row for each certified point: what it forgets, and what it keeps of retain.es on the select authors (which
chose it), and on the report authors (which nothing chose by), with one standard error over those.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rayul import load_results
from rayul.report.certified import certified

ROOT = Path(__file__).resolve().parents[2]


def rows_of(folder: Path, seed: int) -> Iterator[str]:
    """The table's rows of a sweep; the point that it answers with stands first, in bold."""
    results = load_results(folder)
    before, found = results.baseline.metrics, [one.e for one in certified(results)]
    if not found:
        yield f"| {seed} | nothing | | | | |"
    for point in found:  # what forgot most first
        kept = {key: point.metrics[key] / before[key] for key in ("retain.es", "retain_report.es")}
        error = point.stderr["retain_report.es"] / before["retain_report.es"]
        forgotten = 1 - point.metrics["forget.es"] / before["forget.es"]
        mark = "**" if point is found[0] else ""
        yield (
            f"| {seed} | {mark}{point.trial_id} at step {point.step}{mark} | {point.mixing:.2f} "
            f"| {forgotten:.1%} | {kept['retain.es']:.1%} | {kept['retain_report.es']:.1%} ± {error:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103, 104, 105])
    asked = parser.parse_args()
    print("| seed | point | scale | forgets | keeps, select | keeps, report |\n| --- | --- | --- | --- | --- | --- |")
    for seed in asked.seeds:
        results = asked.work / str(seed)
        if not (results / "ga" / "report.html").exists():
            command = [sys.executable, "-m", "rayul", "sweep", str(ROOT / "search_spaces" / "ga.yaml")]
            options = ["--results", str(results), "--set", f"search.seed={seed}", "--resume-if-any"]
            subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        for row in rows_of(results / "ga", seed):
            print(row, flush=True)


if __name__ == "__main__":
    main()
