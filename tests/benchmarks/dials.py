"""What walking the dials of a certificate costs: five adapters of several ranks on the embedded testbed.

    python tests/benchmarks/dials.py --work DIR [--rounds N]

Trains the adapters once, by gradient ascent, into DIR. Then CPU seconds of `walk_dials`, adapters and coefficients in
shared forwards and one at a time (resources.packs: false) in turns, on one thread, and whether both passed the same.
To compare with another checkout, run both in turns with PYTHONPATH.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

LORA = ((4, 8), (8, 16), (16, 16), (2, 8), (8, 32))
"""Rank and alpha of each adapter."""

STEPS, LR = 12, 4e-3


def spec_of(r: int, alpha: int, packs: bool = True) -> Any:
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    plain = {
        "name": "dials",
        "model": "testbed",
        "data": "testbed",
        "method": "ga",
        "training": {"lr": LR, "steps": STEPS, "evaluate_every": STEPS},
        "lora": {"r": r, "alpha": alpha},
        "control": {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]},
        "resources": {"packs": packs},
    }
    return with_testbed(from_plain(plain))


def trained(task: Any, folder: Path, baseline: Any) -> list[Any]:
    """The evaluation of each adapter, which is saved."""
    from rayul.records import adapter_folder
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    points = []
    for number, (r, alpha) in enumerate(LORA):
        job = TrialJob(f"{number:04d}", spec_of(r, alpha), number, {}, baseline.metrics)
        for snapshot in run_trial(task, job):
            if snapshot.update is not None and snapshot.evaluations[-1].step == STEPS:
                e = replace(snapshot.evaluations[-1], mixing=1.0)
                snapshot.update.save(1.0, adapter_folder(folder, e))
                points.append(e)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    import torch

    from rayul.pareto.certificate import dial
    from rayul.records import BASELINE
    from rayul.records.certificate import Dial, Reading, RowsRead
    from rayul.sweep.dials import walk_dials
    from rayul.sweep.driver_disk import DriverDisk
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import reference_evaluation

    torch.set_num_threads(1)
    arms = {"together": spec_of(8, 16), "one at a time": spec_of(8, 16, packs=False)}
    spec = arms["together"]
    task = load_task(spec, load_sets(spec.data))
    baseline = reference_evaluation(task, spec, BASELINE)
    points = trained(task, asked.work, baseline)
    disk = DriverDisk(asked.work, asked.work, "", {})
    scales = tuple(dial().tolist())
    dials = tuple(Dial(e.trial_id, e.step, e.mixing, scales) for e in points)
    reading = Reading("", 0.1, (RowsRead("retain_certify", 20, True, 100, ""),), ("retain.es",), dials=dials)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    found = {}
    for _ in range(asked.rounds):
        for arm, its_spec in arms.items():
            began = time.process_time()
            found[arm] = walk_dials(its_spec, task.sets, disk, reading, points, baseline.metrics, task)
            seconds[arm].append(time.process_time() - began)
    for arm, taken in seconds.items():
        walked = [(len(one.walked), one.passed) for one, _ in found[arm]]
        shown = " ".join(f"{s:.2f}" for s in taken)
        print(f"{arm}: {statistics.median(taken):.2f} s of CPU ({shown}); walked, passed: {walked}")


if __name__ == "__main__":
    main()
