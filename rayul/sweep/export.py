"""From a point of the front to a folder that others can load: adapter or model, tokenizer, model card, checked
before it is called exported. Needs torch, but no ray."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rayul.errors import InputError, RayulError
from rayul.files import folder_mode, share_folder
from rayul.pareto.choose import adapter_path
from rayul.records import SPEC, Evaluation, holds_model, to_json
from rayul.records.folder import SweepRecords
from rayul.records.request import REQUEST, Request, group_hash, rows_hash, write_request
from rayul.records.trusted import check_trusted
from rayul.report.card import Forgotten, model_card, set_name
from rayul.report.certified import Certified, certified, certified_path, sentence
from rayul.spec import TESTBED, Earlier, Spec, load_spec
from rayul.spec.source import find
from rayul.sweep.folder import checked_rows
from rayul.sweep.same_text import checked_tokens
from rayul.testbed import with_testbed
from rayul.unlearn.chunks import load_rows
from rayul.unlearn.data import Sets
from rayul.unlearn.export import (
    MERGED,
    TOLERANCE,
    complete_saved,
    copy_saved,
    largest_difference,
    measure_reported,
    score_saved,
    write_merged,
)
from rayul.unlearn.licence import may_be_passed_on
from rayul.unlearn.measured import Measured
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.task import load_task
from rayul.unlearn.update.saved import is_adapter

Say = Callable[[str], None]


def export(
    results: SweepRecords,
    e: Evaluation,
    out: Path,
    *,
    merge: bool | None = False,
    address: str | None = None,
    testbed_progress: Callable[[str, float | None], None] | None = None,
    say: Say = lambda line: None,
    trust: bool = False,
) -> float:
    """Write a point, of the front or certified, to `out`; returns the largest difference of its metrics to the record.

    The folder appears whole, once what was written has been loaded again and scored, or not at all. It holds the PEFT
    adapter, or of `update: full` the whole model, with the mixing baked in, the tokenizer, README.md (the model card),
    evaluation.json (the record), and with `merge` the merged model in merged/. merge: None for a certified adapter
    whose base may be passed on, since an adapter is undone by leaving it out. address: what the card tells others to
    load, by default the folder's name. `say` hears what is being done. trust: run also code of the sweep's spec that
    this user has not trusted.

    Raises InputError for an `out` that exists, a point without its folder or one that loses it meanwhile, `merge` of a
    whole model, code that is not trusted and rows or tokens that have changed, and RayulError where the reloaded model
    does not score as its record says.
    """
    refuse_existing(out)
    written = load_spec(results.folder / SPEC)
    check_trusted(written, results.folder, trusted=trust)
    holds = next((one for one in certified(results) if one.e is e), None)
    source = adapter_path(results, e) if holds is None else certified_path(results, e)
    adapter = is_adapter(source)
    if merge is None:
        merge = (
            adapter and holds is not None and (written.model.path == TESTBED or may_be_passed_on(written.model.path))
        )
    if merge and not adapter:
        raise InputError(f"{source.name} is a whole model, so there is nothing to merge", "leave --merge out")
    spec = with_testbed(written, testbed_progress, results.manifest.date)
    sets = load_rows(spec)
    forget = checked_rows(sets, results.manifest)["forget"]
    checked_tokens(load_tokenizer(spec.model), spec.model, sets, results.manifest)
    # Before the model is loaded: a running sweep drops what leaves its front.
    with _copied(source, out) as staging:
        task = load_task(spec, sets)
        try:
            complete_saved(staging, spec.model, task.tokenizer)
            what = "adapter" if adapter else "model"
            say(f"scoring the reloaded {what}")
            measured = score_saved(task, spec, staging)
            difference = _check(what, measured, e)
            if merge:
                say("merging")
                write_merged(spec.model, staging, staging / MERGED, task.tokenizer)
                merged_spec = spec.model_copy(
                    update={"model": spec.model.model_copy(update={"path": str(staging / MERGED), "revision": None})}
                )
                say("scoring the merged model")
                merged_task = load_task(merged_spec, sets)
                difference = max(
                    difference, _check("merged model", measure_reported(merged_task, spec, merged_task.base), e)
                )
            card = model_card(
                results,
                written,
                e,
                Forgotten(set_name(written.data), forget.rows, forget.sha256),
                address=address or out.name,
                after={key: (m.value, m.stderr) for key, m in measured.items()},
                difference=difference,
                adapter=adapter,
                merged=merge,
                certificate=holds,
            )
            (staging / "README.md").write_text(card, encoding="utf-8")
            record = json.dumps(json.loads(to_json(e)), indent=1)
            (staging / "evaluation.json").write_text(record + "\n", encoding="utf-8")
            if holds is not None:
                write_request(staging, _request(results, spec, sets, holds))
            share_folder(staging, folder_mode())
            staging.rename(out)
        except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
            raise unwritable(out, error) from error
    return difference


def _request(results: SweepRecords, spec: Spec, sets: Sets, holds: Certified) -> Request:
    """What the next request has to know. spec: with the testbed's folders in place of its name."""
    e, reading, forget = holds.e, holds.reading, results.manifest.data["forget"]
    own = Earlier(
        name=spec.name, date=reading.date, rows=forget.rows, sha256=forget.sha256, certificate=sentence(holds)
    )
    gone = [name for name in ("forget", "before_forget") if f"{name}.es" in e.metrics]
    rows = sum(e.rows[name] for name in gone)
    return Request(
        spec=spec.resolved() | {"data": _absolute(spec.resolved()["data"])},
        earlier=tuple(one.model_dump() for one in (*spec.earlier, own)),
        forgotten=sum(e.rows[name] * e.metrics[f"{name}.es"] for name in gone) / rows if rows else None,
        groups=next((one.groups for one in reading.read if one.searched == "retain"), 0),
        seen=tuple(sorted({group_hash(row.group, row.key) for found in sets.values() for row in found})),
        rows=rows_hash(row.key for row in sets["forget"]),
    )


def _absolute(plain: Any) -> Any:
    """The section `data` with full paths: the next request may be written from another folder."""
    if not isinstance(plain, dict):
        return plain
    made = {key: _absolute(value) for key, value in plain.items()}
    for key in ("path", "folder", "tofu"):
        if isinstance(path := made.get(key), str) and (place := find(path)) is not None:
            made[key] = str(place.absolute())
    return made


@contextmanager
def _copied(source: Path, out: Path) -> Iterator[Path]:
    """For the block, a folder beside `out` with what was saved in `source`. Raises InputError where that goes away
    meanwhile."""
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            copy_saved(source, staging)
        except OSError as error:
            if error.errno == errno.ENOENT or not holds_model(source):
                raise InputError(
                    f"{source} has just been removed: the sweep is running, and the point has left its front",
                    "choose another point of the front, or wait for the end of the sweep",
                ) from error
            raise unwritable(out, error) from error
        yield staging


def unwritable(out: Path, error: Exception) -> RayulError:
    why = getattr(error, "strerror", None) or error
    return RayulError(
        f"cannot write {getattr(error, 'filename', None) or out}: {why}", "choose another folder with --out"
    )


def refuse_existing(out: Path) -> None:
    """Raises InputError for a folder that is there already, and RayulError where none can be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already", "choose another folder with --out, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise unwritable(out, error) from error


def _check(what: str, measured: dict[str, Measured], e: Evaluation) -> float:
    difference = largest_difference(measured, e.metrics)
    if not difference <= TOLERANCE:
        worst = max(e.metrics, key=lambda key: largest_difference(measured, {key: e.metrics[key]}))
        now = f"{measured[worst].value:.4g}" if worst in measured else "missing"
        raise RayulError(
            f"the {what}, loaded again, does not score as recorded: {worst} is {now}, its record says "
            f"{e.metrics[worst]:.4g}; nothing was exported",
            "check that model and data are still those of the sweep. A merged model in bfloat16 rounds the update: "
            "leave --merge out, or sweep with dtype: float32",
        )
    return difference


def push(folder: Path, repo_id: str, endpoint: str | None = None) -> str:
    """Upload an exported folder to a private repository of the Hub, made where there is none; returns its address.

    Raises RayulError when the Hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repo_id, private=True, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                ignore_patterns=[REQUEST],
                commit_message=f"rayul export {folder.name}",
            )
        )
    except Exception as error:  # refused, no token, no network: a dozen types of three libraries
        why = " ".join(str(error).split()) or type(error).__name__
        raise RayulError(
            f"{folder} is exported, but the Hub did not take it: {why}",
            f"log in with `hf auth login` or set HF_TOKEN, then: hf upload {repo_id} {folder} --private",
        ) from error


def check_repo_id(repo_id: str) -> None:
    """Raises InputError for what cannot name a repository, before anything is spent."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(
            f"--push-to-hub {repo_id}: {' '.join(str(error).split())}", "write owner/name, e.g. me/ga-unlearned"
        ) from error
