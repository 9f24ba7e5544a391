"""Trials of earlier sweeps of the same space, for a study to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from rayul.errors import InputError
from rayul.records import BASELINE, JOURNAL, SPEC, Ending, Evaluation, read_journal, to_json
from rayul.records.manifest import Manifest, RowSet, read_manifest
from rayul.spec import Spec, difference, load_spec, without_priors
from rayul.sweep.search.outcome import ROWS, outcome
from rayul.sweep.search.samplers import distributions
from rayul.sweep.search.searcher import CONSTRAINTS, WARM_START

MAY_DIFFER = (
    "name: ",
    "search.",
    "pruning.",
    "resources.",
    "oracle",
    "evaluate.final",
    "evaluate.oracle_auc",
    "evaluate.batch_size",
    "evaluate.sets",
)
"""What may be different in the earlier sweep: it does not change what a configuration is worth."""


def earlier_trials(
    spec: Spec, data: Mapping[str, RowSet], check_text: Callable[[Manifest], object]
) -> list[FrozenTrial]:
    """Every trial of search.warm_start that has an outcome, as this sweep would have told it to Optuna.

    data: the rows of this sweep. check_text: raises InputError where an earlier sweep was measured on other tokens.
    Raises InputError for a folder that is no sweep's or has no trial that ended, and for one whose space, model, rows,
    tokens, criteria or objectives differ, naming each difference.
    """
    return [trial for folder in spec.search.warm_start for trial in _trials_of(Path(folder), spec, data, check_text)]


def _trials_of(
    folder: Path, spec: Spec, data: Mapping[str, RowSet], check_text: Callable[[Manifest], object]
) -> list[FrozenTrial]:
    place = f"search.warm_start: {folder}"
    if not (folder / SPEC).is_file() or not (folder / JOURNAL).is_file():
        raise InputError(f"{place} is not the folder of a sweep", "name one that `rayul sweep` has written")
    before = load_spec(folder / SPEC, check_files=False)
    lines = difference(without_priors(before), without_priors(spec))
    changed = [line for line in lines if not line.startswith(MAY_DIFFER)]
    manifest = read_manifest(folder)
    then = manifest.data
    changed += [f"the rows of {name} have changed" for name in data if name in then and then[name] != data[name]]
    if changed:
        hint = "begin with a sweep that differs in none of these"
        raise InputError(f"{place} was another search:\n  " + "\n  ".join(changed), hint)
    try:
        check_text(manifest)
    except InputError as error:
        raise InputError(f"{place}: {error.message}", "begin with another sweep, or without one") from error
    rows, endings = read_journal(folder / JOURNAL)
    baseline = next((row for row in rows if row.trial_id == BASELINE), None)
    trials = [] if baseline is None else [_trial(folder, spec, rows, end, baseline) for end in endings.values()]
    found = [trial for trial in trials if trial is not None]
    if not found:
        raise InputError(f"{place} has no trial to learn from", "finish it first with --resume")
    return found


def _trial(
    folder: Path, spec: Spec, rows: list[Evaluation], ending: Ending, baseline: Evaluation
) -> FrozenTrial | None:
    mine = [row for row in rows if row.trial_id == ending.trial_id]
    found = outcome(mine, spec.at(ending.params), baseline)
    if found is None:
        return None
    attributes = found.attributes(ending) | {WARM_START: f"{folder}/{ending.trial_id}"}
    if spec.search.traits.trajectories:
        attributes[ROWS] = [to_json(replace(row, group_sums={}, group_rows={})) for row in mine]
    return optuna.create_trial(
        values=found.values,
        params=ending.params,
        distributions=distributions(spec, ending.params),
        system_attrs={CONSTRAINTS: list(found.constraints.values())} if found.constraints else {},
        user_attrs=attributes,
    )
