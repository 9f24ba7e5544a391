"""Texts of other people: a terminal obeys none, no credential is kept, and none takes long to read."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
from synthetic import evaluation, sweep, write_folder

from rayul import cli
from rayul.console import PlainConsole
from rayul.errors import InputError, RayulError
from rayul.records import PRUNED
from rayul.spec import parse_spec
from rayul.spec.yaml_text import read_yaml
from rayul.words import printable

ATTACKS = {
    "title": "\x1b]0;owned\x07",
    "clear": "\x1b[2J\x1b[H",
    "c1": "\x9b2J",
    "return": "out of memory\rall is well",
    "backwards": "\u202egnp.exe\u2066",
    "half": "\ud800",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_a_terminal_would_obey_is_shown(attack: str) -> None:
    shown = printable(f"é {attack} 東京\n\tnext")
    assert shown.startswith("é ")
    assert shown.endswith(" 東京\n\tnext")
    assert "\\" in shown
    shown.encode()
    assert not {*attack} & {*"\x1b\x07\x9b\r\u202e\u2066\ud800"} & {*shown}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("attack", ["title", "clear", "c1", "return", "backwards"])
def test_status_and_report_of_a_received_folder_show_them(attack: str, tmp_path: Path) -> None:
    evil = ATTACKS[attack]
    failed = evaluation("0099", 5, 0.5, 0.95, params={"training.lr": 1e-3}).ended(PRUNED, f"Error{evil}", f"no {evil}")
    folder, other = (write_folder(tmp_path / name, [*sweep(8), failed]) for name in ("s", "t"))
    for command in (["status", str(folder)], ["report", str(folder)], ["compare", str(folder), str(other)]):
        flags = ["--out", str(tmp_path / "compare.html")] if command[0] == "compare" else []
        done = CliRunner().invoke(cli.app, command + flags)
        assert done.exit_code == 0, done.output
        assert not {*evil} & {*"\x1b\x07\x9b\r\u202e\u2066"} & {*done.stdout}
        if command[0] == "status":
            assert f"Error{printable(evil)}" in done.stdout


def test_errors_and_hints_show_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise RayulError("the Hub said \x1b[2J", "run \x1b]0;x\x07")

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "the Hub said \\x1b[2J\n  hint: run \\x1b]0;x\\x07\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_of_a_sweep_shows_them_and_reads_no_markup(terminal: bool) -> None:
    from rich.table import Table

    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=terminal, color_system=None, width=100)
    console.print("trial 0001 failed: \x1b[2J [red]text[/]")
    table = Table("settings")
    table.add_row("name=\x1b[2J[/]")
    console.print(table)
    assert "\x1b[2J" not in out.getvalue()
    assert "trial 0001 failed: \\x1b[2J [red]text[/]" in out.getvalue()
    assert "name=\\x1b[2J[/]" in out.getvalue()


# --- credentials -----------------------------------------------------------------------------------------------------


def spec_with(uri: str) -> Any:
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
    text += f"tracking: {{mlflow: {{uri: {uri!r}}}}}"
    return parse_spec(text, (), source="x.yaml")


@pytest.mark.parametrize(
    "uri",
    [
        "https://PLANTED@mlflow.example.org",
        "https://user:PLANTED@mlflow.example.org",
        "https://mlflow.example.org/?token=PLANTED",
        "https://mlflow.example.org/api?x=1&access_token=PLANTED",
        "https://mlflow.example.org/#api_key=PLANTED",
        "postgresql+psycopg2://user:PLANTED@db/mlflow",
        "postgresql://db/mlflow?user=x&password=PLANTED",
    ],
)
def test_an_mlflow_server_with_a_token_in_its_address_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="holds a password or token") as caught:
        spec_with(uri)
    assert "PLANTED" not in str(caught.value)
    assert "MLFLOW_TRACKING_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "sqlite:///mlflow.db", "postgresql://user@db/mlflow", "databricks://profile", "./runs"]
)
def test_other_addresses_are_taken(uri: str) -> None:
    assert spec_with(uri).tracking.mlflow.uri == uri


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[" + "1," * 400_000 + "}", "{" + "".join(f"a{i}: 1, " for i in range(60_000)) + "]", "- 1\n" * 200_000 + "- }"],
    ids=["flow list", "flow mapping", "block list"],
)
def test_a_large_text_is_refused_before_its_end_is_read(text: str) -> None:
    """The mistake that ends each text is never met: reading stops at the values that a spec may have."""
    (problem,) = read_yaml(text, "x.yaml").problems
    assert problem.text == "more than 20000 values"
