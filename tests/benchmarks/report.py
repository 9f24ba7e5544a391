"""Seconds from nothing to report.html on 10,000 evaluations, a new process each time, and where they go.

    python tests/benchmarks/report.py [EVALUATIONS] [FOLDER]

Number to reach: under 3 s in all, process start included, and a page under 8 MB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))

from synthetic import sweep, write_folder

COMMAND = "import sys, pathlib, rayul.report as p; p.summarise(pathlib.Path(sys.argv[1]))"


def main(count: int, folder: Path) -> None:
    rows = sweep(count // 12, fail_every=0, prune=False)
    write_folder(folder, rows)
    for attempt in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, str(folder)], check=True)
        seconds = time.perf_counter() - start
        print(f"run {attempt + 1}: {seconds:.2f} s for {len(rows):,} evaluations, process start included")
    for name in ("report.html", "evaluations.parquet", "trials.parquet", "pareto.parquet", "pareto.csv"):
        print(f"{name:22s} {(folder / name).stat().st_size / 1e6:7.3f} MB")


if __name__ == "__main__":
    evaluations = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as temporary:
        main(evaluations, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary) / "sweep")
