"""Train a target and its oracle on rows, side by side, into a folder that any tool can read.

model/ oracle/                                          plain Hugging Face folders
forget.jsonl retain_train.jsonl retain_select.jsonl ...    the rows
testbed.json                                            sizes, recipe, versions, what was memorised
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayul.cache import PARTIAL
from rayul.errors import RayulError
from rayul.files import folder_mode, share_folder
from rayul.testbed.checkpoint import checkpoint_path, result_path
from rayul.testbed.processes import Progress, Share, train_roles
from rayul.testbed.train import RECIPE, ROLES, Recipe, train_tokenizer, write_recipe
from rayul.unlearn.data import FILES, Sets, write_rows
from rayul.unlearn.licence import FROM_NOTHING

SUMMARY = "testbed.json"

CARD = f"""\
---
license: other
license_name: {FROM_NOTHING}
---

Trained from nothing by `rayul testbed`: no base model's licence applies to it. It has memorised the rows that it was
trained on, and whoever may see those may see it.
"""


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
        summary = fill(sets, partial, recipe, progress or (lambda message, done: None))
        check_memorised(summary, memorised)
        share_folder(partial, folder_mode())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def check_memorised(summary: dict[str, Any], wanted: float) -> None:
    """Raises RayulError where the target has not memorised this share of the rows to forget."""
    target, oracle = (summary["memorised"][role] for role in ("model", "oracle"))
    reached = target["es"]["forget"]
    if not reached >= wanted:
        raise RayulError(
            f"the target has memorised {reached:.0%} of the rows to forget after {target['epochs']} epochs "
            f"(extraction strength; the oracle, which never saw them, has {oracle['es']['forget']:.0%})",
            "look for questions with several answers; --allow-unmemorised keeps a target that has little to forget",
        )


def fill(sets: Sets, folder: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """What `build` does, in a folder that may hold what an interrupted call with the same rows and recipe has left."""
    for key, file in FILES.items():
        if key in sets:
            write_rows(folder / file, sets[key])
    write_recipe(folder, recipe)
    tokenizer = train_tokenizer((row for rows in sets.values() for row in rows), recipe.vocab_size)
    for role in ROLES:
        tokenizer.save_pretrained(folder / role)
    memorised = train_roles(folder, "rayul.testbed.train", _share(recipe), progress)
    clear(folder)
    for role in ROLES:
        (folder / role / "README.md").write_text(CARD, encoding="utf-8")
    summary = {
        "rows": {key: len(rows) for key, rows in sets.items()},
        "recipe": asdict(recipe),
        "memorised": memorised,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def clear(folder: Path) -> None:
    """Remove the files of the training that do not belong to its result."""
    (folder / RECIPE).unlink()
    for role in ROLES:
        result_path(folder, role).unlink()
        checkpoint_path(folder, role).unlink(missing_ok=True)


USUAL_EPOCHS = 15
"""Before the learning rate falls. With 120 rows of the testbed it was 17."""


def _share(recipe: Recipe) -> Share:
    """The last epoch is known once the learning rate falls. Before that it is taken to fall after USUAL_EPOCHS, or
    within five more, the fewer the more is memorised."""

    def share(event: dict[str, Any]) -> float:
        epoch = event["epoch"]
        if event["end"] < recipe.max_epochs:
            return float(epoch / event["end"])
        until_fall = max(USUAL_EPOCHS - epoch, 5 * (1 - event["es"] / recipe.memorised))
        return float(epoch / (epoch + until_fall + recipe.decay_epochs))

    return share
