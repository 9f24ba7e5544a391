"""What stands in several files of the project agrees: versions, Pythons, the commands that check it."""

from __future__ import annotations

import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pages import ROOT

import rayul

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CI = (ROOT / ".ci" / "run").read_text()


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rayul.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    (paper,) = citation["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    readme = (ROOT / "README.md").read_text()
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in readme
    own = citation["preferred-citation"]  # what "Cite this repository" gives
    assert own == {key: citation[key] for key in own}, "rayul itself"
    assert citation["message"].removeprefix("If you use rayul in research, please ").removesuffix(".") in readme


def test_every_python_that_is_promised_is_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["check"]["strategy"]["matrix"]["python"]
    promised = [
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert tested == promised
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in tested)
    assert any(step.get("run") == ".ci/run" for step in workflow["jobs"]["check"]["steps"])


def test_commits_are_checked_by_what_ci_runs() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for one in local["hooks"]:
        assert one["name"] in CI


def test_a_contributor_gets_every_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    (own,) = [r for r in map(Requirement, extras["dev"]) if r.name == PROJECT["name"]]
    assert own.extras == extras.keys() - {"dev"}
    assert 'pip install -e ".[test,docs]"' in CI


def test_the_image_of_the_cluster_is_built_and_run_on_a_schedule() -> None:
    import typer.main

    from rayul.cli import app

    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert "schedule" in workflow[True]  # YAML 1.1 reads the key `on` so
    job = workflow["jobs"]["image"]
    assert "schedule" in job["if"]
    build, sweep = (step["run"] for step in job["steps"] if "run" in step)
    assert build.startswith("docker build -f cluster/Dockerfile ")
    _, _, words = sweep.partition(" rayul:ci rayul ")
    name, *arguments = words.split()
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined,arg-type]
    command.make_context(name, arguments)
