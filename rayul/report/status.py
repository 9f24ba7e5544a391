"""What a sweep is doing, read from its folder: of one that runs elsewhere, was stopped, or has finished."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rayul.records import FAILED, JOURNAL, PRUNED, RUNNING, SPEC
from rayul.records.attacked import FINE_TUNE
from rayul.records.folder import SweepRecords, load_records
from rayul.report.answer import by_rule
from rayul.report.summary import Summary, summary_of
from rayul.report.terminal import WIDTH, front_lines
from rayul.spec import load_spec
from rayul.words import duration, plural

RECENT = 10
"""Trials that the throughput is taken over: the last ones, so that an old pause does not count for long."""


@dataclass(frozen=True)
class Status:
    """total: trials asked for. stopped: why the last run ended early, where it did. held: whether a driver holds the
    folder now. silent: seconds since the last row.
    seconds_per_trial: between the ends of the latest trials, all slots together; None before the second."""

    results: SweepRecords
    summary: Summary
    total: int
    held: bool
    silent: float
    seconds_per_trial: float | None
    stopped: str = ""
    budget: float | None = None
    """Seconds that search.time_limit still allows, where there is one."""
    command: str = ""
    """Which command holds the folder, where that is known."""

    @property
    def states(self) -> dict[str, int]:
        """Number of trials by state; of a sweep that no driver holds none is running."""
        named = {RUNNING: RUNNING if self.held else "unfinished"}
        return {named.get(state, state): count for state, count in self.summary.states.items()}

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.summary.states.items() if state != RUNNING)

    @property
    def phase(self) -> str:
        left = max(0, self.total - self.ended)
        if self.held and self.command == "certify":
            certificates = self.results.certificates
            if certificates.latest is None or certificates.begun is not None:
                return "certify is running: the certify rows are read"
            tried = {(row.model, row.attack, row.variant * (row.attack == FINE_TUNE)) for row in self.results.attacked}
            return f"certify is running: {plural(len(tried), 'attack')} tried so far"
        if self.held:
            return "running" if left else "finishing: adapters are verified and the report is made"
        why = f" ({self.stopped})" if self.stopped else ""
        return f"stopped{why}, {left} to go: continue with --resume" if left else "finished"

    @property
    def seconds_left(self) -> float | None:
        left = self.total - self.ended
        if not self.held or self.seconds_per_trial is None or left <= 0:
            return None
        seconds = self.seconds_per_trial * left
        return seconds if self.budget is None else max(0.0, min(seconds, self.budget))


def read_status(folder: Path, held: bool, now: datetime | None = None, command: str = "") -> Status:
    """Read a folder whose journal may be growing; a last line that is half written is left for the next time.

    Raises what `load_records` raises: no sweep's folder, or no baseline in it yet.
    """
    now = now or datetime.now(UTC)
    results = load_records(folder)
    spec = load_spec(folder / SPEC, check_files=False)
    study = results.study
    recent = study.ends[-RECENT - 1 :]
    runs = results.manifest.runs
    limit = spec.search.time_limit
    return Status(
        results=results,
        summary=summary_of(results),
        # A grid's cells stand in the study from the beginning, and may be fewer than search.trials.
        total=min(spec.search.trials, study.asked) if spec.search.traits.grid and study.asked else spec.search.trials,
        held=held,
        silent=max(0.0, now.timestamp() - (folder / JOURNAL).stat().st_mtime),
        seconds_per_trial=(recent[-1] - recent[0]).total_seconds() / (len(recent) - 1) if len(recent) > 1 else None,
        stopped=runs[-1].stopped if runs else "",
        command=command,
        budget=None if limit is None else limit - results.manifest.seconds(now),
    )


def status_lines(status: Status) -> list[str]:
    """The status as plain text of at most 80 columns, for a terminal or a log file."""
    results, summary = status.results, status.summary
    states = ", ".join(f"{count} {state}" for state, count in status.states.items() if count)
    lines = [
        f"{results.name}: {status.phase}",
        f"trials      {status.ended}/{status.total} ended" + (f" ({states})" if states else ""),
        f"evaluations {results.trained:,}, the last {duration(status.silent)} ago",
    ]
    if status.seconds_per_trial is not None:
        left = f", about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
        lines.append(f"throughput  a trial every {duration(status.seconds_per_trial)}{left}")
    lines.append(f"front       {plural(len(summary.front), 'point')}, hypervolume {summary.hypervolume:.4f}")
    for title, reasons in (("pruned by", pruned_by(results)), ("failed", failed(results))):
        if reasons:
            lines += [title, *(f"  {count:>4}  {reason}" for reason, count in reasons.most_common(5))]
    lines += ["front so far" if status.held else "front", *front_lines(summary)]
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]


def pruned_by(results: SweepRecords) -> Counter[str]:
    """Number of pruned trials by the limit that they broke, or by the other rule that stopped them."""
    limits = {limit.metric: str(limit) for limit in results.fixed_limits}
    return Counter(limits.get(e.rule, e.rule) for e in results.endings.values() if e.state == PRUNED)


def failed(results: SweepRecords) -> Counter[str]:
    """Number of failed trials by kind of failure, each told by the reason of the first."""
    groups = by_rule(e for e in results.endings.values() if e.state == FAILED)
    return Counter({" ".join(group[0].reason.split()): len(group) for group in groups})
