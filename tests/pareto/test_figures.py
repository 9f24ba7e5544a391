"""Figures for papers: the numbers of the Parquet files, in every format, equal for equal records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic import BASE, baseline, evaluation, sweep, write_folder

from rayul.errors import InputError
from rayul.report import load_results, summarise, summary_of

pytest.importorskip("matplotlib", reason="the figures extra is not installed")
MAGIC = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}


def test_every_format_is_written_and_equal_records_give_equal_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(12))
    summarise(folder, list(MAGIC))
    first = {p.name: p.read_bytes() for p in (folder / "figures").iterdir()}
    assert set(first) == {f"{n}.{k}" for n in ("front", "trajectories", "hypervolume") for k in MAGIC}
    assert all(text.startswith(MAGIC[name.rpartition(".")[2]]) for name, text in first.items())
    assert b"/Type3" not in first["front.pdf"]
    summarise(folder, list(MAGIC))
    assert {p.name: p.read_bytes() for p in (folder / "figures").iterdir()} == first


def test_the_front_is_drawn_at_the_parquet_files_numbers(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from rayul.report.axes import axes
    from rayul.report.figures import draw_front, draw_history

    folder = write_folder(tmp_path / "s", sweep(40))
    summary, results = summarise(folder), load_results(folder)
    chosen = axes(results)
    assert chosen is not None
    figure = Figure()
    draw_front(figure, results, summary, chosen)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    (bars,) = figure.axes[0].containers
    table = pq.read_table(folder / "evaluations.parquet").to_pandas()
    table = table[(table.step > 0) & ~table.trial_id.isin(["baseline", "oracle"]) & table["metrics.forget.es"].notna()]
    for label, kept in (("within limits", True), ("breaks a limit", False)):
        part = table[table.feasible == kept]
        x, y = 1 - part["metrics.forget.es"] / BASE["forget.es"], part["metrics.retain.es"] / BASE["retain.es"]
        drawn = [p for p in lines[label] if p == p]
        assert sorted(p for p in drawn if p[0] == p[0]) == [
            pytest.approx(p) for p in sorted([a, b] for a, b in zip(x, y, strict=True))
        ]
    pareto = pq.read_table(folder / "pareto.parquet").to_pandas().sort_values("forgotten")
    assert bars.lines[0].get_xdata() == pytest.approx(pareto["forgotten"].to_numpy())
    assert bars.lines[0].get_ydata() == pytest.approx(pareto["metrics.retain.es"].to_numpy() / BASE["retain.es"])

    figure = Figure()
    draw_history(figure, summary)
    assert figure.axes[0].lines[0].get_ydata()[-1] == summary.hypervolume


def test_calibration_and_poor_sweeps(tmp_path: Path) -> None:
    rows = [baseline(), *(evaluation("0", 5, 0.9 - a / 2, 0.96 - a / 8, mixing=a) for a in (0.25, 0.5, 1.0))]
    folder = write_folder(tmp_path / "mixed", rows)
    summarise(folder, ["png"])
    assert (folder / "figures" / "calibration.png").exists()
    for name, poor in (("none", [baseline()]), ("nan", [baseline(), evaluation("0", 5, float("nan"), 0.9)])):
        summarise(write_folder(tmp_path / name, poor), ["png"])
        assert not (tmp_path / name / "figures" / "calibration.png").exists()


@pytest.mark.parametrize(("given", "named"), [("gif", "gif is no format"), ("", "is no format")])
def test_unknown_formats_are_refused_before_anything_is_written(tmp_path: Path, given: str, named: str) -> None:
    folder = write_folder(tmp_path / "s", sweep(2))
    with pytest.raises(InputError, match=named):
        summarise(folder, [given])
    assert {p.name for p in folder.iterdir()} == {"spec.yaml", "evaluations.jsonl"}


def test_without_matplotlib_the_report_works_and_figures_name_the_way_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(2))
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from rayul.cli import main; sys.argv = ['rayul', 'report', sys.argv[1], *sys.argv[2:]]; main()"
    )
    plain, drawn = (
        subprocess.run([sys.executable, "-c", code, str(folder), *more], capture_output=True, text=True, check=False)
        for more in ([], ["--figures", "pdf"])
    )
    assert plain.returncode == 0, plain.stderr
    assert drawn.returncode == 2
    assert 'pip install "rayul[figures]"' in drawn.stderr
    assert summary_of(load_results(folder)).states
