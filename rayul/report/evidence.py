"""What a measurement rests on: numbers of rows and groups, and what a standard error over them assumes."""

from __future__ import annotations

from collections.abc import Mapping

from rayul.words import plural


def in_groups(rows: int, groups: int) -> str:
    """ "80 rows in 8 groups"; "80 rows" where no two belong together. groups: 0 where it is not known."""
    return plural(rows, "row") + (f" in {plural(groups, 'group')}" if 0 < groups < rows else "")


def evidence(rows: Mapping[str, int], groups: Mapping[str, int]) -> str:
    """ "80 forget rows in 8 groups and 60 general rows; ± is one standard error over groups, ...". rows, groups: by
    set, groups without those of an earlier version, which counted row by row. "" without rows."""
    if not rows:
        return ""
    grouped = {name for name in rows if groups.get(name, rows[name]) < rows[name]}
    counts = [
        plural(count, f"{name} row") + (f" in {plural(groups[name], 'group')}" if name in grouped else "")
        for name, count in rows.items()
    ]
    listed = ", ".join(counts[:-1]) + (" and " if len(counts) > 1 else "") + counts[-1]
    if not grouped:
        assumed = ", which assumes that they are independent: none of them names a group" if groups else ""
        return f"{listed}; ± is one standard error over the rows{assumed}"
    alone = "" if grouped == set(rows) else ", rows without a group being taken as independent"
    return f"{listed}; ± is one standard error over groups{alone}"
