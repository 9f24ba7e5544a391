"""Where a sweep's numbers come from: its manifest, and what the records add to it, in groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayul.records.folder import SweepRecords

Facts = list[tuple[str, str]]


def origin(results: SweepRecords) -> list[tuple[str, Facts]]:
    """(group, facts); without the command and the data, which the report shows by themselves."""
    manifest = results.manifest.plain()
    groups = [
        ("run", flat({key: manifest.get(key) for key in ("date", "commit")})),
        *((key, flat(manifest.get(key))) for key in ("versions", "hardware", "code", "pack")),
        ("runs", flat({str(number): run for number, run in enumerate(manifest.get("runs", ()), 1)})),
    ]
    seeds = sorted({end.seed for end in results.endings.values()})
    facts = [("search", str(results.seed))]
    if seeds:
        facts.append(("trials", str(seeds[0]) if len(seeds) == 1 else f"{len(seeds)} from {seeds[0]} to {seeds[-1]}"))
    groups.append(("seeds", facts))
    devices = sorted({e.device for rows in results.trials.values() for e in rows if e.device})
    if devices:
        groups.append(("devices of the trials", [(device, _trials_on(results, device)) for device in devices]))
    return [(name, facts) for name, facts in groups if facts]


def data_sets(results: SweepRecords) -> list[tuple[str, str, str]]:
    """(set, rows, SHA-256 of its rows); of a sweep that recorded no hashes the rows that were measured."""
    if results.manifest.data:
        return [(name, str(one.rows), one.sha256) for name, one in results.manifest.data.items()]
    return [(name, str(count), "") for name, count in results.baseline.rows.items()]


def flat(tree: Any, prefix: str = "") -> Facts:
    """A nested mapping as (dotted key, text) pairs, without what is not known."""
    if tree is None:
        return []
    if isinstance(tree, Mapping):
        return [pair for k, v in tree.items() for pair in flat(v, f"{prefix}.{k}" if prefix else str(k))]
    return [(prefix, str(tree))]


def _trials_on(results: SweepRecords, device: str) -> str:
    count = sum(any(e.device == device for e in rows) for rows in results.trials.values())
    return f"{count:,} trials" if count != 1 else "1 trial"
