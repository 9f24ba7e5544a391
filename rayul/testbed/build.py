"""Train a target and its oracle on rows, side by side, into a folder that any tool can read.

model/ oracle/                                          plain Hugging Face folders
forget.jsonl retain_train.jsonl retain_select.jsonl ...    the rows
testbed.json                                            sizes, recipe, versions, what was memorised
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayul.errors import RayulError
from rayul.files import folder_mode, share_folder
from rayul.testbed.train import RECIPE, ROLES, Recipe, train_tokenizer, write_recipe
from rayul.unlearn.data import FILES, Sets, write_rows

Progress = Callable[[str, float], None]
"""Called with what is happening and how much of it is done, in [0, 1]."""

SUMMARY = "testbed.json"

PARTIAL = ".partial"
"""Suffix of a folder that is still being built."""


def build(
    sets: Sets,
    folder: Path,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    memorised: float = 0.0,
) -> dict[str, Any]:
    """Write rows, tokenizer, target and oracle into `folder`, absent or empty; returns what testbed.json says.

    memorised: the extraction strength of the rows to forget that the target has to reach.

    Each model has a process and a thread of its own, so that the result depends on the seed, not on the machine's
    cores. `memorised[role]["es"]` of the summary is the extraction strength per set; a training that ran to
    `recipe.max_epochs` may be under what it aimed at. All is built in a sibling folder and renamed, so `folder` is
    never half there. Raises RayulError when a training process fails, and for a target that falls short of `memorised`.
    """
    recipe = recipe or Recipe()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=PARTIAL, dir=folder.parent))
    try:
        summary = _build(sets, partial, recipe, progress or (lambda message, done: None))
        _check_memorised(summary, memorised)
        share_folder(partial, folder_mode())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _check_memorised(summary: dict[str, Any], wanted: float) -> None:
    target, oracle = (summary["memorised"][role] for role in ("model", "oracle"))
    reached = target["es"]["forget"]
    if not reached >= wanted:
        raise RayulError(
            f"the target has memorised {reached:.0%} of the rows to forget after {target['epochs']} epochs "
            f"(extraction strength; the oracle, which never saw them, has {oracle['es']['forget']:.0%})",
            "look for questions with several answers; --allow-unmemorised keeps a target that has little to forget",
        )


def _build(sets: Sets, folder: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    for key, file in FILES.items():
        if key in sets:
            write_rows(folder / file, sets[key])
    write_recipe(folder, recipe)
    tokenizer = train_tokenizer((row for rows in sets.values() for row in rows), recipe.vocab_size)
    for role in ROLES:
        tokenizer.save_pretrained(folder / role)
    memorised = _train(folder, recipe, progress)
    (folder / RECIPE).unlink()
    summary = {
        "rows": {key: len(rows) for key, rows in sets.items()},
        "recipe": asdict(recipe),
        "memorised": memorised,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _train(folder: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Run the two training processes to their end; returns the last event of each."""
    reader, writer = os.pipe()
    logs = {role: folder / f"{role}.log" for role in ROLES}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    # The child must import this very rayul, installed or not.
    package_root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    try:
        for role, log in logs.items():
            with open(log, "wb") as errors:
                processes[role] = subprocess.Popen(
                    [sys.executable, "-m", "rayul.testbed.train", str(folder), role],
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=errors,
                    env=environment,
                )
        os.close(writer)  # so that reading ends when both have ended
        with os.fdopen(reader, encoding="utf-8") as events:
            results = dict(_follow(events, recipe, progress))
        for role, process in processes.items():
            if process.wait() != 0 or role not in results:
                lines = logs[role].read_text(errors="replace").strip().splitlines() or ["no message"]
                raise RayulError(f"training the {role} of {folder} failed: {lines[-1]}")
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    for log in logs.values():
        log.unlink()
    return {role: results[role] for role in ROLES}


def _follow(events: Iterator[str], recipe: Recipe, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Turn the event lines of both processes into progress; yields (role, result) as each ends."""
    done = dict.fromkeys(ROLES, 0.0)
    strength = dict.fromkeys(ROLES, 0.0)
    for line in events:
        event = json.loads(line)
        role = event["role"]
        if "done" in event:
            done[role] = 1.0
            yield role, event["done"]
        else:
            strength[role] = event["es"]
            # How long it takes is known only by how much is memorised; the rest is the falling learning rate.
            share = max(min(1.0, event["es"] / recipe.memorised) * 0.85, event["epoch"] / recipe.max_epochs)
            done[role] = max(done[role], min(share, 0.99))
        memorised = ", ".join(f"{name} {strength[name]:.0%}" for name in ROLES)
        progress(f"training target and oracle, memorised: {memorised}", sum(done.values()) / len(done))
