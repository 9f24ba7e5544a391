"""summary.json and summary.md of run.sh: what was measured beside what it should be, with card, date and versions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "bitsandbytes")


@dataclass(frozen=True)
class Step:
    """One command. code: its exit code; None where it was interrupted, or skipped for a reason. said: the end of what
    it printed, where it did not end well."""

    name: str
    code: int | None
    seconds: float
    skipped: str = ""
    said: str = ""

    @property
    def outcome(self) -> str:
        if self.skipped:
            return f"skipped, {self.skipped}"
        took = f"{self.seconds:.0f} s"
        if self.code is None:
            return f"interrupted after {took}, when its time was over"
        return f"{took}, exit code {self.code}" if self.code else took


@dataclass(frozen=True)
class Target:
    """met: None where the number was not measured."""

    what: str
    measured: str
    met: bool | None


def write_summary(out: Path, work: Path, steps: Sequence[Step], toy: bool) -> bool:
    """From what the steps left in `work` and `out`. Returns whether each step ran to a good end."""

    def took(name: str) -> float:
        return next((step.seconds for step in steps if step.name == name), 0.0)

    found = {
        "toy": toy,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "seconds": sum(step.seconds for step in steps if step.name not in ("target", "testbed")),
        "steps": [asdict(step) for step in steps],
        "tests": tested(work / "tests.xml"),
        "target": read(work / "target" / "testbed.json").get("memorised"),
        "sweep": swept(work / "tofu", took("sweep-uncompiled") or took("sweep")),
        "evaluations": read(work / "evaluations.json"),
        "by_hand": [one for one in map(read, sorted(work.glob("by_hand_*.json"))) if one],
        "ga": swept(work / "ga", took("ga")),
    }
    targets = [] if toy else judged(found)
    found["targets"] = [asdict(target) for target in targets]
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "summary.md").write_text(markdown(found, steps, targets))
    return bool(steps) and all(step.code == 0 for step in steps)


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty where it is not there, or was left half written by a step that was killed."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def whole_lines(path: Path) -> list[str]:
    """Of a file that may end in half a line."""
    return path.read_bytes().decode().split("\n")[:-1] if path.is_file() else []


def machine() -> dict[str, Any]:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = "no NVIDIA GPU"
    return {"card": card, "cores": len(os.sched_getaffinity(0))}


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def tested(path: Path) -> dict[str, int]:
    """How many tests there were, and how many of them failed, broke or were skipped."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (FileNotFoundError, ElementTree.ParseError):
        return {}
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        counts = {name: count + int(suite.get(name, 0)) for name, count in counts.items()}
    return counts


def swept(folder: Path, seconds: float) -> dict[str, Any]:
    """Of a results folder. seconds: of the whole command, from its start to its report and its certificate."""
    lines = [json.loads(line) for line in whole_lines(folder / "evaluations.jsonl")]
    if not lines or not seconds:
        return {}
    endings = [line for line in lines if "step" not in line]
    readings = read(folder / "certificate.json").get("readings", [])
    return {
        "seconds": seconds,
        "trials": len(endings),
        "failed": sum(ending["state"] == "failed" for ending in endings),
        "trials_per_hour": 3600 * len(endings) / seconds,
        "numerics": sorted({line["numerics"] for line in lines if line.get("step")}),
        "report": (folder / "report.html").is_file(),
        "readings": len(readings),
        "certified": sum(dial["certified"] is not None for reading in readings for dial in reading["dials"]),
        "attacks": len(whole_lines(folder / "certified" / "attacks.jsonl")),
    }


def judged(found: dict[str, Any]) -> list[Target]:
    """The targets for an H100 or H200."""
    sweep, arms, tests = found["sweep"], found["by_hand"], found["tests"]
    targets = []
    said, met = "not measured", None
    if sweep and arms:
        best = max(arms, key=lambda arm: arm["trials_per_hour"])
        ratio = sweep["trials_per_hour"] / best["trials_per_hour"]
        said, met = f"{ratio:.1f}x ({best['processes']} processes)", ratio >= 10
    targets.append(Target("at least 10x the trials per hour of the best process arm", said, met))
    whole = sweep and sweep["trials"] >= 64 and sweep["readings"] > 0
    said = f"{sweep['trials']} trials in {sweep['seconds']:.0f} s, {sweep['certified']} certified" if sweep else ""
    met = bool(whole and sweep["seconds"] <= 300) if sweep else None
    targets.append(Target("64 trials on 4,000 rows, certified, in at most 300 s", said or "not measured", met))
    rate = found["evaluations"].get("compiled_against_plain")
    said = "not measured" if rate is None else f"{rate:.2f}x"
    targets.append(
        Target("evaluations in compiled packs at least 3x of plain ones", said, None if rate is None else rate >= 3)
    )
    broken = tests["failures"] + tests["errors"] if tests else None
    said = "not measured" if broken is None else f"{tests['tests']} run, {broken} failed, {tests['skipped']} skipped"
    targets.append(Target("no test of `pytest -m gpu` fails", said, None if broken is None else broken == 0))
    return targets


def markdown(found: dict[str, Any], steps: Sequence[Step], targets: Sequence[Target]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    place = f"{found['machine']['card']}, {found['machine']['cores']} cores"
    title = "A toy run on a CPU: no number here says anything about a card" if found["toy"] else "A run on a card"
    lines = [f"# {title}", "", f"{found['date']}, {place}; {packages}. Made by `bash tests/gpu/run.sh`.", ""]
    if targets:
        lines += ["| target (H100 or H200) | measured | met |", "| --- | --- | --- |"]
        words = {True: "yes", False: "**no**", None: "not measured"}
        lines += [f"| {one.what} | {one.measured} | {words[one.met]} |" for one in targets] + [""]
    lines += ["| step | outcome |", "| --- | --- |", *(f"| {step.name} | {step.outcome} |" for step in steps), ""]
    if found["tests"]:
        lines += ["Tests: " + ", ".join(f"{count} {name}" for name, count in found["tests"].items()) + ".", ""]
    if found["target"]:
        lines += ["| model | epochs | seconds | es, forget | es, retain-select |", "| --- | --- | --- | --- | --- |"]
        for role, one in found["target"].items():
            es = one["es"]
            lines += [f"| {role} | {one['epochs']} | {one['seconds']} | {es['forget']:.3f} | {es['retain']:.3f} |"]
        lines += [""]
    lines += [
        "| sweep | trials | seconds | trials per hour | certified | attacks | report |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in (("tofu, in packs", found["sweep"]), ("ga", found["ga"])):
        if one:
            cells = [name, one["trials"], f"{one['seconds']:.0f}", f"{one['trials_per_hour']:.0f}", one["certified"]]
            lines += ["| " + " | ".join(map(str, [*cells, one["attacks"], "yes" if one["report"] else "no"])) + " |"]
    for one in found["by_hand"]:
        name = f"by hand, {one['processes']} processes"
        took = f"{one['seconds_for_all_trials']:.0f}"
        took += f" (extrapolated from {one['trial_steps']} trial-steps in {one['seconds']:.0f} s)" * one["extrapolated"]
        lines += [f"| {name} | {one['trials_finished']} | {took} | {one['trials_per_hour']:.0f} | | | |"]
    if found["evaluations"]:
        rates = found["evaluations"]["adapters_per_second"]
        said = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
        lines += ["", f"Evaluations of {found['evaluations']['rows']} rows, adapters per second: {said}."]
    for step in steps:
        if step.said:
            lines += ["", f"The end of what `{step.name}` printed:", "", "```text", step.said, "```"]
    lines += [
        "",
        "The seconds of a sweep are those of the whole command. Those by hand begin when the first trial trains.",
    ]
    return "\n".join(lines) + "\n"
