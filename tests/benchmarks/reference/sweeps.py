"""What the reference results share: sweeps from the command line, resumed until they are whole, and their records."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("evaluations.parquet", "trials.parquet", "pareto.parquet", "pareto.csv")
"""What git takes of a sweep: its spec.yaml names paths of the machine."""


def rayul(*argv: str) -> str:
    """Run a command of the checkout that this file is in; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    print("rayul", *argv, file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "rayul", *argv], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def sweep(spec: str, work: Path, name: str, **settings: Any) -> Path:
    """A sweep in work/name, begun, resumed, or already whole; returns its folder. settings: keys with __ for dots."""
    folder = work / name
    pairs = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    sets = [word for pair in pairs for word in ("--set", pair)]
    resume = ["--resume"] if (folder / "spec.yaml").exists() else []
    if not (folder / "done").exists():
        rayul("sweep", spec, "--results", str(work), "--name", name, *sets, *resume)
        (folder / "done").touch()
    return folder


def evaluations(folder: Path, **columns: Any) -> pd.DataFrame:
    """A sweep's rows without standard errors and violations, with further columns of one value."""
    frame = pd.read_parquet(folder / "evaluations.parquet")
    dropped = [name for name in frame if name.startswith(("stderr.", "violation."))]
    return frame.drop(columns=dropped).assign(**columns)


def solutions(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that a front is drawn from: within the limits, after step 0, no reference model."""
    return frame[frame.feasible & (frame.step > 0) & ~frame.trial_id.isin(["baseline", "oracle"])]


def keep(folder: Path, out: Path) -> None:
    """Copy what git takes of a sweep."""
    out.mkdir(parents=True, exist_ok=True)
    for name in SMALL:
        shutil.copy2(folder / name, out / name)


def note(out: Path, began: float, lines: list[str]) -> None:
    """Append to out/run.md when, how and how long this was made, with its table."""
    out.mkdir(parents=True, exist_ok=True)
    minutes = (time.monotonic() - began) / 60
    command = " ".join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    head = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {minutes:.1f} min in this run: `{command}`"
    text = "\n".join([head, "", *lines, ""])
    (out / "run.md").write_text(text, encoding="utf-8")
    print(text)
