"""The results folder of one sweep: made once, held by one driver at a time, resumed only with the same spec."""

from __future__ import annotations

import json
import os
import platform
import re
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

from rayul.errors import InputError, RayulError
from rayul.files import write_text
from rayul.records import ADAPTERS, SPEC
from rayul.records.inside import check_inside
from rayul.records.manifest import MANIFEST, Manifest, RowSet, read_manifest, write_manifest
from rayul.records.storage import Storage, is_url
from rayul.spec import Spec, difference, dump_yaml, load_spec, source_hash
from rayul.sweep.lock import held

MAY_CHANGE = (
    "search.trials: ",
    "search.time_limit: ",
    "search.trial_time_limit: ",
    "search.max_device_hours: ",
    "search.stagnation",
    "resources.",  # another machine, or a cluster
    "certify",
    "data.split: ",  # the rows are compared by themselves
    "finalists",
    "report.",
    "tracking.",
    "on_end",
    "pruning.rules",  # one of the user's own that failed; a rule changes no evaluation
    "pruning.code",
)


@contextmanager
def opened(
    place: Path | str,
    warn: Callable[[str], None],
    say: Callable[[str], None] = lambda what: None,
    command: str = "sweep",
) -> Iterator[tuple[Path, bool]]:
    """Hold the results of a sweep while the block runs: their folder, or the work folder of a URL, which is kept up
    with it. Yields the folder and whether it is a URL's; `warn` hears of a copy that failed, `say` of a connection
    that is made. command: who asks, for `rayul status`. Raises RayulError for a folder with links: what is written
    to it would go elsewhere."""
    with ExitStack() as stack:
        if is_url(place):
            say(f"connecting to {str(place).partition('?')[0]}")
        storage = Storage(str(place)) if is_url(place) else None
        folder = storage.folder if storage is not None else Path(place)
        try:
            stack.enter_context(held(folder, warn, command))
        except OSError as error:
            raise _unwritable(folder, error) from error
        if storage is not None:
            storage.fetch()
            stack.enter_context(storage.synced(warn))
        if folder.is_dir():
            check_inside(folder)
        yield folder, storage is not None


def checked(folder: Path, spec: Spec, resume: bool) -> Manifest:
    """The manifest to go on with: the folder's own, or, where the sweep begins, of this command, checkout and machine.
    Writes nothing.

    A resume may change how long to search, on what, and the finalists; nothing else. Raises InputError for a folder
    that exists, for a resume without one, and for a changed spec (naming each difference).
    """
    path = folder / SPEC
    if _is_only_prepared(folder):
        return made_here(spec)
    if resume:
        if not path.exists():
            raise InputError(
                f"nothing to resume: {path} does not exist",
                "repeat the command with --resume-if-any, which begins where there is nothing to go on with",
            )
        before = load_spec(path)
        changed = [line for line in difference(before, spec) if not line.startswith(MAY_CHANGE)]
        if changed:
            raise InputError(
                f"{folder} was made with another spec:\n  " + "\n  ".join(changed),
                "resume with the old spec, or begin a new sweep with --name",
            )
        return read_manifest(folder)
    if folder.exists():
        raise InputError(
            f"{folder} exists already",
            "continue it with --resume, or choose another folder with --name or --results",
        )
    return made_here(spec)


def begin(folder: Path, spec: Spec, manifest: Manifest) -> None:
    """Make the folder, or bring it up to date; RayulError where it cannot be written.

    spec.yaml comes last: with it the folder is a sweep's, and has a run.json.
    """
    try:
        (folder / ADAPTERS).mkdir(parents=True, exist_ok=True)
        write_manifest(folder, manifest)
        write_text(folder / SPEC, dump_yaml(spec.resolved()))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _is_only_prepared(folder: Path) -> bool:
    """Whether the folder is empty, or a driver was killed in `begin` before it wrote spec.yaml: either way the sweep
    has not begun, and there is nothing to lose."""
    if not folder.is_dir():
        return False
    half_written = re.compile(rf"({MANIFEST}|{SPEC})\.[0-9a-f]+\.tmp")
    found = {path.name for path in folder.iterdir() if not half_written.fullmatch(path.name)}
    return found <= {MANIFEST, ADAPTERS} and not any((folder / ADAPTERS).glob("*"))


def checked_rows(sets: Mapping[str, Sequence[Any]], manifest: Manifest) -> dict[str, RowSet]:
    """The number of rows of each set and the SHA-256 of their text.

    Raises InputError where the sweep of the manifest began with other rows: its evaluations would not compare.
    """
    rows = {
        name: RowSet(rows=len(found), sha256=sha256("\n".join(map(_text, found)).encode()).hexdigest())
        for name, found in sets.items()
    }
    before = manifest.data
    if before and before != rows:
        changed = [name for name in dict.fromkeys([*before, *rows]) if before.get(name) != rows.get(name)]
        raise InputError(
            f"the rows of {', '.join(changed)} have changed since this sweep began",
            "restore them, or begin a new sweep with --name",
        )
    return rows


LATER_FIELDS = ("choices", "stem", "subject", "alternatives", "examples", "history", "wording", "window", "chunk")
"""Of rows, since folders have hashes of them: rows without them keep the hash that they had."""


def _text(row: Any) -> str:
    # As the first folders' hashes were written: "author" is what `group` was called, and later columns were not there.
    plain = {"author" if name == "group" else name: value for name, value in asdict(row).items()}
    plain = {k: value for k, value in plain.items() if k != "place" and (value or k not in LATER_FIELDS)}
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def made_here(spec: Spec) -> Manifest:
    """The manifest of what begins now: its command, this checkout, this machine, and the spec's code from outside."""
    packages = ("rayul", "ray", "torch", "transformers", "peft", "optuna", "datasets", "numpy")
    return Manifest(
        command=shlex.join(["rayul", *sys.argv[1:]]),
        date=datetime.now(UTC).replace(microsecond=0),
        versions={"python": platform.python_version()} | {name: version(name) for name in packages},
        commit=_commit(),
        hardware={"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        code={path: f"sha256 {source_hash(source)}" for path, source in spec.code.items()},
    )


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
