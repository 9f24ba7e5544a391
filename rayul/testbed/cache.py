"""The embedded testbed: built once per machine, found again by the hash of what made it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from rayul.cache import cache_folder
from rayul.errors import RayulError
from rayul.testbed.authors import generate
from rayul.testbed.build import PARTIAL, Progress, build
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
    if folder.exists():
        return folder
    report = progress or (lambda message, done: None)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report("another process is building the testbed: waiting for it", 0.0)
            lock.acquire()
        try:
            if not folder.exists():
                # The lock is held, so anything unfinished here is what a killed build left.
                for left_over in root.glob(f"{folder.name}.*{PARTIAL}"):
                    shutil.rmtree(left_over, ignore_errors=True)
                build(generate(recipe.seed), folder, recipe, report)
        finally:
            lock.release()
    except OSError as error:
        raise RayulError(
            f"cannot build the testbed in {root}: {error}", "set RAYUL_CACHE to a folder with room that you may write"
        ) from error
    return folder
