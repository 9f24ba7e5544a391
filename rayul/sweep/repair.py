"""`rayul repair`: what is damaged in a results folder is set aside, so that a resume can run again what was lost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rayul.errors import InputError, RayulError
from rayul.files import whole_file
from rayul.records import ADAPTERS, CHECKPOINTS, JOURNAL, SPEC, STUDY, Journal, trial_id
from rayul.records.attacked import ATTACKED, attacked_from_json
from rayul.records.audited import ASKED, AUDIT, BEFORE, audited_from_json, audited_keys, read_asked
from rayul.records.certificate import CERTIFICATE, CERTIFIED, REJECTED, read_certificates
from rayul.records.folder import read_note
from rayul.records.json_lines import checked_lines, sealed, unsealed
from rayul.records.manifest import MANIFEST, check_length, read_manifest, write_manifest
from rayul.records.recall import RECALL, read_recall
from rayul.records.salvage import Salvage, salvage
from rayul.records.storage import is_url
from rayul.records.text_note import NOTE
from rayul.spec import Spec, load_spec
from rayul.sweep.folder import opened
from rayul.sweep.search.searcher import WARM_START, damaged, is_ahead, load_study, misread, write_study
from rayul.sweep.search.warm_start import earlier_trials

Say = Callable[[str], None]


def repair(place: Path | str, say: Say) -> bool:
    """Repair a results folder, or the results at a URL; whether anything was damaged. `say` hears what is done.

    Each file is replaced whole, and killing it halfway leaves a folder that it repairs when it is run again. Raises
    InputError where there is no sweep, and RayulError where another process writes to the folder.
    """
    if not is_url(place) and not (Path(place) / SPEC).is_file():
        raise InputError(
            f"{Path(place) / SPEC}: no such file", "give the folder of one sweep, as `rayul sweep` printed it"
        )
    done: list[str] = []

    def tell(line: str) -> None:
        done.append(line)
        say(line)

    with opened(place, tell) as (folder, _):
        spec = load_spec(folder / SPEC, check_files=False)
        _manifest(folder, tell)
        _certificate(folder, tell)
        _notes(folder, tell)
        _attacks(folder, tell)
        _recall(folder, tell)
        _audit(folder, tell)
        found = _journal(folder, tell)
        _study(folder, spec, found, tell)
    return bool(done)


def _manifest(folder: Path, say: Say) -> None:
    try:
        read_manifest(folder)
    except RayulError as error:
        if not (folder / MANIFEST).exists():
            raise
        say(error.message)
        _set_aside(folder / MANIFEST, say)
        say("  the sweep goes on as if it had not been recorded: it cannot notice rows that have changed since")


def _certificate(folder: Path, say: Say) -> None:
    try:
        read_certificates(folder)
    except RayulError as error:
        say(error.message)
        _set_aside(folder / CERTIFICATE, say)
        say("  what it spent of the certify rows is not known any more, so `rayul certify` refuses to read them again")


def _notes(folder: Path, say: Say) -> None:
    for adapter in sorted((folder / ADAPTERS).glob("*-*-*")):
        try:
            if (adapter / NOTE).exists():
                read_note(adapter)
        except RayulError as error:
            say(error.message)
            _set_aside(adapter / NOTE, say, folder / f"{adapter.name}-{NOTE}{REJECTED}")
            say("  --resume measures the adapter again")


def _attacks(folder: Path, say: Say) -> None:
    path = folder / CERTIFIED / ATTACKED
    lines = list(checked_lines(path, attacked_from_json, lambda row: [row.key]))
    if not any(line.fault for line in lines):
        return
    for line in lines:
        if line.fault:
            say(f"{path}:{line.at}: {line.fault}")
    found = {line.record.key: line.text for line in reversed(lines) if line.record is not None}
    _reject(path, [line.text for line in lines if line.record is None], say)
    _rewrite(path, list(reversed(found.values())))
    say("  `rayul certify` attacks again where lines were lost")


def _recall(folder: Path, say: Say) -> None:
    for model in sorted([*(folder / ADAPTERS).glob("*-*-*"), *(folder / CERTIFIED).glob("*-*-*")]):
        try:
            read_recall(model)
        except RayulError as error:
            say(error.message)
            _set_aside(model / RECALL, say, folder / f"{model.name}-{RECALL}{REJECTED}")
            say("  the report shows nothing by group of this point")


def _audit(folder: Path, say: Say) -> None:
    asked, path = folder / AUDIT / ASKED, folder / AUDIT / JOURNAL
    if asked.exists():
        try:
            read_asked(asked)
        except RayulError as error:
            say(error.message)
            _set_aside(asked, say)
            say("  `rayul audit` writes it again")
    lines = list(checked_lines(path, audited_from_json, audited_keys))
    found = {line.record.key: line for line in reversed(lines) if line.record is not None}
    alone = [key for key in found if (key[0], key[1], BEFORE) not in found]  # an attack, and nothing to compare it with
    if not alone and not any(line.fault for line in lines):
        return
    for line in lines:
        if line.fault:
            say(f"{path}:{line.at}: {line.fault}")
    lost = [line.text for line in lines if line.record is None] + [found.pop(key).text for key in alone]
    _reject(path, lost, say)
    _rewrite(path, [line.text for line in reversed(found.values())])
    say("  `rayul audit` measures again what was lost")


def _journal(folder: Path, say: Say) -> Salvage:
    """The journal with whole lines only; what was found in it."""
    path = folder / JOURNAL
    found = salvage(path)
    if not found.faults:
        try:
            check_length(folder, read_manifest(folder), len(list(Journal(path).records)))
        except RayulError as error:
            say(error.message)
            _forget_length(folder)
            say("  --resume runs again what has no ending")
        return found
    for at, fault in found.faults.items():
        say(f"{path}:{at}: {fault}")
    _forget_length(folder)
    _forget_checkpoints(folder, found.cut)
    _reject(path, found.rejected, say)
    _rewrite(path, found.kept)
    return found


def _forget_length(folder: Path) -> None:
    if read_manifest(folder).records:
        write_manifest(folder, read_manifest(folder).without_records())


def _study(folder: Path, spec: Spec, found: Salvage, say: Say) -> None:
    """A study that contradicts the rows is made anew: with the settings of every trial, in their order. A resume tells
    it how those ended that have an ending, and runs the others."""
    path, journal = folder / STUDY, Journal(folder / JOURNAL)
    trials, wrong, ahead = [], "", ""
    if path.exists():
        try:
            study = load_study(path, spec)
            ahead = is_ahead(study, journal)
            if what := misread(study, spec, journal):
                raise damaged(path, what)
            trials = study.get_trials(deepcopy=False)
        except RayulError as error:
            wrong = error.message
    if not (wrong or ahead or found.cut):
        return
    if wrong or not found.cut:
        say(wrong or f"{path} {ahead}")
    settings = {trial.number: trial.params for trial in trials if WARM_START not in trial.user_attrs}
    settings |= {int(trial): params for trial, params in found.cut.items() if params}
    settings |= {int(row.trial_id): row.params for row in journal if not row.is_reference}
    settings |= {int(trial): ending.params for trial, ending in journal.endings.items()}
    again = [trial for number in sorted(settings) if (trial := trial_id(number)) not in journal.endings]
    _forget_checkpoints(folder, again)
    earlier = [trial for trial in trials if WARM_START in trial.user_attrs]
    # Their tokens were compared when this sweep began.
    earlier = earlier or earlier_trials(spec, read_manifest(folder).data, lambda _: None)
    if path.exists():
        _set_aside(path, say)
    # Open_study writes the cells of a grid.
    write_study(path, spec, earlier, {} if spec.search.traits.grid else settings)
    say(f"  {STUDY} is made anew from {JOURNAL}")
    if again:
        say(f"--resume runs again: {', '.join(again)}")


def _forget_checkpoints(folder: Path, trials: Iterable[str]) -> None:
    """A trial goes on from its checkpoint, which may be behind rows that are lost."""
    for trial in trials:
        (folder / CHECKPOINTS / f"{trial}.safetensors").unlink(missing_ok=True)


def _reject(path: Path, lines: Iterable[bytes], say: Say) -> None:
    """Add lines to those that were set aside before."""
    text = b"".join(line + b"\n" for line in lines)
    if not text:
        return
    with open(path.with_name(path.name + REJECTED), "ab") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    say(f"  {text.count(bytes([10]))} lines are now in {path.name}{REJECTED}")


def _set_aside(path: Path, say: Say, target: Path | None = None) -> None:
    """Under a name that nothing has: what was set aside before stays."""
    wanted = target or path.with_name(path.name + REJECTED)
    names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{n}") for n in itertools.count(2)))
    target = next(name for name in names if not name.exists())
    path.replace(target)
    say(f"  it is now {target.name}")


def _rewrite(path: Path, lines: Iterable[bytes]) -> None:
    """The lines, numbered anew."""
    with whole_file(path) as temporary:
        temporary.write_bytes(b"".join(sealed(unsealed(line).decode(), n) for n, line in enumerate(lines, 1)))
