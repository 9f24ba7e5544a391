"""A study and a journal in a folder, proposed to and told as a sweep with one worker does, without training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayul.records import COMPLETED, Evaluation, Journal
from rayul.sweep.search import OptunaSearcher, open_study

Row = Callable[..., Evaluation]


class Sweep:
    """A folder with study and journal; `run(n)` proposes and tells n trials, one after the other, as one worker does.

    What comes of a trial is a fixed function of its parameters.
    """

    def __init__(self, folder: Path, spec: Any, row: Row, baseline: Evaluation, limit: int = 100) -> None:
        self.folder, self.spec, self.row, self.baseline, self.limit = folder, spec, row, baseline, limit
        self.open()

    def open(self) -> Sweep:
        self.journal = Journal(self.folder / "evaluations.jsonl")
        self.study = open_study(self.folder / "study.journal", self.spec)
        self.searcher = OptunaSearcher(self.study, self.spec, self.journal, self.baseline, self.limit)
        return self

    def ask(self) -> tuple[int, dict[str, Any]]:
        config = self.searcher.suggest("tune's own id")
        assert config is not None
        return config["number"], config["params"]

    def end(self, number: int, params: dict[str, Any], tell: bool = True) -> None:
        strength = math.log10(params.get("training.lr", 1e-3) / 1e-4) / 2 + params.get("method.retain_weight", 0.0) / 40
        for step, share in ((0, 0.0), (5, 0.5), (10, 1.0)):
            last = {"state": COMPLETED} if step == 10 else {}
            forget, retain = 0.8 * (1 - strength * share), 0.5 * (1 - 0.2 * strength * share)
            self.journal.append(self.row(self.spec, number, step, forget, retain, params=params, **last))
        if tell:
            self.searcher.tell(number)

    def run(self, count: int) -> list[tuple[int, dict[str, Any]]]:
        asked = []
        for _ in range(count):
            asked.append(self.ask())
            self.end(*asked[-1])
        return asked
