"""The end of a sweep with trials that move from a full device to an idle one, and with trials that stay.

    python tests/benchmarks/moves.py [--spec ga] [--trials 15] [--rounds 3] [--pruned] [--slots 4]

The trials of a shipped space on the testbed's model and rows, drawn at random with seeds of the rounds, none pruned but
with --pruned. Arms take turns, each a command of its own, on the same trials. Seconds: of the whole command, and from
the first row of the trial that began last to the last line of the journal, when trials move if they ever do. Ratios are
the median of the rounds', and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer import UNMIXED, UNPRUNED, Processes

ROOT = Path(__file__).parents[2]
STAYING = """
from rayul.sweep.packs.broker import Devices
Devices.release = lambda self, holder, *, spread=False: self.broker.release.remote(holder, False)
from rayul.cli import main
main()
"""
ARMS = {"moving": ["-m", "rayul"], "staying": ["-c", STAYING]}


def ran(arm: str, seed: int, folder: Path, asked: argparse.Namespace) -> tuple[float, float]:
    """Wall seconds of the command, and of its end."""
    changes = ["search.sampler=random", f"search.trials={asked.trials}", f"search.seed={seed}"]
    changes += [f"resources={{gpu: 0, trials_per_gpu: {asked.slots}}}"] + ([] if asked.pruned else [UNPRUNED])
    changes += [UNMIXED]
    command = ["sweep", str(ROOT / "search_spaces" / f"{asked.spec}.yaml"), "--results", str(folder)]
    command += [part for change in ["model=testbed", "data=testbed", *changes] for part in ("--set", change)]
    log, journal = folder.with_suffix(".log"), folder / asked.spec / "evaluations.jsonl"
    began = time.time()
    with log.open("w") as lines:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, *ARMS[arm], *command], stdout=lines, stderr=lines, env=env)
        watched = Processes(process.pid, journal)
        while process.poll() is None:
            watched.sample()
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(log.read_text()[-3000:])
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row["trial_id"].isdigit():
            first.setdefault(row["trial_id"], number)
    return time.time() - began, watched.at(len(rows)) - watched.at(max(first.values()) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="ga")
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--pruned", action="store_true")
    asked = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory(prefix="moves") as place:
        for seed in range(asked.rounds):
            for arm in ARMS if seed % 2 == 0 else reversed(ARMS):
                whole, end = ran(arm, seed, Path(place) / f"{arm}{seed}", asked)
                found[arm].append((whole, end))
                load = os.getloadavg()[0]
                print(f"seed {seed}, {arm}: {whole:.1f} s, its end {end:.1f} s, load {load:.1f}", flush=True)
    for i, part in enumerate(("the whole sweep", "its end")):
        pairs = zip(*([times[i] for times in found[arm]] for arm in ("staying", "moving")), strict=True)
        ratios = [moving / staying for staying, moving in pairs]
        print(f"{part}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the time")


if __name__ == "__main__":
    main()
