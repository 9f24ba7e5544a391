"""`rayul evaluate`: the text that is scored is the one that was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rayul.cli import app
from rayul.errors import InputError, RayulError
from rayul.records.text_note import NOTE


@pytest.fixture
def evaluated(data_folder: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """evaluated(model, flags...) -> the values of es and prob, by key."""

    def evaluate(model: Path, *flags: str, data: Path = data_folder) -> dict[str, float]:
        out = tmp_path / "numbers.json"
        argv = ["evaluate", str(model), "--data", str(data), "--metrics", "es,prob,ppl", "--output", str(out)]
        done = CliRunner().invoke(app, [*argv, *flags], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return {key: one["value"] for key, one in json.loads(out.read_text())["measured"].items()}

    return evaluate


def test_a_new_line_as_a_shell_passes_it(evaluated: Callable[..., Any], tiny_folder: Path) -> None:
    meant = evaluated(tiny_folder)
    assert evaluated(tiny_folder, "--template", r"Question: {question}\nAnswer: {answer}") == meant
    assert evaluated(tiny_folder, "--set", r"model.template=Question: {question}\nAnswer: {answer}") == meant
    assert evaluated(tiny_folder, "--template", "Question: {question} Answer: {answer}") != meant


def test_a_folder_as_output_is_refused_before_anything_is_measured(tiny_folder: Path, tmp_path: Path) -> None:
    argv = ["evaluate", str(tiny_folder), "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)]
    with pytest.raises(InputError, match=f"cannot write {tmp_path}"):
        CliRunner().invoke(app, argv, catch_exceptions=False)


CHAT = (
    "{{ strftime_now('%d %b %Y') }} {% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_an_adapter_is_scored_with_the_text_and_on_the_day_of_its_sweep(
    evaluated: Callable[..., Any], tiny_folder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    then = evaluated(folder, "--set", "model.date=2024-07-26", "--set", "model.system=Be brief.")
    assert evaluated(folder) != then
    text = {"template": None, "system": "Be brief.", "chat_template_args": {}, "date": "2024-07-26"}
    (folder / NOTE).write_text(json.dumps({"text": text}))
    assert evaluated(folder) == then
    assert evaluated(folder, "--set", "model.date=2024-07-27") != then
    assert evaluated(folder, "--template", "{question}{answer}") != then
    (folder / NOTE).write_text("{")
    with pytest.raises(RayulError, match=r"rayul\.json cannot be read"):
        evaluated(folder)


def test_a_spec_names_the_rows_and_so_does_its_data_section_alone(
    evaluated: Callable[..., Any], tiny_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    whole, section = tmp_path / "mine.yaml", tmp_path / "data.yaml"
    whole.write_text(f"name: mine\nmodel: my-org/another\ndata: {{folder: {data_folder}}}\nmethod: ga\n")
    section.write_text(f"folder: {data_folder}\n")
    meant = evaluated(tiny_folder)
    assert evaluated(tiny_folder, data=whole) == meant
    assert evaluated(tiny_folder, data=section) == meant
    section.write_text("[1")
    with pytest.raises(InputError, match=r"data\.yaml is no spec"):
        evaluated(tiny_folder, data=section)
