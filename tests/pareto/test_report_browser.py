"""report.html in a real browser: charts are drawn, every control works, nothing fails, nothing foreign runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic import baseline, sweep, write_folder
from test_report_page import hostile_folder

from rayul.pareto import summarise

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)"),
    pytest.mark.slow,
]

USE_EVERYTHING = """<script>
(async () => {
  const root = document.documentElement, pause = () => new Promise((done) => setTimeout(done, 30));
  const change = (element) => element.dispatchEvent(new Event("change", {bubbles: true}));
  const buttons = [...document.querySelectorAll(".modebar-btn")].map((b) => b.dataset.title).join();
  for (const select of document.querySelectorAll("select"))
    for (const option of [...select.options]) { select.value = option.value; change(select); await pause(); }
  for (const radio of [...document.querySelectorAll("input[type=radio]")].reverse()) { radio.click(); await pause(); }
  for (const button of document.querySelectorAll("table.sortable th button")) { button.click(); await pause(); }
  const follow = document.querySelector("button.follow");
  if (follow) follow.click();
  await pause();
  const step = document.querySelector("table.sortable th:nth-child(2) button");
  if (step) step.click();
  const rows = [...document.querySelectorAll("table.sortable tbody tr")];
  const steps = rows.map((row) => Number(row.cells[1].dataset.key));
  document.getElementById("theme").click();
  await pause();
  root.dataset.sorted = String(steps.every((v, i) => i === 0 || steps[i - 1] <= v));
  root.dataset.points = document.getElementById("chart-front").data.map((t) => t.x.length).join();
  root.dataset.wide = String(root.scrollWidth > root.clientWidth);
  root.dataset.buttons = buttons;
  root.dataset.done = "true";
})();
</script>"""


def browse(report: Path, tmp_path: Path, width: int = 1400) -> tuple[dict[str, str], str]:
    """The data-* attributes of <html> after using every control, and the DOM."""
    copy = tmp_path / "used.html"
    text = report.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", USE_EVERYTHING + "</body>"), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=20000 --dump-dom"
    )
    run = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    root = re.search(r"<html[^>]*>", run.stdout)
    assert root is not None, run.stderr[-2000:]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', root[0])), run.stdout


def test_charts_are_drawn_and_every_control_works(tmp_path: Path) -> None:
    summary = summarise(write_folder(tmp_path / "s", sweep(64)))
    state, dom = browse(summary.report, tmp_path)
    assert "error" not in state
    assert (state["charts"], state["done"], state["sorted"], state["theme"]) == ("4", "true", "true", "dark")
    points = [int(n) for n in state["points"].split(",")]
    assert points[0] + points[1] == sum(count for count, _ in summary.history[-1:])
    assert points[2] > 0  # the followed trial
    assert "Share" not in state["buttons"]  # Plotly would upload the data
    assert dom.count('class="point"') >= len(summary.front)


def test_a_phone_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    state, _ = browse(summarise(write_folder(tmp_path / "s", sweep(8))).report, tmp_path, width=500)
    assert state["wide"] == "false"


def test_webgl_with_many_evaluations(tmp_path: Path) -> None:
    state, _ = browse(summarise(write_folder(tmp_path / "s", sweep(300, prune=False))).report, tmp_path)
    assert "error" not in state
    assert (state["charts"], state["done"]) == ("4", "true")


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    state, _ = browse(summarise(hostile_folder(tmp_path / "s")).report, tmp_path)
    assert "pwned" not in state
    assert "error" not in state
    assert state["done"] == "true"


def test_a_sweep_that_only_just_began(tmp_path: Path) -> None:
    state, _ = browse(summarise(write_folder(tmp_path / "s", [baseline()])).report, tmp_path)
    assert "error" not in state
    assert state["done"] == "true"
