"""rayul sweep beside what a good user writes with Ray Tune, OptunaSearch and PEFT (tests/gpu/by_hand.py), on a CPU.

    python tests/benchmarks/peer.py --work DIR [--trials 16] [--fewer 4] [--rounds 1] [--arms tune reused rayul]

The same rows, model, space and steps: search_spaces/ga.yaml on the testbed, which is made before. The same number of
trials, but for the arm "fewer". Arms take turns: Ray Tune with a process a trial, the same with reuse_actors, rayul as
shipped, the same with fewer trials, rayul without mixing, and that without pruning. Those by hand have no mixing. All
read the rows to forget and to keep by one forward pass, by hand every 5 steps and rayul when `evaluate_every: auto`
says, and save adapters of what keeps the limit.
Wall time is from the command to its end; rayul's has the references, the measurement of saved adapters, the
certificate and the report in it. CPU seconds are those of all processes below the command, read twice a second, so
that the last half second of each is missing. The peer's adapters are certified afterwards, outside of its time, by the
rule of `rayul certify`: five points spread over the front, 90% confidence. Hypervolumes are rayul's, within the limit:
of the front as the search saw it, and of the certified points. "Seconds to the peer's" is when an arm's front had the
hypervolume at which the arm "reused" ended in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "search_spaces" / "ga.yaml"
ARMS = {
    "tune": "Ray Tune, a process a trial",
    "reused": "Ray Tune, reuse_actors",
    "rayul": "rayul sweep",
    "fewer": "rayul sweep, fewer trials",
    "plain": "rayul sweep, no mixing",
    "unpruned": "rayul sweep, no mixing, no pruning",
}
UNMIXED = "control.mixing=false"
UNPRUNED = "pruning={criteria: false, dominance: false}"
CHANGES = {"plain": [UNMIXED], "unpruned": [UNMIXED, UNPRUNED]}
CERTIFY = "retain_certify"
EVERY = 5
"""Steps between the evaluations of the arm by hand."""
TICK = os.sysconf("SC_CLK_TCK")


def plain() -> Any:
    """ga.yaml's limits and model, with one setting in place of its space."""
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    criteria = [{"metric": "retain.es", "at_least": "90% of baseline"}]
    one = {"name": "peer", "model": "testbed", "data": "testbed", "method": "ga", "control": {"criteria": criteria}}
    return with_testbed(from_plain(one | {"training": {"lr": 1e-3}}))


class Processes:
    """CPU seconds of a process and all below it, by kind, and the lines of a file by the second they were there."""

    def __init__(self, root: int, journal: Path) -> None:
        self.root, self.journal, self.began = root, journal, time.time()
        self.seconds: dict[tuple[int, str], float] = {}
        self.kinds: dict[tuple[int, str], str] = {}
        self.lines: list[tuple[float, int]] = []

    def sample(self) -> None:
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                stats[int(path.parent.name)] = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
        below, todo = set(), [self.root]
        children: dict[int, list[int]] = {}
        for pid, fields in stats.items():
            children.setdefault(int(fields[1]), []).append(pid)
        while todo:
            pid = todo.pop()
            below.add(pid)
            todo += children.get(pid, [])
        for pid in below & stats.keys():
            fields = stats[pid]
            key = (pid, fields[19])
            self.seconds[key] = (int(fields[11]) + int(fields[12])) / TICK
            kind = self._kind(pid)
            if kind != "Ray, idle workers" or key not in self.kinds:
                self.kinds[key] = kind
        if self.journal.is_file():
            self.lines.append((time.time() - self.began, self.journal.read_bytes().count(b"\n")))

    def _kind(self, pid: int) -> str:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return "other"
        if pid == self.root:
            return "driver"
        if command.startswith("ray::IDLE"):
            return "Ray, idle workers"
        if command.startswith("ray::"):
            return command[5:].split(".")[0].split("(")[0].split()[0]
        return "Ray's services" if "ray" in command else "other"

    @property
    def by_kind(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for key, seconds in self.seconds.items():
            total[self.kinds[key]] += seconds
        return dict(total.most_common())

    def at(self, line: int) -> float:
        """When the file had so many lines."""
        return next((at for at, count in self.lines if count >= line), self.lines[-1][0])


def run(arm: str, folder: Path, sweep: Path, target: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One arm, once; its wall and CPU seconds, and the evaluations with the second at which each was there."""
    if arm in ("tune", "reused"):
        command = [str(ROOT / "tests" / "gpu" / "by_hand.py"), str(target), str(sweep), "--processes", "2"]
        command += ["--points", str(folder), *(["--reuse"] if arm == "reused" else [])]
        journal = folder / "points.jsonl"
    else:
        command = ["-m", "rayul", "sweep", str(SPEC), "--results", str(folder), *overrides(arm, asked)]
        journal = folder / "ga" / "evaluations.jsonl"
    folder.mkdir(parents=True)
    began = time.time()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, cwd=ROOT)
        watched = Processes(process.pid, journal)
        while process.poll() is None:
            watched.sample()
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{arm}: {(folder / 'log').read_text()[-3000:]}")
    cpu = watched.by_kind
    found = {
        "arm": arm,
        "trials": trials(arm, asked),
        "wall": time.time() - began,
        "cpu": sum(cpu.values()),
        "kinds": cpu,
    }
    return found | (of_rayul(folder / "ga", watched) if arm not in ("tune", "reused") else of_peer(folder, began))


def trials(arm: str, asked: argparse.Namespace) -> int:
    return int(asked.fewer if arm == "fewer" else asked.trials)


def overrides(arm: str, asked: argparse.Namespace) -> list[str]:
    changes = [f"search.trials={trials(arm, asked)}", f"training.steps={asked.steps}", f"search.seed={asked.seed}"]
    changes += CHANGES.get(arm, [])
    return [part for change in changes for part in ("--set", change)]


def judged(rows: Sequence[Any], baseline: Any, at: Sequence[float], certified: Sequence[Any]) -> dict[str, Any]:
    """rows: all evaluations, in the order in which they came; at: the seconds. certified: of the certified points."""
    from rayul.pareto.front import forgotten
    from rayul.pareto.hypervolume import hypervolume, hypervolume_history

    objectives: Any = {"forget.es": "minimize", "retain.es": "maximize"}
    limit = {"retain.es": 0.9 * baseline.metrics["retain.es"]}
    curve = [(at[count - 1], volume) for count, volume in hypervolume_history(rows, baseline, objectives, limit)[1:]]
    gone = forgotten(certified, baseline, objectives).tolist() if certified else []
    return {
        "evaluations": len(rows),
        "curve": curve,
        "hypervolume": curve[-1][1],
        "certified": len(certified),
        "certified_forgetting": max(gone, default=0.0),
        "certified_hypervolume": hypervolume(certified, baseline, objectives, limit) if certified else 0.0,
    }


def of_rayul(folder: Path, watched: Processes) -> dict[str, Any]:
    from rayul import load_results
    from rayul.report.certified import certified

    results = load_results(folder)
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    numbers = [i + 1 for i, line in enumerate(lines) if "metrics" in line]
    timed = [(e, watched.at(line)) for e, line in zip(results.evaluations, numbers, strict=True) if not e.is_reference]
    found = [one.e for one in certified(results)]
    return judged([e for e, _ in timed], results.baseline, [at for _, at in timed], found)


def of_peer(folder: Path, began: float) -> dict[str, Any]:
    """The peer's evaluations, and its front's adapters under the rule of `rayul certify`."""
    from rayul.pareto.certificate import dial
    from rayul.pareto.front import front
    from rayul.pareto.spread import spread
    from rayul.records import BASELINE, Evaluation, adapter_folder
    from rayul.records.certificate import Dial, Reading, RowsRead
    from rayul.spec import Certify
    from rayul.sweep.certify import certify_groups
    from rayul.sweep.dials import walk_dials
    from rayul.sweep.driver_disk import DriverDisk
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import reference_evaluation

    spec, wanted = plain(), Certify()
    sets = load_sets(spec.data)
    task = load_task(spec, sets)
    baseline = reference_evaluation(task, spec, BASELINE)
    points = [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]
    numbers = {trial: i for i, trial in enumerate(dict.fromkeys(point["trial"] for point in points))}
    rows, saved = [], {}
    for point in points:
        metrics = {"forget.es": point["forget"], "retain.es": point["retain_select"]}
        feasible = metrics["retain.es"] >= 0.9 * baseline.metrics["retain.es"]
        e = Evaluation(f"{numbers[point['trial']]:04d}", point["steps"], metrics=metrics, feasible=feasible)
        rows.append(e)
        saved[e.key] = folder / f"{point['trial']}-{point['steps']}"
    kept = [e for e in front(rows, baseline, spec.objectives) if saved[e.key].is_dir()]
    chosen = spread(kept, wanted.points) if kept else []
    for e in chosen:
        shutil.copytree(saved[e.key], adapter_folder(folder, e))
    certified = []
    if chosen:
        dials = tuple(Dial(e.trial_id, e.step, e.mixing, tuple(dial().tolist())) for e in chosen)
        read = RowsRead(CERTIFY, certify_groups(sets)[CERTIFY], True, len(sets[CERTIFY]), "")
        reading = Reading("", round(1 - wanted.confidence, 12), (read,), ("retain.es",), dials=dials)
        walked = walk_dials(spec, sets, DriverDisk(folder, folder, "", {}), reading, chosen, baseline.metrics, task)
        certified = [one.certified for one, _ in walked if one.certified is not None]
    return judged(rows, baseline, [point["at"] - began for point in points], certified)


def table(found: Sequence[dict[str, Any]]) -> str:
    """Medians over the rounds, with the range where there are several."""

    def shown(values: Sequence[float], digits: int) -> str:
        known = [value for value in values if value == value]
        if not known:
            return "never"
        middle = f"{statistics.median(known):.{digits}f}"
        return middle if len(known) < 2 else f"{middle} ({min(known):.{digits}f} to {max(known):.{digits}f})"

    ends = {one["round"]: one["hypervolume"] for one in found if one["arm"] == "reused"}
    head = ["arm", "trials", "wall, s", "CPU, s", "trials an hour", "evaluations", "hypervolume", "s to the peer's"]
    head += ["certified points", "the best forgets", "certified hypervolume"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for arm in dict.fromkeys(one["arm"] for one in found):
        runs = [one for one in found if one["arm"] == arm]
        reached = [
            next((at for at, volume in one["curve"] if volume >= ends.get(one["round"], 2.0)), float("nan"))
            for one in runs
        ]
        cells = [
            ARMS[arm],
            str(runs[0]["trials"]),
            shown([one["wall"] for one in runs], 0),
            shown([one["cpu"] for one in runs], 0),
            shown([3600 * one["trials"] / one["wall"] for one in runs], 0),
            shown([one["evaluations"] for one in runs], 0),
            shown([one["hypervolume"] for one in runs], 3),
            shown(reached, 0),
            shown([one["certified"] for one in runs], 0),
            shown([one["certified_forgetting"] for one in runs], 3),
            shown([one["certified_hypervolume"] for one in runs], 3),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "CPU seconds by kind of process, medians:", ""]
    for arm in dict.fromkeys(one["arm"] for one in found):
        kinds = [one["kinds"] for one in found if one["arm"] == arm]
        names = dict.fromkeys(name for one in kinds for name in one)
        parts = {name: statistics.median(one.get(name, 0.0) for one in kinds) for name in names}
        told = [f"{name} {value:.0f}" for name, value in parts.items() if value >= 1]
        lines.append(f"- {ARMS[arm]}: {', '.join(told)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--fewer", type=int, default=4, help="trials of the arm of that name")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    asked = parser.parse_args()
    import torch

    from rayul.spec import dump_yaml, load_spec
    from rayul.testbed import with_testbed

    torch.set_num_threads(1)
    changes = [part for part in overrides("reused", asked) if part != "--set"]
    ready = with_testbed(load_spec(SPEC, [*changes, f"training.evaluate_every={EVERY}"]))
    asked.work.mkdir(parents=True, exist_ok=True)
    sweep, target = asked.work / "sweep.yaml", Path(ready.model.path).parent
    sweep.write_text(dump_yaml(ready.resolved()))
    log, found = asked.work / "runs.jsonl", []
    for i in range(asked.rounds):
        for arm in asked.arms if i % 2 == 0 else asked.arms[::-1]:
            one = run(arm, asked.work / f"{arm}-{time.time():.0f}", sweep, target, asked)
            one |= {"round": i, "load": os.getloadavg()[1]}
            found.append(one)
            with log.open("a") as file:
                file.write(json.dumps(one) + "\n")
            shown = {name: one[name] for name in ("arm", "wall", "cpu", "hypervolume", "load")}
            print(json.dumps(shown), file=sys.stderr, flush=True)
    loads = sorted(one["load"] for one in found)
    print(
        f"{asked.trials} trials of {asked.steps} steps, {asked.rounds} rounds, load {loads[0]:.0f} to {loads[-1]:.0f}"
    )
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
