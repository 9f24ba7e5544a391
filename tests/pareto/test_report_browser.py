"""report.html in a real browser: charts are drawn, every control works, nothing fails, nothing foreign runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from browser import browse, needs_browser
from synthetic import baseline, evaluation, sweep, write_folder
from test_report_page import hostile_folder

from rayul.records import FAILED, Ending, Record
from rayul.report import summarise

pytestmark = [needs_browser, pytest.mark.slow]

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
  const search = document.getElementById("search");
  if (search) {
    const type = (input, text) => { input.value = text; input.dispatchEvent(new Event("input", {bubbles: true})); };
    const visible = () => [...document.querySelectorAll("#rows tbody tr")].filter((row) => !row.hidden);
    const every = document.querySelector("input[name=listed][value=trials]");
    every.checked = true; change(every);
    root.dataset.every = String(visible().length);
    document.getElementById("filters").click();
    const heads = [...document.querySelectorAll("#rows thead tr:first-child th")].map((th) => th.textContent);
    const boxes = document.querySelectorAll("#rows .ranges td");
    const box = (name, end) => boxes[heads.indexOf(name)].querySelector(`[data-end=${end}]`);
    type(box("Forgotten", "min"), "20%"); type(box("Forgotten", "max"), "50");
    root.dataset.ranged = visible().map((row) => row.cells[0].textContent).join();
    type(search, "no such text");
    root.dataset.nothing = String(visible().length);
    document.getElementById("clear").click();
    root.dataset.cleared = String(visible().length);
    document.getElementById("filters").click();
    const own = document.querySelector("input[name=listed][value=front]");
    own.checked = true; change(own);
    type(search, document.querySelector("#rows tbody td").textContent);
    root.dataset.searched = String(visible().length);
    document.getElementById("clear").click();
  }
  const lines = document.getElementById("chart-parallel");
  if (lines && lines.data) {
    const axis = lines.data[0].dimensions.length - 2, at = lines.data[0].dimensions[axis].values;
    await Plotly.restyle(lines, {[`dimensions[${axis}].constraintrange`]: [[0.2, 0.5]]});
    root.dataset.brushed = document.getElementById("brushed").textContent;
    root.dataset.between = String(at.filter((v) => v >= 0.2 && v <= 0.5).length);
    document.getElementById("unbrush").click();
    root.dataset.lines = String(at.length);
    const setting = document.querySelectorAll("button.setting")[1];
    if (setting) {
      setting.click();
      const shown = document.getElementById("chart-slices").layout.xaxis.title.text;
      root.dataset.setting = String(shown === setting.dataset.setting);
    }
  }
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


def used(report: Path, tmp_path: Path, width: int = 1400) -> tuple[dict[str, str], str]:
    """The data-* attributes of <html> after using every control, and the DOM."""
    return browse(report, USE_EVERYTHING, tmp_path, width)


def test_charts_are_drawn_and_every_control_works(tmp_path: Path) -> None:
    summary = summarise(write_folder(tmp_path / "s", sweep(64)))
    state, dom = used(summary.report, tmp_path)
    assert "error" not in state
    assert (state["charts"], state["done"], state["sorted"], state["theme"]) == ("5", "true", "true", "dark")
    points = [int(n) for n in state["points"].split(",")]
    assert points[0] + points[1] == sum(count for count, _ in summary.history[-1:])
    assert points[2] > 0  # the followed trial
    assert "Share" not in state["buttons"]  # Plotly would upload the data
    assert dom.count('class="point"') >= len(summary.front)

    table = pq.read_table(summary.folder / "trials.parquet").to_pylist()
    assert int(state["every"]) == int(state["cleared"]) == len(table)
    gone = {row["trial_id"]: row["forgotten"] for row in table if row["forgotten"] is not None}
    between = {trial for trial, fraction in gone.items() if 0.2 <= fraction <= 0.5}
    assert between <= set(state["ranged"].split(","))
    assert not set(state["ranged"].split(",")) & (set(gone) - between)
    assert state["nothing"] == "0"
    assert int(state["searched"]) >= 1
    ended = [row for row in table if row["state"] != "failed"]
    assert int(state["lines"]) == len(ended)
    assert int(state["between"]) == len(between)
    assert state["brushed"].startswith(f"{len(between)} of {len(ended)} trials selected")
    assert state["setting"] == "true"


def test_a_phone_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    state, _ = used(summarise(write_folder(tmp_path / "s", sweep(8))).report, tmp_path, width=500)
    assert state["wide"] == "false"


def test_charts_fit_the_paper_and_come_back(tmp_path: Path) -> None:
    script = """<script>
(async () => {
  const root = document.documentElement, pause = () => new Promise((done) => setTimeout(done, 200));
  const wide = () => Math.max(...[...document.querySelectorAll(".js-plotly-plot .main-svg")].map((s) => s.clientWidth));
  document.getElementById("theme").click();
  root.dataset.screen = String(wide());
  window.dispatchEvent(new Event("beforeprint"));
  root.dataset.paper = String(wide());
  root.dataset.printed = root.dataset.theme;
  window.dispatchEvent(new Event("afterprint"));
  await pause();
  root.dataset.again = String(wide());
})();
</script>"""
    state, _ = browse(summarise(write_folder(tmp_path / "s", sweep(30))).report, script, tmp_path)
    a4 = 718  # pixels of 96 dpi between the margins that browsers leave
    assert int(state["paper"]) <= a4 < int(state["screen"]) == int(state["again"])
    assert (state["printed"], state["theme"]) == ("light", "dark")


def test_webgl_with_many_evaluations(tmp_path: Path) -> None:
    state, _ = used(summarise(write_folder(tmp_path / "s", sweep(300, prune=False))).report, tmp_path)
    assert "error" not in state
    assert (state["charts"], state["done"]) == ("5", "true")


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    state, _ = used(summarise(hostile_folder(tmp_path / "s")).report, tmp_path)
    assert "pwned" not in state
    assert "error" not in state
    assert state["done"] == "true"


@pytest.mark.parametrize(
    "rows",
    [
        sweep(1),
        [baseline(), Ending("0000", FAILED, "out of memory", "out of memory")],
        [baseline(), *(evaluation(f"{i}", 5, 0.2, 0.3, params={"training.lr": 1e-3 * (i + 1)}) for i in range(30))],
    ],
    ids=["one-trial", "one-failed", "nothing-feasible"],
)
def test_poor_sweeps_draw_what_there_is(tmp_path: Path, rows: list[Record]) -> None:
    state, _ = used(summarise(write_folder(tmp_path / "s", rows)).report, tmp_path)
    assert "error" not in state
    assert state["done"] == "true"


def test_a_sweep_that_only_just_began(tmp_path: Path) -> None:
    state, _ = used(summarise(write_folder(tmp_path / "s", [baseline()])).report, tmp_path)
    assert "error" not in state
    assert state["done"] == "true"
