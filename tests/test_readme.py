"""The README and the pages of the documentation say only what is true: their code runs, their specs are valid, their
files are there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from columns import explained, written
from pages import ROOT, Code, code, run

from rayul.cli import app
from rayul.report.settings import settings_of
from rayul.spec import METHODS, load_spec, parse_spec

sys.path.insert(0, str(Path(__file__).parent / "pareto"))
from synthetic import sweep, write_folder

PAGE = re.sub(r"\s+", " ", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"))
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))

README = (ROOT / "README.md").read_text(encoding="utf-8")

PAGES = ("README.md", "docs/start.md", "docs/report.md", "docs/results.md", "docs/api.md")
"""Run one after the other, in one folder. (The tutorial has a folder of its own, and the pages on metrics and methods
a test of their own, as has cluster/.)"""

EVERY_PAGE = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "cluster/*.md", "results/*.md", "results/*/*.md")
    for page in ROOT.glob(pattern)
    if not (page.parent / "spec.yaml").exists()  # what a sweep of this checkout left behind
)

NOT_RUN = {
    "pip install -e .": "the package that is tested is installed",
    'pip install -e ".[test]"': "so are its tests",
    "pytest": "this is it",
    "rayul sweep ga": "the sweep above by its name; spec/test_shipped_by_name.py reads the same spec from it",
    "rayul watch results/ga": "serves until it is stopped; security/test_watch.py asks it",
    "optuna-dashboard results/ga/study.journal": "serves until it is stopped; sweep/test_real_sweep.py asks it",
    "tensorboard --logdir results/ga/tensorboard": "serves until it is stopped; sweep/test_tracking.py reads the files",
}
"""Commands of the pages that no test runs, and why."""

SHELL = ("bash", "inline")
FEWER = "--trials 8 --set training.steps=30"
FLAGS = {
    "rayul sweep search_spaces/ga.yaml": FEWER,
    "rayul sweep search_spaces/ga.yaml --resume": FEWER,
    "rayul sweep mine.yaml": FEWER + " --set 'training.lr={float: [1e-4, 2e-3], log: true}'",  # the testbed's is small
    "rayul audit results/ga --n 2 --seeds 3": "--n 1 --seeds 1 --attacks quantise --metrics es",
}
"""What is added to a command so that it takes a minute."""


def commands(*pages: str) -> list[str]:
    found = [c for page in pages or PAGES for block in code(page) if block.language in SHELL for c in block.commands]
    return list(dict.fromkeys(found))


def blocks(language: str, page: str = "README.md") -> list[str]:
    return [block.text for block in code(page) if block.language == language]


@pytest.mark.parametrize(
    "line", [line for line in commands(*PAGES, "docs/tutorial.md", "docs/spec.md") if line.startswith("rayul ")]
)
def test_every_command_is_understood_by_the_real_command_line(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined,arg-type]
    assert command is not None, f"no command {name}"
    command.make_context(name, arguments)


def test_every_command_is_run_or_has_a_reason() -> None:
    foreign = [line for line in commands() if not line.startswith("rayul ")]
    assert set(foreign) <= set(NOT_RUN)
    assert set(NOT_RUN) <= set(commands()), "a reason for a command that is gone"
    assert set(FLAGS) <= set(commands())
    for page in PAGES:
        assert {block.language for block in code(page)} <= {"bash", "inline", "python", "yaml", "text", ""}


def test_the_two_lines_stand_there_as_scripts_expect_them() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert "pip install -e . && rayul sweep search_spaces/ga.yaml" in lines
    assert 'pip install -e ".[test]" && pytest' in lines


@pytest.mark.parametrize(("page", "name"), [("README.md", "mine"), ("docs/start.md", "example")])
def test_the_spec_is_valid(page: str, name: str) -> None:
    (text,) = (block for block in blocks("yaml", page) if block.startswith("name:"))
    assert parse_spec(text, check_files=False).name == name


@pytest.mark.parametrize(
    "section",
    [
        key
        for page in PAGES
        for key in re.findall(r"`(\w+: [\[{][^`]*[\]}])`", (ROOT / page).read_text(encoding="utf-8"))
        if not key.startswith(("results", "method: {name: ./"))
    ],
)
def test_every_key_it_mentions_is_one(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_metric.py").write_text("def fn(scores): ...\nfn.better = 'higher'")
    Path("my_rule.py").write_text("def fn(trial, others, baseline): ...")
    Path("my_control.py").write_text("def fn(answers): ...")
    Path("my_sampler.py").write_text("def fn(seed, startup_trials): ...")
    own = "" if section.startswith("evaluate") else "evaluate: {metrics: [es, prob, ./my_metric.py:fn]}\n"
    criteria = "[{metric: retain.es, at_least: 0.9}]"
    text = f"name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {{lr: {{float: [1e-4, 1e-3]}}}}\n{own}"
    spec = parse_spec(f"{text}{section}\n" + ("" if section.startswith("control") else f"control: {criteria}\n"))
    assert section.split(":")[0] in spec.resolved()


def test_methods_are_compared_by_specs_that_differ_in_the_method_alone(tmp_path: Path) -> None:
    """The loop of the pages, as a shell runs it, with a `rayul` that prints what it is asked."""
    loops = [
        block.text
        for page in ("docs/report.md", "docs/examples.md")
        for block in code(page)
        if "for method" in block.text
    ]
    assert len(loops) == 2
    assert loops[0] == loops[1]
    said = subprocess.run(
        ["bash", "-euc", f"rayul() {{ printf '%s\\n' \"$*\"; }}\n{loops[0]}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    check, *sweeps, compare = map(str.split, said.splitlines())
    assert (check[0], compare[0]) == ("validate", "compare")
    alike, searched, seeds = set(), {}, set()
    for words in sweeps:
        spec = load_spec(words[1], [value for flag, value in pairwise(words) if flag == "--set"])
        method = spec.method.names[0]
        settings = settings_of(spec)
        searched[method] = {key: value for key, value in settings.items() if key.startswith("method.")}
        alike.add(tuple((k, v) for k, v in settings.items() if not k.startswith("method.") and k != "search.seed"))
        seeds.add((method, spec.search.seed))
        assert words[words.index("--name") + 1] == f"{method}-{spec.search.seed}"
        assert spec.search.trials > spec.search.startup_trials, "its sampler has a say"
    assert len(alike) == 1
    assert len(seeds) == 5 * len(searched) == len(sweeps)
    assert len({settings["method.beta"] for settings in searched.values() if "method.beta" in settings}) == 2
    assert [word for word in check[1:] if word not in searched] == []
    apart = sorted({seed for _, seed in seeds})
    assert min(after - before for before, after in pairwise(apart)) > max(load_spec(m).search.trials for m in searched)


def test_the_specs_that_it_calls_alike_are_those_that_differ_in_the_method_alone() -> None:
    (named,) = re.findall(r"These specs differ in nothing but their section `method`, and so do (.*?)\.", PAGE)
    specs = {path.stem: settings_of(load_spec(path.stem, check_files=False)) for path in SHIPPED}

    def rest(name: str) -> dict[str, str]:
        return {k: v for k, v in specs[name].items() if not k.startswith("method.")}

    alike = {name for name in specs if rest(name) == rest("npo")}
    assert alike == {"gd", "npo", "undial", *re.findall(r"`(\w+)`", named)}


def test_the_table_that_an_example_reads_has_its_columns(tmp_path: Path) -> None:
    (example,) = (text for text in blocks("python", "docs/examples.md") if "load_results" in text)
    write_folder(tmp_path / "results" / "ga", sweep(20))
    said = run(example, tmp_path, "python")
    assert "metrics.forget.es" in said
    assert len(said.splitlines()) > 2


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_file_it_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [
        name
        for name in re.findall(r"`((?:rayul|search_spaces|tests|docs|cluster)/[\w./]+)`", text)
        if not (ROOT / name).exists()
    ]
    missing += [
        name for name in re.findall(r"\]\(((?!http)[^)#]+)", text) if not ((ROOT / page).parent / name).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_to_headings_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(((?!http)[^)#]*)#([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        text = ((ROOT / page).parent / target if target else ROOT / page).read_text(encoding="utf-8")
        headings = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)]
        assert anchor in headings, f"{target}#{anchor}"


def test_its_pictures_show_where_only_the_readme_is() -> None:
    """On a package index, which has no other file of the repository."""
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    base = "https://raw.githubusercontent.com/rayul/rayul/main/"
    assert pictures
    for picture in pictures:
        assert picture.startswith(base)
        assert (ROOT / picture.removeprefix(base)).is_file()


def test_its_links_work_where_only_the_readme_is() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert [link for link in links if not link.startswith("https://")] == []
    here = [link for link in links if link.startswith("https://github.com/rayul/rayul/")]
    assert here
    for link in here:
        kind, path = re.fullmatch(r".*?/(blob|tree)/main/([^#]+)(?:#.*)?", link).groups()  # type: ignore[union-attr]
        assert (ROOT / path).is_dir() if kind == "tree" else (ROOT / path).is_file(), link


def test_it_counts_the_methods_right() -> None:
    text = re.sub(r"\s+", " ", README)
    assert f"each of the {len(METHODS)} methods" in text
    assert f"any of {len(METHODS)} published" in text
    assert set(re.findall(r"(\d+) methods", text)) == {str(len(METHODS))}


def test_specs_are_checked_and_begun_as_it_says(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """The commands that cost nothing."""
    _own_rows(tmp_path, data_folder)
    (check,) = (line for line in commands() if line.startswith("rayul validate"))
    (begin,) = (line for line in commands("README.md") if line.startswith("rayul init --forget"))
    assert run(check, tmp_path).count(": ok (") == 2
    run(begin.replace("my-org/my-model", str(tiny_folder)), tmp_path)
    run("rayul validate mine.yaml", tmp_path)


def test_the_tables_open_with_pandas_and_duckdb(tmp_path: Path) -> None:
    """On the committed tables of a real sweep."""
    pytest.importorskip("duckdb")
    shutil.copytree(ROOT / "results" / "testbed", tmp_path / "results" / "ga")
    points = len((ROOT / "results" / "testbed" / "pareto.csv").read_text().splitlines()) - 1
    (tables,) = (text for text in blocks("python", "docs/results.md") if "duckdb" in text)
    last = tables.splitlines()[-1]
    run(f"{tables}\nassert len({last}.fetchall()) == {points} > 0", tmp_path, "python")


def test_the_columns_of_the_tables_are_explained(tmp_path: Path) -> None:
    """The other way round, and of a sweep that has them all: sweep/test_real_sweep.py."""
    folder = write_folder(tmp_path / "ga", sweep(20))
    run("rayul report ga", tmp_path)
    columns = written(folder)
    assert all(columns.values())
    assert [(name, found - explained()[name]) for name, found in columns.items() if found - explained()[name]] == []


@pytest.mark.slow
def test_the_pages_from_top_to_bottom(tmp_path: Path) -> None:
    """Every command and every snippet, in their order, in one folder; sweeps with fewer and shorter trials."""
    pytest.importorskip("duckdb")
    from rayul.testbed import ensure_testbed

    testbed = ensure_testbed()
    _own_rows(tmp_path, testbed)
    seen = set()
    for block in (block for page in PAGES for block in code(page)):
        if block.language == "python":
            run(block.text, tmp_path, "python")
        for line in block.commands if block.language in SHELL else ():
            if line in NOT_RUN or line in seen:
                continue
            seen.add(line)
            if line.startswith("rayul compare"):
                run(f"rayul sweep search_spaces/gd.yaml {FEWER}", tmp_path)
            said = run(f"{line.replace('my-org/my-model', str(testbed / 'model'))} {FLAGS.get(line, '')}", tmp_path)
            if line.startswith("rayul sweep"):
                assert (tmp_path / said.splitlines()[-1]).name == "report.html"
    pdfs = list((tmp_path / "results/ga/figures").glob("*.pdf"))
    assert pdfs
    assert {"model", "oracle"} <= {path.name for path in (tmp_path / "bench").iterdir()}


@pytest.mark.slow
def test_the_tutorial_from_top_to_bottom(tmp_path: Path) -> None:
    """As it stands; what it prints is on the page."""
    said: list[str] = []
    for block in code("docs/tutorial.md"):
        if block.text.startswith("# staff.py"):
            (tmp_path / "staff.py").write_text(block.text, encoding="utf-8")
        elif block.language in ("bash", "python"):
            said.append(run(block.text, tmp_path, block.language))
    shown = [block.text for block in code("docs/tutorial.md") if block.language in ("text", "json")]
    assert shown[0] in said[0], "the rows are the same everywhere"
    assert (tmp_path / "results" / "staff-no-mixing" / "report.html").exists()
    numbers = json.loads((tmp_path / "forgotten" / "evaluation.json").read_text())["metrics"]
    assert numbers["forget.prob"] < 0.5 < numbers["retain.prob"]


def _own_rows(place: Path, data: Path) -> None:
    """forget.jsonl, retain.jsonl and the shipped specs, as in a checkout."""
    shutil.copyfile(data / "forget.jsonl", place / "forget.jsonl")
    (place / "retain.jsonl").write_text("".join(path.read_text() for path in sorted(data.glob("retain_*.jsonl"))))
    (place / "search_spaces").symlink_to(ROOT / "search_spaces")


def test_the_tutorial_has_nothing_that_its_test_leaves_out() -> None:
    assert {block.language for block in code("docs/tutorial.md")} <= {"bash", "inline", "python", "text", "json"}
    assert all(isinstance(block, Code) for block in code("docs/tutorial.md"))
