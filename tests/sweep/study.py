"""A study and a journal in a folder, proposed to and told as a sweep with one worker does, without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial

from rayul.records import COMPLETED, PRUNED, Evaluation, Journal
from rayul.sweep import connection  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.result import TrialResult

# isort: split
from rayul.sweep.pruning.scheduler import PruningScheduler
from rayul.sweep.search.searcher import OptunaSearcher, open_study

Row = Callable[..., Evaluation]


class Sweep:
    """A folder with study and journal; `run(n)` proposes and tells n trials, one after the other, as one worker does.

    What comes of a trial is a fixed function of its parameters.
    """

    def __init__(
        self,
        folder: Path,
        spec: Any,
        row: Row,
        baseline: Evaluation,
        limit: int = 100,
        earlier: Sequence[FrozenTrial] = (),
    ) -> None:
        self.folder, self.spec, self.row, self.baseline, self.limit = folder, spec, row, baseline, limit
        self.earlier = earlier
        self.open()

    def open(self) -> Sweep:
        self.journal = Journal(self.folder / "evaluations.jsonl")
        self.study = open_study(self.folder / "study.journal", self.spec, self.earlier)
        self.searcher = OptunaSearcher(self.study, self.spec, self.journal, self.baseline, self.limit)
        return self

    def ask(self) -> tuple[int, dict[str, Any]]:
        config = self.searcher.suggest("tune's own id")
        assert config is not None
        return config["number"], config["params"]

    def end(self, number: int, params: dict[str, Any], tell: bool = True) -> None:
        strength = math.log10(params.get("training.lr", 1e-3) / 1e-4) / 2 + params.get("method.retain_weight", 0.0) / 40
        for step, share in ((0, 0.0), (5, 0.5), (10, 1.0)):
            forget, retain = 0.8 * (1 - strength * share), 0.5 * (1 - 0.2 * strength * share)
            row = self.row(self.spec, number, step, forget, retain, params=params)
            self.journal.append(row)
        self.journal.append(row.ended(COMPLETED))
        if tell:
            self.searcher.tell(number)

    def run(self, count: int) -> list[tuple[int, dict[str, Any]]]:
        asked = []
        for _ in range(count):
            asked.append(self.ask())
            self.end(*asked[-1])
        return asked


def play(sweep: Sweep, course: Callable[[dict[str, Any]], list[tuple[float, float]]], trials: int) -> list[Evaluation]:
    """A whole sweep without training: proposed, judged after every evaluation and told by the real parts, one trial
    after the other. course(params) -> (forget.es, retain.es) at steps 5, 10, ...; step 0 is the baseline. Returns the
    last evaluation of each trial."""
    scheduler = PruningScheduler(sweep.spec, sweep.baseline.metrics, sweep.journal)
    for _ in range(trials):
        number, params = sweep.ask()
        points = [(sweep.baseline.metrics["forget.es"], sweep.baseline.metrics["retain.es"]), *course(params)]
        for i, point in enumerate(points):
            row = sweep.row(sweep.spec, number, 5 * i, *point, params=params)
            sweep.journal.append(row)
            result = TrialResult([row]).to_ray()
            if scheduler.on_trial_result(None, SimpleNamespace(trial_id="tune's"), result) == "STOP":  # type: ignore[arg-type]
                sweep.journal.append(row.ended(PRUNED, *scheduler.stops[row.trial_id]))
                break
        else:
            sweep.journal.append(row.ended(COMPLETED))
        sweep.searcher.tell(number)
    return [sweep.journal.of(trial)[-1] for trial in sweep.journal.endings]
