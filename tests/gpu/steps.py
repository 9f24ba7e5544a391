"""The steps of run.sh, each with a moment by which it ends, and after each of them the summary of what they left.

Time that a step does not use is there for those after it. One that is late is interrupted, as by Ctrl-C, so that a
sweep writes its report on the trials it has; ten seconds later its processes are killed. What every step printed is in
the archive of records, and the end of what one printed that failed also in the summary.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from summary import Step, write_summary

HERE = Path(__file__).parent
LOGS = "logs"
GRACE = 10.0
"""Seconds between the interrupt and the kill."""
WORTH = 8.0
"""A step with fewer seconds left is not begun: it would take the time of its end from the next."""


@dataclass(frozen=True)
class Plan:
    """Seconds after the beginning by which each step has ended, and how many the trials by hand get."""

    tests: float
    target: float
    sweep: float
    attacks: float
    evaluations: float
    by_hand: dict[int, float]
    """By the number of processes."""
    ga: float
    seconds_by_hand: float
    saving: float
    """Of the target's time, in which what it has memorised is measured and written."""
    attack_flags: tuple[str, ...] = ()
    ga_flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


CARD = Plan(
    tests=150,
    target=165,
    sweep=290,
    attacks=320,
    evaluations=345,
    by_hand={4: 418, 8: 490},
    ga=525,
    seconds_by_hand=60,
    saving=40,
)
TOY = Plan(
    tests=280,
    target=420,
    sweep=540,
    attacks=660,
    evaluations=690,
    by_hand={2: 780},
    ga=900,
    seconds_by_hand=10,
    saving=150,
    attack_flags=("--budget", "2"),
    ga_flags=("--trials", "4", "--set", "training.steps=10"),
    environment={"RAYUL_TOY": "1", "OMP_NUM_THREADS": "1"},
)
"""Two cores, which other work may share; nothing at all is waited for in them."""


class Runner:
    """Runs commands; what they print is in files in `logs`. `began` is when the clock of the plan was zero. `ended` is
    called after each step, so that who ends all of this from outside still finds what was measured."""

    def __init__(
        self, logs: Path, began: float, environment: dict[str, str], ended: Callable[[list[Step]], object]
    ) -> None:
        self.logs, self.began, self.environment, self.ended = logs, began, environment, ended
        self.steps: list[Step] = []
        self.background: dict[str, tuple[subprocess.Popen[bytes], float]] = {}

    def start(self, name: str, command: list[str]) -> None:
        """One that runs beside the others until `finish`."""
        with open(self.logs / f"{name}.txt", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        self.background[name] = process, time.time()

    def finish(self, name: str, until: float) -> bool:
        """Wait for it; whether it ended by then and well."""
        process, started = self.background.pop(name)
        try:
            code: int | None = process.wait(timeout=max(0.0, self.left(until)))
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
            with suppress(ProcessLookupError):  # also what it has left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._say(Step(name, code, time.time() - started, said="" if code == 0 else end_of(self.logs / f"{name}.txt")))
        return code == 0

    def run(self, name: str, until: float, command: list[str]) -> bool:
        if self.left(until) < WORTH:
            self.skip(name, "no time was left")
            return False
        self.start(name, command)
        return self.finish(name, until)

    def left(self, until: float) -> float:
        """Seconds from now."""
        return self.began + until - time.time()

    def skip(self, name: str, why: str) -> None:
        self._say(Step(name, None, 0.0, skipped=why))

    def _say(self, step: Step) -> None:
        self.steps.append(step)
        print(f"{time.time() - self.began:5.0f} s  {step.name}: {step.outcome}", flush=True)
        self.ended(self.steps)


def end_of(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def run_all(runner: Runner, plan: Plan, work: Path, toy: bool) -> None:
    python = sys.executable
    rayul = [python, "-m", "rayul"]
    target, spec = work / "target", work / "tofu.yaml"
    tofu = os.environ.get("TOFU")
    # Beside the tests, which leave most of a card and its cores alone: target and oracle, and the testbed of ga.yaml.
    if tofu:
        seconds = max(1.0, runner.left(plan.target) - plan.saving)
        command = [python, str(HERE / "target.py"), str(work), tofu, "--seconds", f"{seconds:.0f}"]
        runner.start("target", [*command, *["--toy"] * toy])
    if not toy:
        runner.start("testbed", [python, "-c", "from rayul.testbed import ensure_testbed; ensure_testbed()"])
    # In one process, since all tests share the card; and an offline machine has no pytest-xdist.
    one = ["-o", "addopts=--strict-markers"]
    tests = [python, "-m", "pytest", *one, "-m", "gpu", "-p", "no:cacheprovider", "--durations=0"]
    tests += [f"--junitxml={work / 'tests.xml'}", str(HERE)]
    runner.run("tests", plan.tests, tests)
    ready = bool(tofu) and runner.finish("target", plan.target)
    if ready:
        sweep = [*rayul, "sweep", str(spec), "--results", str(work)]
        whole = runner.run("sweep", plan.sweep, sweep)
        certified = (work / "tofu" / "certificate.json").is_file  # what breaks after it breaks the report alone
        if not (whole or certified() or runner.steps[-1].code is None):  # compiling is the part most likely to break
            shutil.rmtree(work / "tofu", ignore_errors=True)
            whole = runner.run("sweep-uncompiled", plan.sweep, [*sweep, "--set", "resources.compile=false"])
        if whole or certified():
            runner.run(
                "attacks", plan.attacks, [*rayul, "certify", str(work / "tofu"), "--points", "1", *plan.attack_flags]
            )
        else:
            runner.skip("attacks", "the sweep did not end")
        measure = [python, str(HERE / "evaluations.py"), str(spec), "--output", str(work / "evaluations.json")]
        runner.run("evaluations", plan.evaluations, measure)
        for processes, until in plan.by_hand.items():
            command = [python, str(HERE / "by_hand.py"), str(target), str(spec), "--processes", str(processes)]
            command += ["--seconds", str(plan.seconds_by_hand), "--output", str(work / f"by_hand_{processes}.json")]
            runner.run(f"by-hand-{processes}", until, command)
    else:
        for name in ("sweep", "attacks", "evaluations", *(f"by-hand-{n}" for n in plan.by_hand)):
            runner.skip(name, "there is no target" if tofu else "TOFU's files are not here (run.sh says where)")
    if toy or runner.finish("testbed", plan.ga):
        runner.run("ga", plan.ga, [*rayul, "sweep", "ga", "--results", str(work), *plan.ga_flags])
    else:
        runner.skip("ga", "its testbed was not trained in time")


def pack_up(work: Path, out: Path) -> None:
    """One archive of the logs and of what the sweeps wrote, without weights."""
    with tarfile.open(out / "records.tar.gz", "w:gz") as archive:
        for path in sorted(work.rglob("*")):
            kept = path.suffix in (".txt", ".json", ".jsonl", ".yaml", ".html", ".md", ".csv", ".parquet")
            inside = path.relative_to(work)
            if path.is_file() and kept and inside.parts[0] in (LOGS, "tofu", "ga", "tofu.yaml"):
                archive.add(path, inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--began", type=float, default=time.time(), help="seconds since 1970")
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    # Where a shell has started this in the background, it ignores interrupts, and so would the steps.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    plan, out = TOY if arguments.toy else CARD, arguments.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="rayul-gpu-"))
    (work / LOGS).mkdir()

    def keep(steps: list[Step]) -> bool:
        passed = write_summary(out, work, steps, arguments.toy)
        pack_up(work, out)
        return passed

    runner = Runner(work / LOGS, arguments.began, plan.environment, ended=keep)
    try:
        run_all(runner, plan, work, arguments.toy)
    finally:
        for process, _ in runner.background.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        passed = keep(runner.steps)
        shutil.rmtree(work, ignore_errors=True)  # what was killed may leave the last files behind
    print(f"{time.time() - arguments.began:5.0f} s  {out / 'summary.md'}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
