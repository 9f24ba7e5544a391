"""Models whose code comes with them: asked for by name, and scored like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayul.cli import app
from rayul.errors import InputError
from rayul.spec import Model
from rayul.unlearn.model import load_model

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, input_ids=None, attention_mask=None, use_cache=None, output_hidden_states=None, **rest):
        if "logits_to_keep" in rest:
            raise TypeError("forward() got an unexpected keyword argument 'logits_to_keep'")
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
"""


@pytest.fixture
def with_code(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model under a class of its own, whose forward projects every position."""
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_without_the_flag_the_hint_names_it(with_code: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_model(Model(path=str(with_code)))
    assert "model.trust_remote_code: true" in refused.value.hint
    assert "--trust-remote-code" in refused.value.hint


def test_a_forward_that_projects_every_position_scores_the_same(
    with_code: Path, tiny_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    def evaluated(model: Path, *flags: str) -> dict[str, dict[str, float]]:
        out = tmp_path / "numbers.json"
        argv = ["evaluate", str(model), "--data", str(data_folder), "--metrics", "es,prob,ppl", "--output", str(out)]
        done = CliRunner().invoke(app, [*argv, *flags], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(out.read_text())["measured"]

    assert evaluated(with_code, "--trust-remote-code") == evaluated(tiny_folder)
