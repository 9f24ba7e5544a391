"""What a sweep has spent over all its runs, and whether that, or a front that no longer grows, ends it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rayul.pareto.hypervolume import hypervolume_history
from rayul.records import Evaluation, Record
from rayul.records.manifest import Manifest, Run
from rayul.spec import Spec, limits


class Budget:
    """The limits of `search` besides its number of trials, fed record by record.

    spent: seconds of earlier runs. devices: of one trial, a fraction of a GPU or a number of cores. records: what the
    journal has already.
    """

    def __init__(
        self, spec: Spec, baseline: Evaluation, records: Iterable[Record], *, spent: float, devices: float
    ) -> None:
        self.spec, self.baseline, self.devices = spec, baseline, devices
        self.started = time.monotonic() - spent
        self.rows: list[Evaluation] = []
        self.ends: list[int] = []  # rows there were when a trial ended, in the order of the ends
        self.train_seconds: dict[str, float] = {}
        self.grown = (-1, "")
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        if not isinstance(record, Evaluation):
            self.ends.append(len(self.rows))
        elif record.is_reference:
            return
        else:
            self.rows.append(record)
        before = self.train_seconds.get(record.trial_id, 0.0)
        self.train_seconds[record.trial_id] = max(record.train_seconds, before)

    @property
    def device_hours(self) -> float:
        """Hours of all trials, each by its share of a device."""
        return sum(self.train_seconds.values()) * self.devices / 3600

    def exhausted(self) -> str:
        """Why the sweep has to stop now, in a sentence; "" while it may go on."""
        search = self.spec.search
        if search.time_limit is not None and time.monotonic() - self.started >= search.time_limit:
            return f"search.time_limit of {search.time_limit:g} s is reached"
        if search.max_device_hours is not None and self.device_hours >= search.max_device_hours:
            return f"search.max_device_hours of {search.max_device_hours:g} is reached"
        return ""

    def stagnant(self) -> str:
        """Why no further trial is worth its cost, in a sentence; "" while one is."""
        wanted = self.spec.search.stagnation
        if wanted is None or len(self.ends) <= wanted.trials:
            return ""
        if self.grown[0] != len(self.ends):
            self.grown = (len(self.ends), self._stagnant(wanted.trials, wanted.growth))
        return self.grown[1]

    def _stagnant(self, trials: int, growth: float) -> str:
        criteria = limits(self.spec.criteria, self.baseline.metrics)
        history = hypervolume_history(self.rows, self.baseline, self.spec.objectives, criteria)
        before = [volume for count, volume in history if count <= self.ends[-trials - 1]][-1]
        now = history[-1][1]
        if before == 0 or now > before * (1 + growth):
            return ""
        return f"search.stagnation: hypervolume {before:.4f} -> {now:.4f} over the last {trials} trials"


def run_begins(manifest: Manifest, journal: Path) -> Manifest:
    """The manifest with one more run. A run that was killed, and so has no end, gets the time of the journal's last
    row. Call it before the journal is opened, which may cut off half a row and so change that time."""
    runs = [run if run.ended else _killed(run, journal) for run in manifest.runs]
    return manifest.model_copy(update={"runs": (*runs, Run(began=datetime.now(UTC)))})


def run_ends(manifest: Manifest, stopped: str, seconds: float, records: int | None = None) -> Manifest:
    """The manifest with the end of its last run, which took `seconds` (of a clock that nobody sets); `stopped`
    says why it ended early, "" where all trials ran. records: those of the journal."""
    *earlier, run = manifest.runs
    last = Run(began=run.began, ended=run.began + timedelta(seconds=seconds), stopped=stopped, records=records)
    return manifest.model_copy(update={"runs": (*earlier, last)})


def _killed(run: Run, journal: Path) -> Run:
    last = datetime.fromtimestamp(journal.stat().st_mtime, UTC) if journal.exists() else run.began
    return Run(began=run.began, ended=max(last, run.began), stopped="killed")
