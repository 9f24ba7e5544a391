"""The embedded testbed: built once per machine, found again by the hash of what made it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from rayul.cache import cache_folder, made_once
from rayul.errors import RayulError
from rayul.testbed.authors import generate
from rayul.testbed.build import build
from rayul.testbed.processes import Progress
from rayul.testbed.train import Recipe
from rayul.unlearn import template, tokens


def content_hash(recipe: Recipe) -> str:
    """Of the sources that decide what the testbed is, and of its recipe."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    here = Path(__file__)
    text = map(Path, (template.__file__, tokens.__file__))
    for source in (*map(here.with_name, ("authors.py", "train.py", "build.py")), *text):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def ensure_testbed(progress: Progress | None = None, recipe: Recipe | None = None) -> Path:
    """The folder of the embedded testbed, built on first use (about a minute on two cores).

    Safe when several processes call it at once: one builds, the others wait. A folder with the final name is always
    complete, since it gets that name by a rename. Raises RayulError when the cache folder cannot be written.
    """
    recipe = recipe or Recipe()
    root = cache_folder()
    folder = root / f"testbed-{content_hash(recipe)}"
    report = progress or (lambda message, done: None)
    try:
        return made_once(
            folder,
            lambda: _build(folder, recipe, report),
            lambda: report("another process is building the testbed: waiting for it", 0.0),
        )
    except OSError as error:
        raise RayulError(
            f"cannot build the testbed in {root}: {error}", "set RAYUL_CACHE to a folder with room that you may write"
        ) from error


def _build(folder: Path, recipe: Recipe, report: Progress) -> None:
    build(generate(recipe.seed), folder, recipe, report)
