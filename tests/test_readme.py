"""The README says only what is true: its commands are understood, its spec is valid, its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from rayul.cli import app
from rayul.spec import METHODS, parse_spec

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [part.strip() for block in blocks("bash") for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r"`(rayul [a-z]+ [^`]*)`", README)
    return sorted({line for line in lines if line.startswith("rayul ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_is_understood_by_the_real_command_line(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined,arg-type]
    assert command is not None, f"no command {name}"
    command.make_context(name, arguments)


def test_the_two_lines_stand_there_as_scripts_expect_them() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert "pip install -e . && rayul sweep search_spaces/ga.yaml" in lines
    assert 'pip install -e ".[test]" && pytest' in lines


def test_the_spec_is_valid() -> None:
    (text,) = blocks("yaml")
    assert parse_spec(text, check_files=False).name == "mine"


def test_every_file_it_names_is_there() -> None:
    names = re.findall(r"`((?:rayul|search_spaces|tests|docs)/[\w./]+)`", README)
    names += re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


def test_it_counts_the_methods_right() -> None:
    assert f"each of the {len(METHODS)} methods" in re.sub(r"\s+", " ", README)
