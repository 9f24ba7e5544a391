"""Exports of models whose files say how to generate, and to places that cannot be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayul.errors import RayulError
from rayul.sweep.export import refuse_existing
from rayul.unlearn.export import write_merged
from rayul.unlearn.model import load_model
from rayul.unlearn.update.lora import attach_lora
from rayul.unlearn.update.saved import detach_adapter

GENERATION = {
    "several end tokens": {"eos_token_id": [1, 5, 7]},
    "sampling settings beside greedy": {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
    "sampling": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 5]},
    "min_p beside greedy": {"do_sample": False, "min_p": 0.1, "typical_p": 0.9, "eos_token_id": [1]},
}


@pytest.mark.parametrize("kind", GENERATION)
def test_a_merged_model_keeps_its_end_tokens_and_loads_again(
    kind: str, tiny_folder: Path, tmp_path: Path, make_spec: Callable[..., Any]
) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_folder, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"pad_token_id": 0, "eos_token_id": 1} | GENERATION[kind])
    )
    asked = make_spec().model.model_copy(update={"path": str(folder)})
    base, tokenizer = load_model(asked)
    model = attach_lora(base, make_spec().lora, seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    ids = torch.arange(8).view(1, 8)
    wanted = model(input_ids=ids).logits
    model.save_pretrained(tmp_path / "adapter")
    detach_adapter(model)
    write_merged(asked, tmp_path / "adapter", tmp_path / "merged", tokenizer)
    merged, _ = load_model(asked.model_copy(update={"path": str(tmp_path / "merged")}))
    assert torch.allclose(merged(input_ids=ids).logits, wanted, atol=1e-5)
    ends = GENERATION[kind].get("eos_token_id", 1)
    assert merged.generation_config.eos_token_id == ends
    assert bool(merged.generation_config.do_sample) is GENERATION[kind].get("do_sample", False)


@pytest.mark.parametrize("place", ["/proc/nowhere/out", "/dev/null/out"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(place: str) -> None:
    with pytest.raises(RayulError, match="cannot write") as refused:
        refuse_existing(Path(place))
    assert "--out" in refused.value.hint
