"""What the end of a sweep costs: points of the front measured again, and the dials of a certificate walked.

    python tests/benchmarks/tail.py --work DIR [--rounds N]

Trains five adapters of several ranks once, by gradient ascent, into DIR. Then CPU seconds on one thread of what a
device does when the trials have ended: the base in front of the rows (`Recaller`), every adapter loaded and measured
again (`verified`), and its dial walked and what passed measured (`walk_dials`), by forwards of a pack and through PEFT
(resources.packs: false) in turns. Whether both ways passed the same, and how far their p-values are apart.
To compare with another checkout, run both in turns with PYTHONPATH, on one DIR.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

LORA = ((4, 8), (8, 16), (16, 16), (2, 8), (8, 32))
"""Rank and alpha of each adapter."""

STEPS, LR = 12, 4e-3


def spec_of(r: int, alpha: int, packs: bool = True) -> Any:
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    plain = {
        "name": "tail",
        "model": "testbed",
        "data": "testbed",
        "method": "ga",
        "training": {"lr": LR, "steps": STEPS, "evaluate_every": STEPS},
        "lora": {"r": r, "alpha": alpha},
        "control": {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]},
        "resources": {"packs": packs},
        "report": {"samples": 5},
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
    from rayul.sweep.reference import verified
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.recall import Recaller
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import reference_evaluation

    torch.set_num_threads(1)
    ways = {"by a pack": spec_of(8, 16), "through PEFT": spec_of(8, 16, packs=False)}
    spec = ways["by a pack"]
    task = load_task(spec, load_sets(spec.data))
    baseline = reference_evaluation(task, spec, BASELINE)
    points = trained(task, asked.work, baseline)
    disk = DriverDisk(asked.work, asked.work, "", {})
    scales = tuple(dial().tolist())
    dials = tuple(Dial(e.trial_id, e.step, e.mixing, scales) for e in points)
    reading = Reading("", 0.1, (RowsRead("retain_certify", 20, True, 100, ""),), ("retain.es",), dials=dials)
    seconds: dict[str, list[float]] = {}
    found = {}

    def timed(name: str, measured: Callable[[], Any]) -> Any:
        began = time.process_time()
        answer = measured()
        seconds.setdefault(name, []).append(time.process_time() - began)
        return answer

    def again(recaller: Recaller) -> list[str]:
        return list(verified(spec, {}, disk, points, recaller))

    for _ in range(asked.rounds):
        recaller = timed("the base in front of the rows", partial(Recaller, task, spec))
        said = timed(f"{len(points)} points measured again", partial(again, recaller))
        assert not any(said), said
        for way, its in ways.items():
            walk = partial(walk_dials, its, task.sets, disk, reading, points, baseline.metrics, task, recaller)
            found[way] = timed(f"their dials walked {way}", walk)
    for name, taken in seconds.items():
        print(f"{name}: {statistics.median(taken):.2f} s of CPU ({' '.join(f'{s:.2f}' for s in taken)})")
    for way, dials_found in found.items():
        print(f"walked, passed {way}: {[(len(one.walked), one.passed) for one, _ in dials_found]}")
    p_values = [[w.p_value for one, _ in way for w in one.walked] for way in found.values()]
    print(f"largest difference of a p-value: {max(abs(p - q) for p, q in zip(*p_values, strict=True)):.2g}")


if __name__ == "__main__":
    main()
