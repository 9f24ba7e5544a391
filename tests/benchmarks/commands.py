"""How long a newcomer waits: the light commands, and the README's sweep with and without the testbed's first build.

python tests/benchmarks/commands.py [--sweeps]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seconds(*argv: str, **environment: str) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rayul", *argv],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", action="store_true", help="also time two whole sweeps (minutes)")
    arguments = parser.parse_args()
    for argv in (["--help"], ["validate", "search_spaces/ga.yaml"]):
        print(f"rayul {' '.join(argv)}: {statistics.median(seconds(*argv) for _ in range(7)):.2f} s (target: 0.7)")
    if not arguments.sweeps:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, target in (("first", 7), ("second", 4)):
            took = seconds(
                "sweep", "search_spaces/ga.yaml", "--results", folder, "--name", name, RAYUL_CACHE=f"{folder}/cache"
            )
            print(f"{name} sweep of ga.yaml: {took / 60:.1f} min (target: {target})")


if __name__ == "__main__":
    main()
