"""A folder with a PEFT adapter stands for a model: its base with the adapter merged, with the base's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayul.spec import SpecError, load_spec, parse_spec


@pytest.fixture
def adapter(task: Any, make_spec: Callable[..., Any], tmp_path: Path) -> tuple[Path, Any]:
    """Its folder without a tokenizer, as a sweep leaves it, and the model it makes of the base."""
    from rayul.unlearn.update.lora import LoraUpdate, attach_lora

    model = attach_lora(task.base, make_spec().lora, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    LoraUpdate(model).save(0.5, tmp_path / "adapter")
    return tmp_path / "adapter", model


def test_it_is_loaded_with_its_base_and_scores_as_the_adapter_does(
    adapter: tuple[Path, Any], task: Any, make_spec: Callable[..., Any]
) -> None:
    from rayul.unlearn.forward import score
    from rayul.unlearn.model import load_model
    from rayul.unlearn.update.lora import LoraUpdate

    folder, model = adapter
    with LoraUpdate(model).mixed(0.5):
        expected = score(model, task.examples["forget"], task.pad)
    loaded, tokenizer = load_model(make_spec(model=str(folder)).model)
    assert not hasattr(loaded, "peft_config") or not any("lora" in name for name, _ in loaded.named_parameters())
    assert tokenizer("a b").input_ids == task.tokenizer("a b").input_ids
    for ours, theirs in zip(score(loaded, task.examples["forget"], task.pad), expected, strict=True):
        assert ours.logp == pytest.approx(theirs.logp, abs=1e-4)


def test_a_spec_may_name_it(adapter: tuple[Path, Any], tmp_path: Path) -> None:
    text = f"name: x\nmodel: {adapter[0]}\ndata: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}\n"
    (tmp_path / "x.yaml").write_text(text)
    assert load_spec(tmp_path / "x.yaml").model.path == str(adapter[0])
    (adapter[0] / "adapter_config.json").unlink()
    with pytest.raises(SpecError, match=r"is not a model: it has no config\.json"):
        parse_spec(text)
