"""From a results folder to everything that is derived from it: tables, front, hypervolume, checks, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayul.errors import RayulError
from rayul.records.folder import load_records
from rayul.report.audit_section import write_audit
from rayul.report.figures import check_formats, write_figures
from rayul.report.page import write_report
from rayul.report.summary import Summary, summary_of
from rayul.report.tables import write_tables


def summarise(
    folder: Path, figures: Sequence[str] = (), samples: int | None = None, refresh: int | None = None
) -> Summary:
    """Read spec.yaml and evaluations.jsonl; write evaluations.parquet, trials.parquet, pareto.* and report.html, and
    figures/ in these formats (pdf, png, svg; needs matplotlib). samples: maximum number of recorded rows of each set
    that the page shows, None for all; with 0 nothing that is shown has names of groups either. refresh: seconds after
    which a browser loads the page again, None for never.

    Everything is made from the records alone, each file whole or not at all, so it may run beside a running sweep.
    Raises InputError for a folder that is no sweep's, RayulError when a file cannot be written.
    """
    if figures:
        check_formats(figures)
    results = load_records(folder)
    summary = summary_of(results).with_samples(samples)
    try:
        write_tables(results, summary.front)
        write_report(results, summary, write_audit(results), refresh)
        if figures:
            write_figures(results, summary, figures)
    except OSError as error:
        raise RayulError(
            f"cannot write {error.filename or folder}: {error.strerror or error}",
            f"free the disk or fix the folder's permissions, then run `rayul report {folder}`",
        ) from error
    return summary
