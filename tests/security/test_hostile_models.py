"""Model folders that lie: one error each, never a traceback, a pickle read, or numbers of weights drawn at random."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayul.errors import InputError
from rayul.spec.config import Model
from rayul.unlearn.model import load_model
from rayul.unlearn.update.lora import LoraUpdate, attach_lora
from rayul.unlearn.update.saved import detach_adapter, load_adapter

WEIGHTS = "model.safetensors"


def without_tensors(folder: Path) -> None:
    save_file({}, folder / WEIGHTS, metadata={"format": "pt"})


def without_a_layer(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in state.items() if "layers.1" not in k}, folder / WEIGHTS, metadata={"format": "pt"})


def lying_header(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**40) + data[8:])


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def other_shape(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def index_of_a_pickle(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "pytorch_model.bin")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def index_of_another_folder(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, f"../{WEIGHTS}")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def index_of_nothing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text("[]")


def config_of_the_wrong_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": "x"}))


def config_of_a_billion_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))


def config_that_is_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def empty_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (without_tensors, "its files lack"),
        (without_a_layer, "its files lack 9 weights"),
        (lying_header, "header"),
        (cut, "cannot be loaded"),
        (other_shape, "cannot be loaded"),
        (index_of_a_pickle, "names 'pytorch_model.bin'"),
        (index_of_another_folder, r"names '\.\./model\.safetensors'"),
        (index_of_nothing, "index.json"),
        (config_of_the_wrong_type, "num_hidden_layers"),
        (config_of_a_billion_layers, "claims 1000000000 layers, and its files have [0-9]+ weights"),
        (config_that_is_a_list, "cannot be loaded"),
        (empty_tokenizer, "the tokenizer of"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_model_that_lies_is_one_error(
    broken: Callable[[Path], None], said: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_a_pickle(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("a pickle was about to be read")

    folder = tmp_path / "outer" / "model"
    shutil.copytree(tiny_folder, folder)
    broken(folder)
    monkeypatch.setattr(torch, "load", read_a_pickle)
    with pytest.raises(InputError, match=said) as caught:
        load_model(Model(path=str(folder)))
    assert str(folder) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("damage", ["missing", "cut", "config", "pattern"])
def test_an_adapter_that_lies_is_one_error(
    damage: str, task: Any, make_spec: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    model = attach_lora(task.base, make_spec().lora, 0)
    LoraUpdate(model).save(1.0, folder)
    detach_adapter(model)
    path = folder / "adapter_model.safetensors"
    if damage == "missing":
        state = load_file(path)
        save_file({k: v for k, v in state.items() if "layers.1" not in k}, path, metadata={"format": "pt"})
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "pattern":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": "(q_proj"}))
    else:
        (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks|cannot be loaded"):
        load_adapter(task.base, folder)
