"""The columns of a sweep's tables that docs/results.md explains."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
from pages import ROOT


def explained() -> dict[str, set[str]]:
    """By table, such as "trials", its columns; "params.*" stands for all that begin so."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| column of (\w+)\.parquet \|.*\n\|[-| ]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    columns = {name: set(re.findall(r"^\| `([^`]+)` \|", rows, re.MULTILINE)) for name, rows in found}
    return columns | {"pareto": columns["pareto"] | columns["evaluations"]}


def written(folder: Path) -> dict[str, set[str]]:
    """By table of a results folder its columns, in the words of the page."""
    return {
        name: {re.sub(r"\..*", ".*", column) for column in pq.read_schema(folder / f"{name}.parquet").names}
        for name in explained()
    }
