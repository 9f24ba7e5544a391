"""The results folder of one sweep: made once, held by one driver at a time, resumed only with the same spec."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rayul.errors import InputError, RayulError
from rayul.files import write_text
from rayul.records import ADAPTERS, SPEC
from rayul.records.storage import Storage, is_url
from rayul.spec import Spec, difference, dump_yaml, load_spec, source_hash
from rayul.sweep.lock import lock_path

MAY_CHANGE = (
    "search.trials: ",
    "search.time_limit: ",
    "search.trial_time_limit: ",
    "search.max_device_hours: ",
    "search.stagnation",
    "resources.",  # another machine, or a cluster
    "finalists",
    "tracking.",
    "pruning.rules",  # one of the user's own that failed; a rule changes no evaluation
    "pruning.code",
)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder for this driver. The lock goes with the process.

    Raises RayulError when another driver holds it, or where nothing can be written.
    """
    lock = FileLock(lock_path(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RayulError(
            f"another sweep is writing to {folder}", "wait for it, or choose another folder with --name or --results"
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(place: Path | str, warn: Callable[[str], None]) -> Iterator[tuple[Path, bool]]:
    """Hold the results of a sweep while the block runs: their folder, or the work folder of a URL, which is kept up
    with it. Yields the folder and whether it is a URL's; `warn` hears of a copy that failed."""
    with ExitStack() as stack:
        storage = Storage(str(place)) if is_url(place) else None
        folder = storage.folder if storage is not None else Path(place)
        stack.enter_context(held(folder))
        if storage is not None:
            storage.fetch()
            stack.enter_context(storage.synced(warn))
        yield folder, storage is not None


def checked(folder: Path, spec: Spec, resume: bool) -> Spec:
    """The spec to run, with where it comes from. Writes nothing.

    A resume may change how long to search, on what, and the finalists; nothing else. Raises InputError for a folder
    that exists, for a resume without one, and for a changed spec (naming each difference).
    """
    path = folder / SPEC
    if resume:
        if not path.exists():
            raise InputError(f"nothing to resume: {path} does not exist", "leave --resume out to begin")
        before = load_spec(path)
        changed = [line for line in difference(before, spec) if not line.startswith(MAY_CHANGE)]
        if changed:
            raise InputError(
                f"{folder} was made with another spec:\n  " + "\n  ".join(changed),
                "resume with the old spec, or begin a new sweep with --name",
            )
        return spec.model_copy(update={"provenance": before.provenance})
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(
            f"{folder} exists already",
            "continue it with --resume, or choose another folder with --name or --results",
        )
    return spec.model_copy(update={"provenance": provenance() | _own_code(spec)})


def begin(folder: Path, spec: Spec) -> None:
    """Make the folder with its spec.yaml; RayulError where it cannot be written."""
    path = folder / SPEC
    try:
        (folder / ADAPTERS).mkdir(parents=True, exist_ok=True)
        write_text(path, dump_yaml(spec.resolved()))
    except OSError as error:
        raise _unwritable(folder, error) from error


def with_data(spec: Spec, sets: Mapping[str, Sequence[Any]]) -> Spec:
    """The spec with each set's number of rows and the SHA-256 of their text in its provenance.

    Raises InputError where a sweep that is resumed began with other rows: its evaluations would not compare.
    """
    facts = {
        name: {"rows": len(rows), "sha256": sha256("\n".join(map(_text, rows)).encode()).hexdigest()}
        for name, rows in sets.items()
    }
    before = (spec.provenance or {}).get("data")
    if before is not None and before != facts:
        changed = [name for name in dict.fromkeys([*before, *facts]) if before.get(name) != facts.get(name)]
        raise InputError(
            f"the rows of {', '.join(changed)} have changed since this sweep began",
            "restore them, or begin a new sweep with --name",
        )
    return spec.model_copy(update={"provenance": (spec.provenance or {}) | {"data": facts}})


def _text(row: Any) -> str:
    return json.dumps(asdict(row), sort_keys=True, ensure_ascii=False)


def provenance() -> dict[str, Any]:
    """Where a sweep's numbers come from: command, date, versions, commit and hardware."""
    packages = ("rayul", "ray", "torch", "transformers", "peft", "optuna", "datasets", "numpy")
    return {
        "command": shlex.join(["rayul", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "commit": _commit(),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
    }


def _own_code(spec: Spec) -> dict[str, Any]:
    code = {path: f"sha256 {source_hash(source)}" for path, source in spec.code.items()}
    return {"code": code} if code else {}


def _commit() -> str | None:
    """Commit of the checkout that rayul runs from, "-dirty" with uncommitted changes; None where there is none."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _unwritable(folder: Path, error: OSError) -> RayulError:
    return RayulError(f"cannot write to {folder}: {error.strerror or error}", "choose another folder with --results")
