"""`from rayul import ...`: light to import, DataFrames equal to the Parquet files, shown safely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from synthetic import sweep, write_folder
from test_report_page import HOSTILE, hostile_folder

import rayul
from rayul.report import summarise


def test_reading_results_loads_neither_ray_nor_torch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(8))
    code = f"""
import sys
import rayul
assert "pydantic" not in sys.modules and "numpy" not in sys.modules
from rayul import load_results, load_spec
results = load_results({str(folder)!r})
results.frames.trials, results.best(), repr(results), results._repr_html_()
heavy = sorted({{"torch", "ray", "transformers", "peft", "optuna", "datasets"}} & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_listed_and_a_wrong_one_is_an_error() -> None:
    assert set(rayul.__all__) <= set(dir(rayul))
    assert not hasattr(rayul, "run_sweeps")
    assert all(getattr(rayul, name) is not None for name in ("load_spec", "load_results", "Results", "Spec"))


def test_the_frames_are_the_parquet_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(24))
    results = rayul.load_results(folder)
    summary = summarise(folder)
    for name, file in (("evaluations", "evaluations"), ("trials", "trials"), ("front", "pareto")):
        assert getattr(results.frames, name).equals(pq.read_table(folder / f"{file}.parquet").to_pandas())
    assert [e.key for e in results.front] == [e.key for e in summary.front]
    assert results.best() == summary.best


def test_shown_in_a_terminal_and_a_notebook(tmp_path: Path) -> None:
    results = rayul.load_results(str(write_folder(tmp_path / "s", sweep(24))))
    best = results.best()
    assert best.trial_id in repr(results)
    assert f"<td>{best.trial_id}</td>" in results._repr_html_()
    assert max(map(len, repr(results).splitlines())) <= 80


def test_a_hostile_name_cannot_run_in_a_notebook(tmp_path: Path) -> None:
    html = rayul.load_results(hostile_folder(tmp_path / "s"))._repr_html_()
    assert HOSTILE not in html
    assert "<script" not in html
    assert "<img" not in html
