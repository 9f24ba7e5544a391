"""What comes from outside and would run code or leave its folder: refused, and not executed."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rayul.errors import InputError, RayulError
from rayul.records import Evaluation, adapter_folder
from rayul.records.storage import Storage
from rayul.spec import SpecError, parse_spec
from rayul.spec.config import Model
from rayul.unlearn.data import load_sets
from rayul.unlearn.model import load_model
from rayul.unlearn.update.saved import load_adapter

ROOT = Path(__file__).parents[2]


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def plant(folder: Path, weights: str, name: str, tmp_path: Path) -> Path:
    """Weights as a pickle that holds a bomb, in place of the safetensors file; returns what it would leave."""
    state: dict[str, Any] = dict(load_file(folder / weights))
    state["bomb"] = Bomb(tmp_path / "exploded")
    with open(folder / name, "wb") as file:
        pickle.dump(state, file)
    (folder / weights).unlink()
    return tmp_path / "exploded"


def test_a_bomb_explodes_where_pickles_are_read(tmp_path: Path) -> None:
    """So that the tests below mean something."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_an_adapter_in_a_pickle_is_refused_unread(task: Any, adapter: Path, tmp_path: Path) -> None:
    mark = plant(adapter, "adapter_model.safetensors", "adapter_model.bin", tmp_path)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors") as caught:
        load_adapter(task.base, adapter)
    assert "runs code" in caught.value.hint
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        load_model(Model(path=str(adapter)))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin"])
def test_a_model_in_a_pickle_is_refused_unread(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    mark = plant(tmp_path / "model", "model.safetensors", name, tmp_path)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(Model(path=str(tmp_path / "model")))
    assert "safetensors" in str(caught.value)
    assert not mark.exists()


def test_an_adapter_whose_base_is_a_pickle_is_refused_unread(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    mark = plant(tmp_path / "base", "model.safetensors", "pytorch_model.bin", tmp_path)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_folder), str(tmp_path / "base")))
    with pytest.raises(InputError):
        load_model(Model(path=str(adapter)))
    assert not mark.exists()


def test_a_model_with_code_of_its_own_needs_trust_which_is_announced(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "modeling_own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'exploded')!r}).touch()\n")
    config = (folder / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}, "model_type": "own"'
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', own))
    with pytest.raises(InputError):
        load_model(Model(path=str(folder)))
    assert not (tmp_path / "exploded").exists()
    text = f"name: x\nmodel: {{path: {folder}, trust_remote_code: true}}\ndata: testbed\nmethod: ga\n"
    text += "training: {lr: 1e-3}\n"
    (tmp_path / "spec.yaml").write_text(text)
    command = [sys.executable, "-m", "rayul", "validate", str(tmp_path / "spec.yaml")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"code that comes with {folder} will run (trust_remote_code)" in said
    assert not (tmp_path / "exploded").exists()


def test_a_data_set_with_a_script_is_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'exploded')!r}).touch()\n")
    with open(folder / "rows.pkl", "wb") as file:
        pickle.dump(Bomb(tmp_path / "exploded"), file)
    text = f"name: x\nmodel: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}\ndata: {{forget: {folder}, retain: {folder}}}"
    with pytest.raises(InputError):
        load_sets(parse_spec(text, (), source="spec.yaml").data)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("tag", ["python/object/apply:pathlib.Path.touch", "python/object/new:pathlib.Path"])
def test_yaml_makes_no_objects(tag: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        parse_spec(f"name: !!{tag} [{tmp_path / 'exploded'}]\nmethod: ga", (), source="spec.yaml")
    assert not (tmp_path / "exploded").exists()


def test_no_source_reads_pickles_or_any_other_yaml() -> None:
    for path in (ROOT / "rayul").rglob("*.py"):
        text = path.read_text()
        for word in ("pickle.load", "torch.load", "yaml.load(", "yaml.unsafe_load", "yaml.full_load", "allow_pickle"):
            assert word not in text, f"{path}: {word}"


@pytest.mark.parametrize("name", ["../evil", "..", "/etc/evil", "a/b", "a\0b"])
def test_a_name_cannot_leave_the_folder_of_results(name: str) -> None:
    text = "model: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
    with pytest.raises(SpecError, match="name"):
        parse_spec(text + f"name: {name!r}", (), source="spec.yaml")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/b", "..", ""])
def test_a_trials_id_cannot_leave_the_folder_of_adapters(name: str, tmp_path: Path) -> None:
    with pytest.raises(RayulError, match="no trial's id"):
        adapter_folder(tmp_path, Evaluation(name, 5))


def test_the_driver_takes_adapters_by_names_of_adapters_only(tmp_path: Path) -> None:
    from rayul.sweep.driver_disk import _Server

    server = _Server(tmp_path / "results", [str(tmp_path / "model")])
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("secret")
    for name in ("../x", "0001-5-1/../../x", "x", "/etc/x"):
        with pytest.raises(ValueError, match="no adapter"):
            server.write(name, "a1", "a", 0, b"")
        with pytest.raises(ValueError, match="no adapter"):
            server.drop(name)
    with pytest.raises(ValueError, match="within"):
        server.write("0001-5-1", "a1", "../../x", 0, b"")
    with pytest.raises(ValueError, match="within"):
        server.read(str(tmp_path / "model"), "../secret", 0)
    with pytest.raises(KeyError):
        server.read(str(tmp_path), "secret", 0)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="no credentials") as caught:
        Storage("s3://AKIAPLANTED:verysecret@bucket/sweeps")
    assert "PLANTED" not in str(caught.value)
    assert "verysecret" not in str(caught.value)


def test_nothing_turns_rays_authentication_off() -> None:
    for path in [*(ROOT / "rayul").rglob("*.py"), *(ROOT / "cluster").iterdir()]:
        assert not re.search(r"^[^#\n]*(AUTH_MODE\W+|mode: *)disabled", path.read_text(), re.MULTILINE), path
