"""What a person sees while a sweep runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rayul.pareto.front import front
from rayul.pareto.hypervolume import hypervolume
from rayul.progress import FIRST_LINE, lines
from rayul.records import COMPLETED, FAILED, PRUNED, RUNNING, Ending, Evaluation, Record
from rayul.spec import Spec, limits
from rayul.words import clock, printable

PLAIN_EVERY = 15.0
"""Seconds between two summary lines where there is no terminal."""


class Progress:
    """Counts, front and remaining time of one sweep, fed record by record."""

    def __init__(self, spec: Spec, baseline: Evaluation, records: Iterable[Record], total: int) -> None:
        self.spec, self.baseline, self.total = spec, baseline, total
        self.limits = limits(spec.criteria, baseline.metrics)
        self.last: dict[str, Evaluation] = {}
        self.states: dict[str, str] = {}
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Ended trials by state and rule."""
        known = list(records)
        for record in known:
            self._count(record)
        self.started = time.monotonic()
        self.steps: dict[str, int] = {}
        """Of each trial, its steps."""
        self.first: tuple[float, float] | None = None
        """When the first record of this run came, and how many trials' worth of steps were done then: what came before
        is the start of the processes, which no later trial pays for."""
        self.front = front((e for e in known if isinstance(e, Evaluation)), baseline, spec.objectives)
        self.is_ending: Callable[[], bool] = lambda: False
        """Whether no further trial will start, and those that run are being ended."""

    def add(self, record: Record) -> None:
        self._count(record)
        self.first = self.first or (time.monotonic(), self.done)
        if isinstance(record, Evaluation) and record.feasible and record.step:
            self.front = front([*self.front, record], self.baseline, self.spec.objectives)

    @property
    def ended(self) -> int:
        # A copy: the live view counts in a thread of its own.
        return sum(state != RUNNING for state in list(self.states.values()))

    @property
    def hypervolume(self) -> float:
        return hypervolume(self.front, self.baseline, self.spec.objectives, self.limits)

    @property
    def done(self) -> float:
        """Trials that have ended, and of those that run the share of their steps."""
        running = [trial for trial, state in list(self.states.items()) if state == RUNNING and trial in self.last]
        return self.ended + sum(min(1.0, self.last[trial].step / self._steps(trial)) for trial in running)

    def _steps(self, trial: str) -> int:
        if trial not in self.steps:
            self.steps[trial] = self.spec.at(self.last[trial].params).training.steps
        return self.steps[trial]

    @property
    def remaining(self) -> float | None:
        """Seconds, at the rate of this run since its first record; None before there is one."""
        if self.first is None or self.done <= self.first[1]:
            return None
        since, before = self.first
        return (time.monotonic() - since) / (self.done - before) * (self.total - self.done)

    def phase(self) -> str:
        """What the next line has to tell at once when it changes."""
        return "ending" if self.is_ending() else "" if self.remaining is None else "time left"

    def summary(self) -> str:
        count = Counter(list(self.states.values()))
        parts = [f"{self.ended}/{self.total} trials"]
        parts += [f"{count[state]} {state}" for state in (RUNNING, COMPLETED, PRUNED, FAILED) if count[state]]
        parts.append(f"front {len(self.front)}, hypervolume {self.hypervolume:.3f}")
        parts.append(f"{clock(time.monotonic() - self.started)} elapsed")
        if self.is_ending():
            parts.append("ending: no more trials start, and those that run are being ended")
        elif self.remaining is not None and self.ended < self.total:
            then = ", then the certificate" if self.spec.certify is not None else ""
            parts.append(f"about {clock(self.remaining)} left{then}")
        return " | ".join(parts)

    def _count(self, record: Record) -> None:
        if isinstance(record, Ending):
            self.states[record.trial_id] = record.state
            if record.state in (PRUNED, FAILED):
                self.reasons[record.state, record.rule] += 1
        elif not record.is_reference:
            self.last[record.trial_id] = record
            self.states.setdefault(record.trial_id, RUNNING)

    def view(self) -> Group:
        """The live view; fits into 80 columns and 20 lines."""
        objectives = list(self.spec.objectives)
        table = Table(box=None, padding=(0, 2), show_edge=False)
        for heading in ("trial", "step", "mixing", *objectives, "settings"):
            table.add_column(heading, overflow="ellipsis", no_wrap=True, justify="left")
        for e in self.front[:8]:
            settings = " ".join(f"{key.split('.')[-1]}={short(value)}" for key, value in e.params.items())
            values = [f"{e.metrics[m]:.3f}" for m in objectives]
            table.add_row(e.trial_id, str(e.step), f"{e.mixing:g}", *values, settings)
        bar = Table.grid()  # a bar alone would not end its line
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.ended, width=60))
        most = self.reasons.most_common(4)
        reasons = [Text(printable(f"  {count} {state}: {rule}")[:78], style="dim") for (state, rule), count in most]
        more = [Text(f"  and {len(self.front) - 8} more on the front", style="dim")] if len(self.front) > 8 else []
        return Group(Text(self.summary()), bar, *reasons, Text("front so far", style="bold"), table, *more)


@contextmanager
def shown(progress: Progress, console: Console) -> Iterator[Progress]:
    """Show the progress while the block runs."""
    if console.is_terminal:
        with Live(get_renderable=progress.view, console=console, refresh_per_second=2, transient=True):
            yield progress
        progress.is_ending = lambda: False
        console.print(progress.summary(), highlight=False)
        return
    progress.add = _PlainLines(progress, console).add  # type: ignore[method-assign]
    # By the clock, since a first record may take minutes; and soon after there is a time left, or an end, to tell.
    with lines(console, progress.summary, FIRST_LINE, PLAIN_EVERY, work=progress.phase):
        yield progress
    progress.is_ending = lambda: False
    console.print(progress.summary(), highlight=False, soft_wrap=True)


class _PlainLines:
    """A line for each trial that ends."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress, self.console, self.add_record = progress, console, progress.add

    def add(self, record: Record) -> None:
        self.add_record(record)
        if isinstance(record, Ending):
            last = self.progress.last.get(record.trial_id)
            where = " before its first evaluation"
            if last is not None:
                values = " ".join(
                    f"{m} {last.metrics[m]:.3f}" for m in self.progress.spec.objectives if m in last.metrics
                )
                where = f" {'after' if record.state == FAILED else 'at'} step {last.step} ({values})"
            reason = f": {record.reason}" if record.reason else ""
            if last is not None and record.state == COMPLETED and not last.feasible:
                reason = ", beyond a limit by then"
            line = f"trial {record.trial_id} {record.state}{where}{reason}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
