"""What a sweep has spent over all its runs, and whether that, or a front that no longer grows, ends it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rayul.pareto.hypervolume import hypervolume_history
from rayul.records import Evaluation, Record
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


def run_begins(provenance: Mapping[str, Any], journal: Path) -> dict[str, Any]:
    """The provenance with a run more in its `runs`. One that was killed, and so has no end, gets the time of the
    journal's last row. Call it before the journal is opened."""
    runs = dict(provenance.get("runs", {}))
    for key, run in runs.items():
        if "ended" not in run:
            last = datetime.fromtimestamp(journal.stat().st_mtime, UTC) if journal.exists() else _date(run["began"])
            runs[key] = run | {"ended": _text(max(last, _date(run["began"]))), "stopped": "killed"}
    return {**provenance, "runs": runs | {str(len(runs) + 1): {"began": _text(datetime.now(UTC))}}}


def run_ends(provenance: Mapping[str, Any], stopped: str, seconds: float) -> dict[str, Any]:
    """The provenance with the end of its last run, which took so many seconds (of a clock that nobody sets); `stopped`
    says why that came early, "" where all trials ran."""
    runs = dict(provenance["runs"])
    key, run = runs.popitem()
    runs[key] = (
        run
        | {"ended": _text(_date(run["began"]) + timedelta(seconds=seconds))}
        | ({"stopped": stopped} if stopped else {})
    )
    return {**provenance, "runs": runs}


def seconds_spent(provenance: Mapping[str, Any]) -> float:
    """Seconds of all runs, the one that still goes on included."""
    now = datetime.now(UTC)
    runs = provenance.get("runs", {}).values()
    spans = [(_date(r["ended"]) if "ended" in r else now) - _date(r["began"]) for r in runs]
    return sum(max(0.0, span.total_seconds()) for span in spans)  # a clock may have been set back


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _text(date: datetime) -> str:
    return date.isoformat(timespec="milliseconds")
