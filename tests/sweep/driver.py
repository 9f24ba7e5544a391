"""Real sweeps of the command line on the tiny model, as a user runs them: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TRIALS = 12
LONG = {"lr": {"float": [1e-4, 1e-3], "log": True}, "batch_size": {"choice": [2, 4]}, "steps": 60, "evaluate_every": 4}
"""Trials of a sweep that a test disturbs in their middle, and how they train."""


def write_spec(path: Path, model: Path, data: Path, **sections: Any) -> Path:
    """A spec on the tiny model (GA and GradDiff, judged by probability: it knows nothing that could be extracted)."""
    plain: dict[str, Any] = {
        "name": "tiny",
        "model": str(model),
        "data": str(data),
        "method": {"name": {"choice": ["ga", "gd"]}, "retain_weight": {"float": [0.1, 4.0]}},
        "training": {"lr": {"float": [1e-3, 1e-1], "log": True}, "batch_size": 4, "steps": 8, "evaluate_every": 2},
        "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
        "control": [{"metric": "retain.prob", "at_least": "90% of baseline", "patience": 1}],
        "pruning": {"dominance": False},
        "search": {"sampler": "random", "trials": 6, "seed": 0},
        "certify": False,
    }
    resources = {"trials_per_gpu": 1, "compile": False} | sections.pop("resources", {})
    path.write_text(yaml.safe_dump(plain | sections | {"resources": resources}))
    return path


def command(spec: Path, results: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "rayul", "sweep", str(spec), "--results", str(results), *flags]


def start(spec: Path, results: Path, *flags: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(spec, results, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def sweep(spec: Path, results: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(spec, results, *flags), capture_output=True, text=True, timeout=280, check=False)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of the journal, read without rayul."""
    path = folder / "evaluations.jsonl"
    return [json.loads(line) for line in (path.read_bytes().split(b"\n")[:-1] if path.exists() else [])]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of the journal."""
    return [line for line in lines(folder) if "step" in line]


def endings(folder: Path) -> dict[str, dict[str, Any]]:
    """The endings of the journal by trial; a trial has one."""
    found = [line for line in lines(folder) if "step" not in line]
    assert len({line["trial_id"] for line in found}) == len(found)
    return {line["trial_id"]: line for line in found}


def key(row: dict[str, Any]) -> tuple[str, int, float]:
    return (row["trial_id"], row["step"], row["mixing"])


def ended(folder: Path) -> dict[str, str]:
    """State by trial, of the trials that ended."""
    return {trial: ending["state"] for trial, ending in endings(folder).items()}


def born(pid: int) -> str:
    """When a process started, in ticks of the machine; "" when it is gone. A pid alone may be another's by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def children_of(pid: int) -> dict[int, str]:
    """Command line by pid of all descendants."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat, line = path.read_text(), (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parent = int(stat.rsplit(")", 1)[1].split()[1])
        found[int(path.parent.name)] = f"{parent} {line}"
    family, grown = {pid}, True
    while grown:
        grown = False
        for child, entry in found.items():
            if child not in family and int(entry.split(" ", 1)[0]) in family:
                family.add(child)
                grown = True
    return {child: found[child].split(" ", 1)[1] for child in family - {pid} if child in found}
