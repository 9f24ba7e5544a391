"""report.html and the comparison under axe-core in chromium: no violation of WCAG level A or AA, in both themes."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest
from browser import browse, needs_browser
from synthetic import sweep, write_folder

from rayul.records.recall import Counted, Recall, Sample, write_recall
from rayul.report import summarise
from rayul.report.compare import load_comparison
from rayul.report.compare_page import write_comparison

AXE = next(
    filter(
        Path.is_file,
        [Path(os.environ.get("AXE_CORE", "/nowhere")), Path("node_modules/axe-core/axe.min.js")],
    ),
    None,
)
pytestmark = [
    needs_browser,
    pytest.mark.slow,
    pytest.mark.skipif(AXE is None, reason="no axe-core (npm install axe-core, or AXE_CORE=.../axe.min.js)"),
]

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def violations(page: Path, theme: str, tmp_path: Path) -> list[list[str]]:
    assert AXE is not None
    axe = AXE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    script = f"""<script>{axe}</script><script>setTimeout(async () => {{
      document.documentElement.dataset.theme = "{theme}";
      const found = await axe.run(document, {{ runOnly: {json.dumps(LEVELS)} }});
      const told = found.violations.map((v) => [v.id, ...v.nodes.map((n) => n.target.join(" "))]);
      document.documentElement.dataset.axe = JSON.stringify({{ told, passed: found.passes.length }});
    }}, 2000)</script>"""
    _, dom = browse(page, script, tmp_path)
    root = re.search(r'<html[^>]*data-axe="([^"]*)"', dom)
    assert root is not None, "axe has not run"
    result = json.loads(html.unescape(root[1]))
    assert result["passed"] > 10
    found: list[list[str]] = result["told"]
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_have_no_violation_of_level_a_or_aa(tmp_path: Path, theme: str) -> None:
    folders = [write_folder(tmp_path / name, sweep(24, seed=seed)) for seed, name in enumerate(("one", "two"))]
    best = summarise(folders[0]).best
    assert best is not None
    place = folders[0] / "adapters" / f"{best.trial_id}-{best.step}-{best.mixing:g}"
    place.mkdir(parents=True)
    before, after = (Counted(("Ada", "Ben"), (5, 5), (es, es), (n, n)) for es, n in ((1.0, 5), (0.4, 1)))
    write_recall(place, Recall({"forget": before}, {"forget": after}, (Sample("forget", "Ada", "Q", "A", "A", "B"),)))
    report = summarise(folders[0]).report
    assert 'id="recalled"' in report.read_text()
    assert violations(report, theme, tmp_path) == []
    write_comparison(load_comparison(folders), tmp_path / "compare.html")
    assert violations(tmp_path / "compare.html", theme, tmp_path) == []
