"""control.tau as a list in a real sweep: calibrated rows for each share, and the table of the best at each."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import ended, endings, rows, sweep, write_spec

from rayul.report import load_results, summary_of

TAUS = [0.92, 0.95, 0.98]


@pytest.mark.slow
@pytest.mark.parametrize("mixing", [True, False])
def test_one_sweep_has_the_whole_trade_off(tmp_path: Path, tiny_folder: Path, data_folder: Path, mixing: bool) -> None:
    """With mixing a point near each share; without, a trial is stopped by the smallest share alone."""
    control = {"tau": TAUS, "mixing": mixing}
    training = {"lr": {"float": [2e-3, 2e-2], "log": True}, "batch_size": 4, "steps": 8, "evaluate_every": 1}
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, method="ga", training=training, control=control)
    done = sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    base = next(row for row in rows(tmp_path / "tiny") if row["trial_id"] == "baseline")["metrics"]
    trained = [row for row in rows(tmp_path / "tiny") if row["step"] and row["metrics"]]
    summary = summary_of(load_results(tmp_path / "tiny"))
    assert [target.share for target in summary.targets] == sorted(TAUS, reverse=True)
    for share, best, forgotten in summary.targets:
        kept = [row for row in trained if row["metrics"]["retain.prob"] >= share * base["retain.prob"]]
        lowest = min(row["metrics"]["forget.prob"] for row in kept)
        if lowest > 0.95 * base["forget.prob"]:
            assert best is None
            continue
        assert best is not None
        assert best.metrics["forget.prob"] == pytest.approx(lowest)
        assert forgotten == pytest.approx(1 - lowest / base["forget.prob"])
        assert f"{share:.1%} kept: {forgotten:.1%} forgotten" in done.stdout
    assert any(target.best for target in summary.targets)
    if not mixing:
        assert all(row["mixing"] in (0, 1) for row in trained)
        stopped = [end for end in endings(tmp_path / "tiny").values() if end["state"] == "pruned"]
        assert all("92% of baseline" in end["reason"] for end in stopped)
    assert set(ended(tmp_path / "tiny").values()) <= {"completed", "pruned"}
