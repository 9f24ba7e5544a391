"""The hooks that make a site of the documentation: links, tables of keys, docstrings."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import ROOT

from rayul.spec import Training

pytest.importorskip("mkdocstrings", reason='the site needs the extra "docs"')

import griffe
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files, get_files
from mkdocs.structure.pages import Page


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site() -> tuple[MkDocsConfig, Files]:
    config = load_config(str(ROOT / "mkdocs.yml"), plugins=[])
    return config, config.plugins.on_files(get_files(config), config=config)


def rewritten(site: tuple[MkDocsConfig, Files], text: str, page: str = "start.md") -> str:
    config, files = site
    file = files.get_file_from_path(page)
    assert file is not None
    return str(config.plugins.on_page_markdown(text, page=Page(None, file, config), config=config, files=files))


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("start.md", "tutorial.md", "tutorial.md"),
        ("start.md", "report.md#comparing-sweeps", "report.md#comparing-sweeps"),
        ("start.md", "../README.md", "index.md"),
        ("start.md", "../cluster/README.md", "clusters.md"),
        ("start.md", "../rayul/words.py", "https://github.com/rayul/rayul/blob/main/rayul/words.py"),
        ("start.md", "../search_spaces", "https://github.com/rayul/rayul/tree/main/search_spaces"),
        ("clusters.md", "slurm.sbatch", "https://github.com/rayul/rayul/blob/main/cluster/slurm.sbatch"),
        ("index.md", "docs/report.png", "report.png"),
        ("index.md", "https://github.com/rayul/rayul/blob/main/docs/start.md#gpus", "start.md#gpus"),
        ("index.md", "https://github.com/rayul/rayul/blob/main/cluster/README.md", "clusters.md"),
        (
            "index.md",
            "https://github.com/rayul/rayul/tree/main/search_spaces",
            "https://github.com/rayul/rayul/tree/main/search_spaces",
        ),
        ("index.md", "https://raw.githubusercontent.com/rayul/rayul/main/docs/report.png", "report.png"),
        ("start.md", "https://optuna.org", "https://optuna.org"),
        ("start.md", "#gpus", "#gpus"),
    ],
)
def test_links_of_the_repository_work_on_the_site(site: Any, page: str, link: str, on_the_site: str) -> None:
    assert rewritten(site, f"See [`x`]({link}).", page) == f"See [`x`]({on_the_site})."


def test_code_keeps_its_brackets(site: Any) -> None:
    text = "`f[0](x)`\n```python\nf[0](x)\n```\n"
    assert rewritten(site, text) == text


def test_a_link_to_nothing_stops_the_build(site: Any) -> None:
    with pytest.raises(PluginError, match=r"start\.md: \.\./gone\.md: no such file"):
        rewritten(site, "[gone](../gone.md)")


def test_a_table_of_keys_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "spec.md").read_text()
    table = hook("keys").on_page_markdown(page[page.index("\n::: keys Training\n") :])
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    own = {row[0].strip("| `"): row[1:] for row in rows[: len(Training.model_fields)]}
    assert own.keys() == Training.model_fields.keys()
    assert own["lr"][0] == "required"
    assert json.loads(own["steps"][0].strip("`")) == Training.model_fields["steps"].default
    assert all(meaning.strip(" |") for _, meaning in own.values())


def test_a_key_that_nothing_explains_stops_the_build() -> None:
    with pytest.raises(PluginError, match=r"rayul\.spec\.config\.Training\.lr has no docstring"):
        hook("keys").on_page_markdown("::: keys Training\n")


def test_docstrings_become_markdown(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        'def f(a, b, c):\n    """Sum.\n\n    a, b: at least `x * y`. c: from <low> * 2; on\n    two lines. Raises '
        'ValueError: late."""\n'
    )
    extensions = griffe.load_extensions(hook("docstrings").NamedLines)
    function = griffe.load("one", search_paths=[tmp_path], extensions=extensions)["f"]
    assert function.docstring.value == (
        "Sum.\n\n- **a, b**: at least `x * y`.\n- **c**: from \\<low> \\* 2; on\ntwo lines.\n\nRaises ValueError: late."
    )
