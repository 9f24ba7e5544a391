"""`rayul compare`: the page's numbers are the comparison's, names in it run nothing, and a browser draws it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import browse, needs_browser
from synthetic import SPEC, baseline, sweep, write_folder
from test_compare import comparison, spec
from test_report_page import HOSTILE, Page, hostile_folder

from rayul.report.compare import load_comparison
from rayul.report.compare_page import write_comparison


def folders(place: Path) -> list[Path]:
    made = [write_folder(place / f"ga-{i}", sweep(20, seed=i), spec(f"ga-{i}", i)) for i in range(3)]
    return [*made, write_folder(place / "npo", sweep(20, seed=7), spec("npo", method=("[ga, gd]", "[gd, npo]")))]


def test_the_command_prints_and_writes_without_torch_or_ray(tmp_path: Path) -> None:
    names = [str(folder) for folder in folders(tmp_path)]
    code = f"""
import sys
from rayul.cli import main
sys.argv = ["rayul", "compare", *{names!r}]
try:
    main()
finally:
    heavy = sorted({{"torch", "ray", "transformers", "peft", "optuna", "datasets"}} & set(sys.modules))
    assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "compare.html"
    c = load_comparison([Path(name) for name in names])
    page = Page(tmp_path / "compare.html")
    for entry in c.entries:
        assert f"{entry.hypervolume:.4f}" in done.stdout
        assert f"{entry.hypervolume:.4f}" in page.text
    traces = [t for t in page.data["figures"]["fronts"]["data"] if t["meta"].startswith("series-")]
    assert [len(t["x"]) for t in traces] == [len(e.front) for e in c.entries]
    assert page.count("section") == 9


def test_the_command_prints_the_paths_that_it_wrote(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    names = [str(folder) for folder in folders(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "rayul", "compare", *names, "--out", "c.html", "--figures", "pdf,svg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-5:]
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("c-figures/*")}
    assert last[0] == "c.html"
    assert (
        set(last[1:]) == found == {f"c-figures/{n}.{kind}" for n in ("fronts", "attainment") for kind in ("pdf", "svg")}
    )


def test_a_recipe_has_one_colour_everywhere_and_two_seeds_have_lines_of_their_own(tmp_path: Path) -> None:
    methods = {"gd": "gd", "npo": "npo", "kl": "kl"}
    made = [
        write_folder(
            tmp_path / f"{name}-{i}",
            sweep(12, seed=10 * n + i),
            spec(f"{name}-{i}", 1000 * i, m=("name: {choice: [ga, gd]}", f"name: {method}")),
        )
        for n, (name, method) in enumerate(methods.items())
        for i in range(3 if name == "npo" else 2)
    ]
    c = load_comparison(made)
    write_comparison(c, tmp_path / "c.html")
    page = Page(tmp_path / "c.html")
    expected = {e.label: f"series-{list(methods).index(e.label.split('-')[0])}" for e in c.entries}
    for chart in ("fronts", "volumes", "attainment"):
        looks = {t["name"]: t["meta"] for t in page.data["figures"][chart]["data"] if t["name"] in expected}
        assert looks.items() <= expected.items(), chart
        assert len(looks) == (4 if chart == "attainment" else 7)
    attained = [(t["name"], t["meta"]) for t in page.data["figures"]["attainment"]["data"]]
    assert ("median of npo", "median-1") in attained
    assert not [name for name, _ in attained if "of gd" in name or "of kl" in name]
    swatches = re.findall(
        r'var\(--(series-\d)\)" aria-hidden="true"></span>([\w-]+)<', (tmp_path / "c.html").read_text()
    )
    assert set(swatches) == {(look, label) for label, look in expected.items()}
    text = " ".join(page.text.split())
    assert "Recipes against each other, over their seeds" in text
    assert "too few seeds" in text
    assert "of gd, kl each seed has its own line" in text


def test_an_unwritable_page_is_an_error(tmp_path: Path) -> None:
    names = [str(folder) for folder in folders(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "rayul", "compare", *names, "--out", str(tmp_path / "no" / "where.html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    c = load_comparison([hostile_folder(tmp_path / "a"), hostile_folder(tmp_path / "b")])
    write_comparison(c, tmp_path / "c.html")
    page = Page(tmp_path / "c.html")
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert page.count("script") == 3
    assert HOSTILE not in (tmp_path / "c.html").read_text()


USE = """<script>
(async () => {
  const root = document.documentElement, pause = () => new Promise((done) => setTimeout(done, 30));
  const buttons = [...document.querySelectorAll("table.sortable th button")];
  for (const button of buttons) { button.click(); await pause(); }
  const column = buttons.findIndex((button) => button.textContent === "Forgotten");
  if (column >= 0) buttons[column].click();
  const rows = [...document.querySelectorAll("table.sortable tbody tr")];
  const keys = rows.map((row) => Number(row.cells[column].dataset.key));
  const ordered = (before) => keys.every((key, i) => i === 0 || before(keys[i - 1], key));
  document.getElementById("theme").click();
  await pause();
  root.dataset.sorted = String(ordered((a, b) => a <= b) || ordered((a, b) => a >= b));
  root.dataset.wide = String(root.scrollWidth > root.clientWidth);
  root.dataset.done = "true";
})();
</script>"""


def used(page: Path, tmp_path: Path, width: int = 1400) -> dict[str, str]:
    return browse(page, USE, tmp_path, width)[0]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1400])
def test_a_browser_draws_it_and_its_controls_work(width: int, tmp_path: Path) -> None:
    write_comparison(load_comparison(folders(tmp_path)), tmp_path / "c.html")
    state = used(tmp_path / "c.html", tmp_path, width)
    assert "error" not in state
    assert (state["charts"], state["done"], state["sorted"], state["wide"]) == ("3", "true", "true", "false")
    assert state["theme"] == "dark"


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_sweeps_that_only_just_began(tmp_path: Path) -> None:
    write_comparison(comparison(tmp_path, a=([baseline()], SPEC), b=([baseline()], SPEC)), tmp_path / "c.html")
    state = used(tmp_path / "c.html", tmp_path)
    assert "error" not in state
    assert state["done"] == "true"
