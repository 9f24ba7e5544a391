"""(a) The sweep of ga.yaml on the testbed, without mixing, its report, and the audit of its finalists.

    python tests/benchmarks/reference/testbed.py [--trials 64] [--finalists 3] [--seeds 5] [--work bench]
        [--out results/testbed]

An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from sweeps import ROOT, keep, note, rayul, sweep

AUDIT = ("verdict.json", "finalists.parquet", "attacks.parquet", "robustness.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "testbed")
    arguments = parser.parse_args()
    began = time.monotonic()
    folder = sweep(
        "search_spaces/ga.yaml",
        arguments.work.resolve(),
        "ga",
        search__trials=arguments.trials,
        control__mixing="false",
    )
    said = rayul("audit", str(folder), "--n", str(arguments.finalists), "--seeds", str(arguments.seeds))
    keep(folder, arguments.out)
    (arguments.out / "audit").mkdir(exist_ok=True)
    for name in AUDIT:
        shutil.copy2(folder / "audit" / name, arguments.out / "audit" / name)
    note(arguments.out, began, [f"    {line}" for line in said.splitlines()[:-1]])


if __name__ == "__main__":
    main()
