"""What evaluations would save that end in the middle of their rows, counted on recorded sweeps.

    python tests/benchmarks/parts.py results/ga [FOLDER ...]

The journal has the sum of a limited metric over every group of rows. An evaluation could end as soon as a limit is
broken even if all rows that are left were perfect. Three ways to read:

    (a) the limited sets group by group, in the journal's order, and the other sets behind them;
    (b) the same in two and in four parts of whole groups;
    (c) every set in two and in four parts, one part of each in turn.

The first table counts the rows that were read after step 0 against those of all sets at every evaluation (those of
the baseline but for the report, which were read before evaluations read only what steers). The second says what ending
early would save of both. A forward has rows of several groups, so a real evaluation would save less.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rayul.records import SPEC, Evaluation
from rayul.records.folder import SweepRecords, load_records
from rayul.spec import METRICS, Limit, Spec, known_limits, load_spec
from rayul.sweep.search.outcome import outcome

WAYS: dict[str, tuple[int | None, bool]] = {
    "(a) group by group": (None, False),
    "(b) in 2 parts": (2, False),
    "(b) in 4 parts": (4, False),
    "(c) all sets in 2 parts": (2, True),
    "(c) all sets in 4 parts": (4, True),
}
"""The number of parts, None for one for each group; whether they are of every set."""

ROUNDING = 1e-6
"""Of the sums in the journal."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    sweeps = [(folder, load_spec(folder / SPEC), load_records(folder)) for folder in parser.parse_args().folders]
    print("| sweep | evaluations | repeated | rows of all sets | read | saved | by repeating | by what steers |")
    print("|" + " --- |" * 8)
    for folder, _, records in sweeps:
        print(f"| {folder} | {counted(records)} |")
    print("\n| sweep | way | ended early, of those read | saved of the rows read | of all | told without forget rows |")
    print("|" + " --- |" * 6)
    for folder, spec, records in sweeps:
        for name, (parts, together) in WAYS.items():
            print(f"| {folder} | {name} | {saved(records, spec, parts, together)} |")


def trained(records: SweepRecords) -> list[Evaluation]:
    return [e for rows in records.trials.values() for e in rows if e.step > 0 and e.metrics]


def of_all_sets(records: SweepRecords) -> int:
    """Rows of one evaluation."""
    return sum(count for name, count in records.baseline.rows.items() if not name.endswith("_report"))


def counted(records: SweepRecords) -> str:
    found = trained(records)
    whole, read = len(found) * of_all_sets(records), sum(sum(e.rows.values()) for e in found)
    repeated = sum(not e.rows for e in found)
    by_repeating = repeated * of_all_sets(records)
    shares = [(whole - read) / whole, by_repeating / whole, (whole - read - by_repeating) / whole]
    told = " | ".join(f"{share:.1%}" for share in shares)
    return f"{len(found)} | {repeated} | {whole} | {read} | {told}"


def saved(records: SweepRecords, spec: Spec, parts: int | None, together: bool) -> str:
    base = records.baseline.metrics
    read = saving = early = blind = told = 0
    for trial, rows in records.trials.items():
        limits = known_limits(spec.at(records.endings[trial].params).criteria)
        ended = set()
        for e in rows:
            if e.step == 0 or not e.rows:
                continue
            whole, needed = sum(e.rows.values()), rows_needed(e, limits, base, parts, together)
            read, saving = read + 1, saving + whole - needed
            if needed < whole:
                early += 1
                ended.add((e.step, e.mixing))
        said = outcome(rows, spec, records.baseline)
        told += said is not None
        blind += said is not None and (said.step, said.mixing) in ended
    rows_read = sum(sum(e.rows.values()) for e in trained(records))
    every = len(trained(records)) * of_all_sets(records)
    return f"{early} of {read} | {saving / rows_read:.1%} | {saving / every:.1%} | {blind} of {told} trials"


def rows_needed(
    e: Evaluation, limits: tuple[Limit, ...], base: Mapping[str, float], parts: int | None, together: bool
) -> int:
    limited = {limit.set_name for limit in limits}
    most = parts or max(len(e.group_rows[name]) for name in limited)
    for part in range(1, most + 1):
        seen = {name: len(groups) * part // most for name, groups in e.group_rows.items()}
        if any(is_broken(e, limit, base, seen[limit.set_name]) for limit in limits):
            return sum(sum(e.group_rows[name][: seen[name]]) for name in (e.group_rows if together else limited))
    return sum(e.rows.values())


def is_broken(e: Evaluation, limit: Limit, base: Mapping[str, float], groups: int) -> bool:
    """After so many groups, whatever the rows of the others are."""
    assert METRICS[limit.metric.partition(".")[2]].bounded, f"{limit.metric} has no best value"
    rows = e.group_rows[limit.set_name]
    left = sum(rows[groups:]) if limit.at_least else 0
    best = (sum(e.group_sums[limit.metric][:groups]) + left) / sum(rows)
    return limit.violation(best, base) > ROUNDING


if __name__ == "__main__":
    main()
