"""The searcher: Optuna proposes through ask/tell, Ray Tune asks and reports.

Ray's own OptunaSearch tells scheduler-stopped trials complete with their last values, has no constraints, and leaves
NaN trials running; this one tells what `outcome` says, with the criteria as constraints.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from rayul.errors import RayulError, ResultsUnwritable
from rayul.files import whole_file
from rayul.pareto.replicates import NEW, most_forgotten, next_replicate
from rayul.records import JOURNAL, STUDY, Evaluation, Journal, trial_id, truncate_torn_line
from rayul.spec import Spec
from rayul.sweep.search.outcome import ended, outcome
from rayul.sweep.search.samplers import blamed, evidence_of, grid, sampler, suggest

CONSTRAINTS = "constraints"
"""The system attribute that Optuna's samplers read violations from."""

WARM_START = "warm_start"
"""The attribute of a trial in the study that another sweep has run: that sweep's folder and the trial's id there."""


class StudyFile(JournalFileBackend):
    """Optuna's journal without its lock and its fsync: one driver writes, and the rows, which are on disk before they
    are told, are enough to make good what a machine that loses its power may lose of it (`OptunaSearcher`). A trial
    costs some ten writes; an fsync takes 7 ms on the disk that this was measured on."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            with open(self.path, "ab") as file:
                file.write(lines.encode())
        except OSError as error:  # half a line that it took is cut off by the next `open_study`
            raise ResultsUnwritable.at(self.path, error.strerror or error) from error


class StudyStorage(JournalStorage):
    """Optuna's, of which every proposal asks for the trials that wait. Optuna looks through all trials for them, 4 ms
    at 4,500 of them; as one driver writes, what waits is what this storage was given and has not seen begin."""

    def __init__(self, file: StudyFile) -> None:
        super().__init__(file)
        self._waiting: set[int] | None = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = int(super().create_new_trial(study_id, template_trial))
        if self._waiting is not None and template_trial is not None and template_trial.state == TrialState.WAITING:
            self._waiting.add(number)
        return number

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if self._waiting is not None and state != TrialState.WAITING:
            self._waiting.discard(trial_id)
        return bool(super().set_trial_state_values(trial_id, state, values))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            every: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
            return every
        if self._waiting is None:
            self._waiting = {trial._trial_id for trial in super().get_all_trials(study_id, False, states)}
        found = [self.get_trial(number) for number in sorted(self._waiting)]
        return copy.deepcopy(found) if deepcopy else found


def open_study(path: Path, spec: Spec, earlier: Sequence[FrozenTrial] = ()) -> optuna.Study:
    """Open or create the study of a sweep in its journal file; a new one begins with the `earlier` trials
    (warm_start.py), which take the first numbers. Raises RayulError for a file that is not as Optuna writes it.

    Only the driver that holds the results folder calls this, so half a line that a killed driver left is removed
    (Optuna would refuse the file at the next line).
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if path.exists():
        truncate_torn_line(path)
    if earlier and not path.exists():
        write_study(path, spec, earlier)
    study = _study(path, spec)
    if spec.search.traits.grid:
        known = len(study.get_trials(deepcopy=False))
        for cell in islice(grid(spec), known, max(known, spec.search.trials)):  # the rest that this run may come to
            study.enqueue_trial(cell)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))  # what optuna-dashboard shows
    return study


def write_study(
    path: Path, spec: Spec, earlier: Sequence[FrozenTrial], settings: Mapping[int, dict[str, Any]] | None = None
) -> None:
    """Write a new study: the earlier trials, and behind them one that waits for each number up to the last of
    `settings`, with those that are known. Whole or not at all: half a study would pass for one that has begun."""
    settings = settings or {}
    with whole_file(path) as temporary:
        study = _study(temporary, spec)
        study.add_trials(earlier)
        for number in range(len(earlier), max(settings, default=-1) + 1):
            study.enqueue_trial(settings.get(number, {}))


def load_study(path: Path, spec: Spec) -> optuna.Study:
    """The study of a sweep, to be read only. Raises RayulError for a file that is not as Optuna writes it."""
    with _replaying(path):
        return optuna.load_study(study_name=spec.name, storage=StudyStorage(StudyFile(path)))


def _study(path: Path, spec: Spec) -> optuna.Study:
    with _replaying(path):
        storage = StudyStorage(StudyFile(path))
        if others := [study.study_name for study in storage.get_all_studies() if study.study_name != spec.name]:
            raise damaged(path, f"holds another study, {others[0][:60]!r}")
        return optuna.create_study(
            storage=storage, study_name=spec.name, directions=list(spec.objectives.values()), load_if_exists=True
        )


@contextmanager
def _replaying(path: Path) -> Iterator[None]:
    try:
        if path.exists():  # Optuna leaves out a last line that it cannot read, and stumbles over it later
            json.loads((b"\n{}\n" + path.read_bytes()).rpartition(b"\n")[0].rpartition(b"\n")[2])
        yield
    except (OSError, RayulError):
        raise
    except Exception as error:  # replaying a damaged file, Optuna raises whatever comes of it
        raise damaged(path, f"is not as Optuna writes it: {type(error).__name__}: {str(error)[:200]}") from error


def damaged(path: Path, what: str) -> RayulError:
    """The error for a study.journal that a sweep cannot go on with."""
    hint = f"`rayul repair {path.parent}` makes it anew from {JOURNAL}, which has all results"
    return RayulError(f"{path} {what}", hint)


def misread(study: optuna.Study, spec: Spec, journal: Journal) -> str:
    """What in a study cannot be of the sweep that the rows are of, as a predicate; "" where nothing."""
    if [direction.name.lower() for direction in study.directions] != list(spec.objectives.values()):
        return "has other objectives than the spec"
    settings = {row.trial_id: row.params for row in journal}
    settings |= {trial: ending.params for trial, ending in journal.endings.items()}
    for trial in study.get_trials(deepcopy=False):
        drawn = settings.get(trial_id(trial.number), {})
        if any(key in drawn and drawn[key] != value for key, value in trial.params.items()):
            return f"has other settings for trial {trial_id(trial.number)} than {JOURNAL}"
    return ""


def is_ahead(study: optuna.Study, journal: Journal) -> str:
    """Which trial has ended by the study alone, as a predicate; "" where none. Nobody would run such a trial again."""
    for trial in study.get_trials(deepcopy=False):
        ended = trial.state.is_finished() and WARM_START not in trial.user_attrs
        if ended and trial_id(trial.number) not in journal.endings:
            return f"says that trial {trial_id(trial.number)} has ended, and {JOURNAL} has no ending of it"
    return ""


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Proposes configurations {"number", "params"}; `journal` is where it reads what became of them.

    limit: how many trials of this sweep the study may hold in the end. On a resume the trials that a killed driver left
    are proposed first, under their own numbers; those that the journal knows as ended are told, not run. Raises
    RayulError where study and journal contradict each other.
    enough: why no new trial is worth its cost, "" while one is.

    Optuna hears of a trial through `tell`, which the recorder calls once the trial's ending is on disk. Tune's own
    notice, `on_trial_complete`, comes too early for a trial that failed and also for one that was only interrupted.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: Spec,
        journal: Journal,
        baseline: Evaluation,
        limit: int,
        enough: Callable[[], str] = lambda: "",
    ) -> None:
        super().__init__()
        self.enough = enough
        self.study, self.spec, self.journal, self.baseline, self.limit = study, spec, journal, baseline, limit
        self.evidence = evidence_of(spec, baseline, journal.of)
        self.earlier = sum(WARM_START in t.user_attrs for t in study.get_trials(deepcopy=False))
        self.asked: dict[int, optuna.Trial] = {}
        self.seeds: dict[str, list[float | None]] = {}
        """By settings, as text, what each of their trials has forgotten within the limits; None while it runs."""
        self.running: dict[int, tuple[str, int]] = {}
        """By number, where in `seeds` a trial is that runs."""
        self.unfinished: list[int] = []
        if wrong := misread(study, spec, journal) or is_ahead(study, journal):
            raise damaged(journal.path.with_name(STUDY), wrong)
        self._restore_trials()
        trials = study.get_trials(deepcopy=False)
        self.asked_for = sum(t.state != TrialState.WAITING for t in trials)
        for trial in trials[self.earlier :]:
            if trial.state == TrialState.RUNNING and trial_id(trial.number) not in journal.endings:
                self.unfinished.append(trial.number)  # counted when it is asked for: it may lack parameters yet
            elif trial.state == TrialState.RUNNING:
                self._count(trial.number, trial.params)
                self.tell(trial.number)
            elif trial.state != TrialState.WAITING:
                self._count(trial.number, trial.params)
                self._score(trial.number)

    @property
    def total(self) -> int:
        """Trials of the whole sweep: the limit, or the cells of a grid that has fewer."""
        if self.spec.search.traits.grid:
            return min(self.limit, len(self.study.get_trials(deepcopy=False)))
        return self.limit

    @property
    def remaining(self) -> int:
        """Trials still to run, those left unfinished included."""
        finished = sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
        return max(0, self.total - (finished - self.earlier))

    @property
    def has_proposed_all(self) -> bool:
        return not self.unfinished and self.asked_for - self.earlier >= self.total

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        left = self.unfinished.pop(0) if self.unfinished else None
        if left is None and self.enough():
            finished: str = Searcher.FINISHED
            return finished
        number = self.asked_for if left is None else left
        if left is None:
            self._enqueue_replicate()
        with blamed(self.spec.search, number):
            self.study.sampler = sampler(self.spec, number, self.evidence)
            trial = self.study.ask() if left is None else self._trial(left)
            self.asked_for = max(self.asked_for, trial.number + 1)
            self.asked[trial.number] = trial
            params = suggest(trial, self.spec)
            self._count(trial.number, trial.params)
            return {"number": trial.number, "params": params}

    def _enqueue_replicate(self) -> None:
        """Have the study propose a known configuration next, where its turn has come (`search.replicate`)."""
        if not self.spec.search.replicates:
            return
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if waiting or self.asked_for - self.earlier < NEW * self.limit:
            return
        chosen = next_replicate(self.seeds)
        if chosen is not None:
            self.study.enqueue_trial(json.loads(chosen))

    def _count(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial with these settings runs."""
        if not self.spec.search.replicates:
            return
        settings = json.dumps(params, sort_keys=True)
        seeds = self.seeds.setdefault(settings, [])
        self.running[number] = settings, len(seeds)
        seeds.append(None)

    def _score(self, number: int) -> None:
        """It has ended."""
        if number in self.running:
            settings, place = self.running.pop(number)
            rows = self.journal.of(trial_id(number))
            self.seeds[settings][place] = most_forgotten(rows, self.baseline, self.spec.objectives)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def tell(self, number: int) -> None:
        """Tell Optuna how a trial ended: its `outcome`, or a failure where it has none."""
        ending = self.journal.endings[trial_id(number)]
        # Making an optuna.Trial anew samples: seconds with GP, for nothing here.
        trial = self.asked.pop(number, None) or self._trial(number)
        told = outcome(self.journal.of(ending.trial_id), self.spec.at(ending.params), self.baseline)
        for key, value in (ended(ending) if told is None else told.attributes(ending)).items():
            trial.set_user_attr(key, value)
        if told is None:
            self.study.tell(number, state=TrialState.FAIL)
            self._score(number)
            return
        if told.constraints:
            # As samplers with a `constraints_func` keep them. `Trial.set_constraint` keeps them by name, where
            # optuna-dashboard 0.21 does not look: it would show trials that broke a limit among the best.
            self.study._storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, list(told.constraints.values()))
        self.study.tell(number, told.values)
        self._score(number)

    def _restore_trials(self) -> None:
        """Give the study what only the journal has, under the same numbers: trials, or some of their parameters. The
        rows may be ahead of it after a loss of power, or where both were copied to a bucket one after the other."""
        params = {int(row.trial_id): row.params for row in self.journal if not row.is_reference}
        params |= {int(trial): ending.params for trial, ending in self.journal.endings.items()}
        known = self.study.get_trials(deepcopy=False)
        for number in range(max(params, default=-1) + 1):
            drawn = params.get(number, {})
            if number not in params and (number >= len(known) or known[number].state == TrialState.WAITING):
                with blamed(self.spec.search, number):  # all that it had is lost: it is drawn as it was then
                    self.study.sampler = sampler(self.spec, number, self.evidence)
            if number >= len(known):
                self.study.enqueue_trial(drawn)
            if number >= len(known) or known[number].state == TrialState.WAITING:
                suggest(self.study.ask(), self.spec)
            elif known[number].state == TrialState.RUNNING and drawn.keys() - known[number].params:
                # What `enqueue_trial` does for a trial that waits.
                self.study._storage.set_trial_system_attr(known[number]._trial_id, "fixed_params", drawn)
                suggest(self._trial(number), self.spec)

    def _trial(self, number: int) -> optuna.Trial:
        frozen = self.study.get_trials(deepcopy=False)[number]
        return optuna.Trial(self.study, frozen._trial_id)

    # All state is in the study's journal and ours; Tune's own snapshots need none of it.
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("resume with `rayul sweep FILE --resume`")
