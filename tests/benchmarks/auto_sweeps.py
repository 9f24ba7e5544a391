"""Whole short sweeps as they are shipped (`trials_per_gpu` and `compile` auto) beside one trial at a time, uncompiled,
or beside another number of them on a core.

    python tests/benchmarks/auto_sweeps.py [--spec ga rmu tofu] [--trials 16] [--steps 20] [--rounds 3] [--against 1]
    python tests/benchmarks/auto_sweeps.py --spec 135M --trials 6 --steps 3 --set evaluate.max_rows=8 certify=false \\
        control={} "objectives={forget.prob: minimize, retain.prob: maximize}"

Of the shipped spaces on the testbed's model and rows, or of ga's on a model of SmolLM2-135M's shape with random
weights, with trials drawn at random, none pruned, so that both do the same work. Arms take turns, each a command of its
own. The cache of what packs measured is emptied before each, so that every sweep is the first of its shape. Wall and
CPU seconds of the driver and all its processes; ratios are the median of the rounds' ratios, and their range.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory import SHAPES
from peer import Processes

ROOT = Path(__file__).parents[2]


def ran(arm: str, spec: str, folder: Path, asked: argparse.Namespace) -> tuple[float, float, str]:
    """Wall and CPU seconds, and the line that says why a pack was chosen."""
    resources = "gpu: 0" if arm == "auto" else f"gpu: 0, trials_per_gpu: {arm}, compile: false"
    changes = [
        f"resources={{{resources}}}",
        "search.sampler=random",
        f"search.trials={asked.trials}",
        f"training.steps={asked.steps}",
    ]
    changes += ["pruning={criteria: false, dominance: false}", "model=testbed", "oracle=null", "data=testbed"]
    if spec in SHAPES:
        changes.append(f"model={asked.models[spec]}")
    changes += asked.changes
    shutil.rmtree(asked.cache / "packs", ignore_errors=True)
    file = ROOT / "search_spaces" / f"{'ga' if spec in SHAPES else spec}.yaml"
    command = [sys.executable, "-m", "rayul", "sweep", str(file)]
    command += ["--results", str(folder), *(part for change in changes for part in ("--set", change))]
    log = folder.with_suffix(".log")
    began = time.perf_counter()
    with log.open("w") as lines:
        env = os.environ | {"OMP_NUM_THREADS": "1", "RAYUL_CACHE": str(asked.cache)}
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=env)
        watched = Processes(process.pid, folder / "none")
        while process.poll() is None:
            watched.sample()
            time.sleep(0.2)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(log.read_text()[-3000:])
    said = [line for line in log.read_text().splitlines() if "per device" in line or "rows per second" in line]
    return wall, sum(watched.by_kind.values()), said[0].partition(": ")[2] if said else ""


def ratio(pairs: list[tuple[float, float]]) -> str:
    ratios = [after / before for before, after in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", nargs="+", default=["ga", "rmu", "tofu"])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", default="1", help="trials on a core of the other arm")
    parser.add_argument("--set", nargs="+", default=[], dest="changes", help="of the spec, for both arms")
    asked = parser.parse_args()
    from packs_auto import spec_of

    from rayul.testbed import ensure_testbed

    arms = (asked.against, "auto")
    both = ", ".join(arms)
    print(f"| space | chosen | wall, s: {both} | ratio | CPU, s: {both} | ratio |\n|" + " --- |" * 6)
    with tempfile.TemporaryDirectory() as place:
        asked.cache = Path(place) / "cache"
        built = ensure_testbed()
        asked.cache.mkdir()
        (asked.cache / built.name).symlink_to(built)
        asked.models = {shape: Path(place) / shape for shape in asked.spec if shape in SHAPES}
        for shape, folder in asked.models.items():
            spec_of(shape, folder)
        for spec in asked.spec:
            found: dict[str, list[tuple[float, float, str]]] = {arm: [] for arm in arms}
            for i in range(asked.rounds):
                for arm in arms:
                    found[arm].append(ran(arm, spec, Path(place) / f"{spec}-{arm}-{i}", asked))
                    print(f"{spec}, round {i + 1}, {arm}: {found[arm][-1]}", file=sys.stderr, flush=True)
            cells = [spec, found["auto"][-1][2]]
            for number in (0, 1):
                pairs = [(float(a[number]), float(b[number])) for a, b in zip(*found.values(), strict=True)]
                cells.append(", ".join(f"{statistics.median(column):.0f}" for column in zip(*pairs, strict=True)))
                cells.append(ratio(pairs))
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
