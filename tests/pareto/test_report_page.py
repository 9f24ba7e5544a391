"""report.html: the numbers of the records, safe against what names hold, whole in one file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy import stats
from synthetic import SPEC, baseline, ends, evaluation, oracle, sweep, write_folder

from rayul.errors import RayulError
from rayul.records import FAILED, PRUNED, Ending
from rayul.report import load_results, summarise, summary_of
from rayul.report.axes import axes
from rayul.report.listing import settings_yaml
from rayul.report.page import MAX_TABLE_ROWS

HOSTILE = "</script><script>document.documentElement.dataset.pwned=1</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


class Page(HTMLParser):
    """Elements, the text outside scripts and styles, and the embedded data of a report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: Any = None
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attrs = self._inside
        if tag == "script" and attrs.get("id") == "data":
            self.data = json.loads(data)
        elif tag not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Any]:
    folder = write_folder(tmp_path_factory.mktemp("page") / "s", sweep(64))
    summary = summarise(folder)
    return Page(summary.report), summary


def test_the_answer_stands_at_the_top_in_the_numbers_of_the_records(page: tuple[Page, Any]) -> None:
    html, summary = page
    best = summary.best
    text = re.sub(r"\s+", " ", html.text)
    assert f"{1 - best.metrics['forget.es'] / 0.98:.0%} forgotten within the limits." in text
    assert f"Trial {best.trial_id} at step {best.step}" in text
    assert "forget.es 0.080 ± 0.012" in text  # the oracle
    assert "80 forget rows, 120 retain rows and 60 general rows" in text
    assert text.index("forgotten within the limits") < text.index("Forgetting against utility")
    for fact in ("rayul sweep search_spaces/ga.yaml --trials 64", "2.60.0", "af7f511", "2 cores", "0 to 63"):
        assert fact in text
    for check in summary.checks:
        assert check.sentence in text


def test_every_evaluation_is_in_the_chart_at_its_place(page: tuple[Page, Any]) -> None:
    html, _ = page
    rows, figure = html.data["rows"], html.data["figures"]["front"]
    traces = {t["meta"]: t for t in figure["data"]}
    cloud = traces["broken"]["customdata"] + traces["kept"]["customdata"]
    assert len(cloud) == len(set(cloud)) == sum(t >= 0 for t in rows["trial"])
    for trace in figure["data"]:
        for row, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True):
            if rows["x"][row] is not None:
                assert x == pytest.approx(1 - rows["x"][row] / 0.98, abs=1e-4)
                assert y == pytest.approx(rows["y"][row] / 0.96, abs=1e-4)
    lines = [s for s in figure["layout"]["shapes"] if s["type"] == "line"]
    assert [s["y0"] for s in lines] == [pytest.approx(0.9)]
    assert (traces["baseline"]["x"], traces["baseline"]["y"]) == ([0.0], [1.0])
    front = traces["front"]
    assert front["error_x"]["array"] == pytest.approx([rows["ex"][r] / 0.98 for r in front["customdata"]], rel=1e-3)


def test_a_cross_stands_where_each_trial_was_pruned(page: tuple[Page, Any]) -> None:
    html, summary = page
    figure = html.data["figures"]["trajectories"]
    crosses = [t for t in figure["data"] if t["meta"] == "pruned-at"]
    assert [len(t["x"]) for t in crosses] == [summary.states["pruned"]] * 2
    results = load_results(summary.folder)
    pruned = [results.trials[trial][-1] for trial, end in results.endings.items() if end.state == PRUNED]
    assert crosses[0]["x"] == [e.step for e in pruned]


def test_calibration_is_drawn_for_models_evaluated_at_several_mixings(page: tuple[Page, Any], tmp_path: Path) -> None:
    assert "calibration" not in page[0].data["figures"]
    rows = [baseline(), *(evaluation("0", 5, 0.9 - a / 2, 0.96 - a / 8, mixing=a) for a in (0.75, 0.25, 0.5, 1.0))]
    html = Page(summarise(write_folder(tmp_path / "s", rows)).report)
    line, chosen = html.data["figures"]["calibration"]["data"][:2]
    assert line["x"] == [0.25, 0.5, 0.75, 1.0]
    assert line["y"] == pytest.approx([1 - (0.9 - a / 2) / 0.98 for a in line["x"]], abs=1e-4)
    assert sorted(chosen["x"]) == [0.25, 0.5, 0.75]  # at mixing 1 the limit is broken


def test_history_ends_at_the_hypervolume(page: tuple[Page, Any]) -> None:
    html, summary = page
    trace = html.data["figures"]["history"]["data"][0]
    assert trace["x"][-1] == sum(not e.is_reference for e in load_results(summary.folder).evaluations)
    assert trace["y"][-1] == pytest.approx(summary.hypervolume, abs=1e-4)


def test_pruned_and_failed_trials_are_grouped_by_rule(page: tuple[Page, Any]) -> None:
    html, summary = page
    ends = summary.report.read_text().partition('<section id="ends"')[2].partition("</section>")[0]
    assert ends.count("<details") == 2
    assert f"One of {summary.states['pruned']} with this reason" in html.text


def test_one_offline_file_under_eight_megabytes(page: tuple[Page, Any]) -> None:
    html, summary = page
    assert summary.report.stat().st_size < 8e6
    for tag, attrs in html.tags:
        for name in ("src", "href", "action"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    policy = next(attrs["content"] for tag, attrs in html.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy


def test_front_table_copies_settings_that_load_again(page: tuple[Page, Any]) -> None:
    html, summary = page
    copied = [attrs["data-yaml"] for tag, attrs in html.tags if tag == "button" and "data-yaml" in attrs]
    assert len(copied) == 1 + len(summary.front)  # the answer's, then the table's
    loaded = yaml.safe_load(copied[0] or "")
    assert loaded["training"]["lr"] == summary.best.params["training.lr"]
    assert loaded["method"]["name"] == summary.best.params["method.name"]


def test_settings_yaml_nests_and_rounds_on_demand() -> None:
    params = {"training.lr": 0.00123456, "lora.r": 8, "method.name": "ga", "method.gru": True}
    assert yaml.safe_load(settings_yaml(params)) == {
        "training": {"lr": 0.00123456},
        "lora": {"r": 8},
        "method": {"name": "ga", "gru": True},
    }
    assert yaml.safe_load(settings_yaml(params, 3))["training"]["lr"] == 0.00123


def hostile_folder(folder: Path) -> Path:
    params = {"training.lr": 1e-3, HOSTILE: HOSTILE}
    metrics = {"forget.es": 0.5, "retain.es": 0.9, HOSTILE: 0.5}
    rows = [
        replace(baseline(), metrics=baseline().metrics | {HOSTILE: 0.4}, stderr={HOSTILE: 0.1}),
        replace(oracle(), device=HOSTILE),
        *ends(evaluation("0", 5, 0.5, 0.9, params=params, metrics=metrics)),
        *ends(evaluation("1", 5, 0.9, 0.5, params=params), PRUNED, HOSTILE, HOSTILE),
        *ends(evaluation("2", 5, 0.9, 0.5, params=params), FAILED, HOSTILE, HOSTILE),
    ]
    return write_folder(folder, rows, SPEC + f"  note: {json.dumps(HOSTILE)}\n")


def test_names_from_the_records_stay_text(tmp_path: Path, page: tuple[Page, Any]) -> None:
    clean, _ = page
    html = Page(summarise(hostile_folder(tmp_path / "s")).report)
    assert html.count("script") == clean.count("script") == 3
    assert html.count("img") == 0
    assert HOSTILE in json.dumps(html.data["trials"][0], ensure_ascii=False).replace('\\"', '"')
    assert html.text.count(HOSTILE) >= 5  # heading, settings, reasons, reference metrics, provenance


def test_a_hostile_trial_id_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), evaluation(HOSTILE, 5, 0.5, 0.9)])
    with pytest.raises(RayulError, match=r"evaluations\.jsonl:2: not an evaluation: trial_id"):
        summarise(folder)


def test_ten_thousand_evaluations_are_webgl_points_not_elements(tmp_path: Path, page: tuple[Page, Any]) -> None:
    folder = write_folder(tmp_path / "s", sweep(834, fail_every=0, prune=False))
    summary = summarise(folder)
    html = Page(summary.report)
    assert len(html.data["rows"]["trial"]) > 10_000
    assert len(html.tags) < 5_000
    assert {t["type"] for t in html.data["figures"]["front"]["data"]} == {"scattergl"}
    assert {t["type"] for t in page[0].data["figures"]["front"]["data"]} == {"scatter"}
    assert summary.report.stat().st_size < 8e6


def test_a_long_front_is_cut_and_says_so(tmp_path: Path) -> None:
    count = MAX_TABLE_ROWS + 20
    rows = [baseline(), *(evaluation(f"{i}", 5, 0.2 + i / 500, 0.87 + i / 5000) for i in range(count))]
    summary = summarise(write_folder(tmp_path / "s", rows))
    assert len(summary.front) == count
    html = Page(summary.report)
    assert sum(1 for tag, attrs in html.tags if attrs.get("class") == "follow") == MAX_TABLE_ROWS
    assert "20 more rows are in pareto.parquet" in html.text


def test_axes_follow_the_objectives(tmp_path: Path) -> None:
    def metrics(objectives: str, control: str) -> list[str] | None:
        spec = SPEC.replace("{forget.es: minimize, retain.es: maximize}", objectives)
        spec = spec.replace("  - {metric: retain.es, at_least: 90% of baseline, patience: 1}", control)
        folder = write_folder(tmp_path / str(len(list(tmp_path.iterdir()))), sweep(3), spec)
        chosen = axes(load_results(folder))
        return None if chosen is None else [axis.metric for axis in chosen]

    assert metrics("{retain.es: maximize, forget.prob: minimize}", "  []") == ["forget.prob", "retain.es"]
    assert metrics("{forget.es: minimize}", "  - {metric: general.es, at_least: 0.5}") == ["forget.es", "general.es"]
    assert metrics("{forget.es: minimize}", "  []") is None


def test_the_page_and_the_summary_agree_when_nothing_is_feasible(tmp_path: Path) -> None:
    last = (evaluation(f"{i}", 5, 0.2, 0.3 + i / 10) for i in range(4))
    rows = [baseline(), *(record for e in last for record in ends(e, PRUNED, "retain.es", "low"))]
    folder = write_folder(tmp_path / "s", rows)
    summary = summarise(folder)
    html = Page(summary.report)
    nearest = summary_of(load_results(folder)).least_violating[0]
    assert f"The nearest is trial {nearest.trial_id} at step 5" in html.text
    assert "Nearest to the limits" in html.text


def test_the_rows_of_the_page_are_those_of_the_parquet_files(page: tuple[Page, Any]) -> None:
    """Embedded numbers are rounded to five significant digits; nothing else may differ."""
    html, summary = page
    rows, trials = html.data["rows"], html.data["trials"]
    table = pq.read_table(summary.folder / "evaluations.parquet").to_pylist()
    assert len(rows["step"]) == len(table)
    for i, row in enumerate(table):
        trial = rows["trial"][i]
        assert row["trial_id"] == (trials[trial]["id"] if trial >= 0 else row["trial_id"])
        assert (rows["step"][i], rows["mixing"][i]) == (row["step"], row["mixing"])
        for short, column in (("x", "forget.es"), ("y", "retain.es")):
            for name, kind in ((short, "metrics"), (f"e{short}", "stderr")):
                exact = row[f"{kind}.{column}"]
                assert rows[name][i] == (None if exact is None else pytest.approx(exact, rel=1e-4, abs=1e-12))
    by_trial = pq.read_table(summary.folder / "trials.parquet").to_pylist()
    for trial, row in zip(trials, by_trial, strict=True):
        assert (trial["id"], trial["state"]) == (row["trial_id"], row["state"])
        for param, value in zip(html.data["params"], trial["params"], strict=True):
            assert value == row[f"params.{param['name']}"]
        if row["forgotten"] is not None:
            assert trial["best"][0] == trial["outcome"][0] == pytest.approx(row["forgotten"], rel=1e-4)
            assert trial["best"][2] == row["best_step"]
        elif row["state"] == FAILED:
            assert trial["outcome"] is None
    listing = html.data["listing"]
    column = [name for name, *_ in listing["head"]].index("forget.es")
    exact = {(r["trial_id"], r["step"]): r.get("metrics.forget.es") for r in table}
    step = [name for name, *_ in listing["head"]].index("Step")
    assert [trial for trial, *_ in listing["rows"]] == [r["trial_id"] for r in by_trial]
    for trial, text, cells in listing["rows"]:
        value = exact.get((trial, cells[step][1]))  # none of a trial that failed before its first evaluation
        assert cells[column][1] == ("" if value is None else value)
        assert yaml.safe_load(text).keys() == {"method", "lora", "training"}


def test_every_setting_has_its_importance_or_the_reason_why_not(page: tuple[Page, Any], tmp_path: Path) -> None:
    html, _ = page
    named = [attrs["data-setting"] for tag, attrs in html.tags if tag == "button" and attrs.get("class") == "setting"]
    assert sorted(set(named)) == ["lora.r", "method.name", "method.retain_weight", "training.lr"]
    assert len(named) == 8
    few = Page(summarise(write_folder(tmp_path / "few", sweep(8))).report)
    assert "Too early to tell: " in few.text
    assert "method.name (8 of the 20 trials needed)" in few.text


def test_provenance_names_command_data_and_seeds(tmp_path: Path) -> None:
    digest = "ab" * 32
    spec = SPEC + f"  data: {{forget: {{rows: 80, sha256: {digest}}}}}\n"
    html = Page(summarise(write_folder(tmp_path / "s", sweep(3), spec)).report)
    assert digest in html.text
    copies = [attrs.get("data-copy") for _, attrs in html.tags]
    assert "rayul sweep search_spaces/ga.yaml --trials 64" in copies


def test_a_trial_that_failed_alone_is_said(tmp_path: Path) -> None:
    rows = [baseline(), Ending("0000", FAILED, "out of memory", "out of memory")]
    text = Page(summarise(write_folder(tmp_path / "s", rows)).report).text
    assert "Every trial failed." in text
    assert "The first: out of memory." in text


def test_settings_with_several_seeds_are_listed_by_their_lower_bound(tmp_path: Path) -> None:
    """Of three settings: one had a lucky seed, one is good with all, one was trained once."""
    kept = {"lucky": (0.1, 0.7, 0.7), "good": (0.3, 0.3, 0.32), "once": (0.2,)}  # forget.es within the limit
    rates = {"lucky": 1e-3, "good": 2e-3, "once": 4e-3}
    rows, number = [baseline()], 0
    for name, found in kept.items():
        for forget in found:
            e = evaluation(f"{number:04d}", 5, forget, 0.95, params={"training.lr": rates[name]})
            beyond = replace(e, step=10, metrics={"forget.es": 0.0, "retain.es": 0.5}, feasible=False)
            rows += [e, *ends(beyond)]
            number += 1
    page = summarise(write_folder(tmp_path / "s", rows)).report.read_text().replace("<wbr>", "")
    lines = re.findall(r"<th scope=\"row\">training\.lr (.*?)</th><td>(\d)</td><td>(.*?)</td><td>(.*?)</td>", page)
    gone = {name: [1 - forget / 0.98 for forget in found] for name, found in kept.items() if len(found) > 1}
    half = stats.t.ppf(0.9, 4) * np.sqrt(np.mean([np.var(found, ddof=1) for found in gone.values()]) / 3)
    means = {name: float(np.mean(found)) for name, found in gone.items()}
    assert lines == [
        (f"{rates[name]:.4g}", "3", f"{means[name]:.1%}", f"{means[name] - half:.1%}") for name in ("good", "lucky")
    ]
    assert "several seeds" not in Page(summarise(write_folder(tmp_path / "t", sweep(8))).report).text
