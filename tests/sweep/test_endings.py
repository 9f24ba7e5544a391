"""A driver killed on either side of an ending's write: what is there, and that a resume comes to the same table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from driver import endings, key, lines, rows, sweep, write_spec

pytestmark = pytest.mark.slow

DRIVER = """
import os, signal, sys
from rayul.cli import main
from rayul.records import Ending
from rayul.records.json_lines import JsonLines
from rayul.sweep.search.searcher import OptunaSearcher

append, tell = JsonLines.append, OptunaSearcher.tell
count = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def append_then_die(self, *records):
    global count
    count += sum(isinstance(record, Ending) for record in records)
    if count == 2:  # as a crash in the middle of the write leaves it: the evaluations, and half of the ending
        append(self, *(record for record in records if not isinstance(record, Ending)))
        with open(self.path, "ab") as file:
            file.write(self.write(records[-1])[:40].encode())
        die()
    return append(self, *records)


def die_for_tell(self, number):
    global count
    count += 1
    if count == 2:
        die()
    tell(self, number)


if MOMENT == "before":
    JsonLines.append = append_then_die
else:
    OptunaSearcher.tell = die_for_tell
main()
"""


def killed(moment: str, spec: Path, results: Path, *flags: str) -> None:
    """Run a sweep that dies at its second ending, before it is on disk or right after."""
    code = DRIVER.replace("MOMENT", repr(moment))
    arguments = ["sweep", str(spec), "--results", str(results), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment, check=False)
    assert done.returncode == -9, done.stderr.decode()


def table(folder: Path) -> list[dict[str, Any]]:
    """trials.parquet but for the clock and the order in which trials began."""
    found = pq.read_table(folder / "trials.parquet").drop_columns(["seconds"]).to_pylist()
    return sorted(found, key=lambda row: row["trial_id"])


def test_killed_on_either_side_of_an_ending(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder)
    folder = tmp_path / "results" / "tiny"
    journal = folder / "evaluations.jsonl"

    killed("before", spec, tmp_path / "results")
    assert not journal.read_bytes().endswith(b"\n")
    first = endings(folder)
    assert len(first) == 1
    written = journal.read_bytes().rpartition(b"\n")[0]

    killed("after", spec, tmp_path / "results", "--resume")
    assert journal.read_bytes().startswith(written)
    assert "step" not in lines(folder)[-1], "the ending is on disk, and Optuna has not heard of it"
    second = endings(folder)
    assert len(second) == len(first) + 2
    written = journal.read_bytes()

    done = sweep(spec, tmp_path / "results", "--resume")
    assert done.returncode == 0, done.stderr
    assert journal.read_bytes().startswith(written)
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)
    at_the_end: dict[str, int] = {line["trial_id"]: number for number, line in enumerate(lines(folder))}
    assert all("step" not in lines(folder)[at_the_end[trial]] for trial in endings(folder)), "nothing after an ending"

    assert sweep(spec, tmp_path / "undisturbed").returncode == 0
    other = tmp_path / "undisturbed" / "tiny"
    assert {state["state"] for state in endings(other).values()} >= {"completed", "pruned"}
    assert {key(row) for row in rows(folder)} == {key(row) for row in rows(other)}
    mine, theirs = table(folder), table(other)
    assert len(mine) == len(theirs) == 6
    for ours, expected in zip(mine, theirs, strict=True):
        forgotten, before = ours.pop("forgotten"), expected.pop("forgotten")
        assert forgotten == (None if before is None else pytest.approx(before, rel=1e-4))
        assert ours == expected
