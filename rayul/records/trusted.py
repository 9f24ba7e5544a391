"""Code that a results folder carries runs only where this user trusts it, as direnv does with its files.

A spec names losses, metrics, controls, samplers and rules of one's own, and models with code of theirs
(`trust_remote_code`); the spec.yaml of a results folder carries the source texts with it. A sweep that the user starts
trusts what its spec names. Whoever runs code out of a results folder (`--resume`, export, audit) asks here first,
because somebody else may have made the folder. What is kept is the SHA-256 of each text, a file per hash.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rayul.errors import InputError
from rayul.files import whole_file
from rayul.records.evaluations import JOURNAL
from rayul.records.manifest import MANIFEST
from rayul.spec import Model, Spec, source_hash
from rayul.spec.custom import CODE
from rayul.spec.problems import show
from rayul.spec.yaml_text import read_yaml

_CONFIGS = ("config.json", "tokenizer_config.json", "adapter_config.json")
"""Files of a model that name code (auto_map), or another model."""

ADAPTER_DEPTH = 3
"""An adapter's base may be an adapter again."""


@dataclass(frozen=True)
class Code:
    """One text that would run: where it is from, and the SHA-256 of what is trusted."""

    what: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.what}, sha256 {self.sha256[:12]}"


def trusted_folder() -> Path:
    """rayul/trusted in the user's configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "rayul" / "trusted"


def code_of(spec: Spec) -> list[Code]:
    """Everything from outside of rayul that a sweep of the spec, or its export, runs."""
    own = [
        Code(f"{_shown(path)}, {len(text.splitlines())} lines", source_hash(text)) for path, text in spec.source_texts
    ]
    models = [model for model in (spec.model, spec.oracle) if model is not None and model.trust_remote_code]
    named = [Code(f"code that comes with {_shown(m.path)} (trust_remote_code)", _model_hash(m)) for m in models]
    folders = dict.fromkeys(task.include_path for task in spec.evaluate.lm_eval if task.include_path is not None)
    tasks = [Code(f"tasks in {_shown(path)} (evaluate.lm_eval)", _folder_hash(path)) for path in folders]
    return list(dict.fromkeys([*own, *named, *tasks]))


def receivers_of(spec: Spec) -> list[Code]:
    """Where a sweep of the spec sends its metrics, as far as the spec chooses that, and with them which credentials."""
    mlflow, wandb = spec.tracking.mlflow, spec.tracking.wandb
    found = []
    if mlflow is not None and mlflow.uri is not None:
        found.append(f"metrics, and your MLflow token, to {_shown(mlflow.uri)}")
    if wandb is not None and wandb.entity is not None:
        found.append(f"metrics to {_shown(wandb.entity)} at Weights & Biases")
    if spec.on_end is not None and spec.on_end.webhook is not None:
        found.append(f"how the sweep ended, and its numbers, to {_shown(spec.on_end.webhook)}")
    return [Code(what, source_hash(what)) for what in found]


def commands_of(spec: Spec) -> list[Code]:
    """What a sweep of the spec runs at its end."""
    command = None if spec.on_end is None else spec.on_end.command
    return [] if command is None else [Code(f"{_shown(shlex.join(command))} (on_end.command)", _command_hash(command))]


def trust(spec: Spec, sends: bool = False) -> None:
    """Keep the hashes of the spec's code, and with `sends` of its receivers and what runs at its end, private to this
    user. Raises OSError where they cannot be written."""
    folder = trusted_folder()
    for code in (*code_of(spec), *((*commands_of(spec), *receivers_of(spec)) if sends else ())):
        if not _is_trusted(code):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with whole_file(folder / code.sha256) as file:
                file.chmod(0o600)
                file.write_text(f"{code.what}\n", encoding="utf-8")


def check_trusted(spec: Spec, place: Path | str, *, trusted: bool, sends: bool = False) -> None:
    """Raises InputError for code in the spec that this user has not trusted, naming all of it; with `trusted`, trusts
    it instead. place: the file or folder that the spec is from. sends: whether it is for a sweep, which also sends
    metrics where the spec says, and runs and tells what it names for its end."""
    if trusted:
        with suppress(OSError):  # a home that is read-only: the next command asks again
            trust(spec, sends)
        return
    runs = [*code_of(spec), *(commands_of(spec) if sends else ())]
    unknown = [code for code in runs if not _is_trusted(code)]
    strange = [code for code in receivers_of(spec) if sends and not _is_trusted(code)]
    if strange and not unknown:
        raise InputError(
            f"{place} would send {', '.join(map(str, strange))}, and you have not trusted that",
            "repeat the command with --trust to send them there, or take tracking and on_end out of its spec.yaml",
        )
    unknown += strange
    if unknown:
        lines = "\n  ".join(map(str, unknown))
        raise InputError(
            f"{place} would run code that you have not trusted:\n  {lines}",
            f"read it first (`{CODE}` and on_end in its spec.yaml); "
            "to trust it from now on, repeat the command with --trust",
        )


def is_recorded(file: Path) -> bool:
    """Whether a spec comes from a results folder: it lies in one, or carries source texts as theirs do. Then it need
    not be the user's own."""
    if any((file.parent / name).exists() for name in (JOURNAL, MANIFEST)):
        return True
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False  # load_spec says what is wrong with it
    return _carries_code(read_yaml(text, str(file)).data)


def _carries_code(value: Any) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get(CODE), Mapping) or any(map(_carries_code, value.values()))
    return isinstance(value, list) and any(map(_carries_code, value))


def _is_trusted(code: Code) -> bool:
    """Whether the hash is kept, in a file that nobody but this user can have made."""
    try:
        status = os.lstat(trusted_folder() / code.sha256)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _shown(path: str) -> str:
    """In one line: a path with a line end in it could add lines of its own to what is named."""
    return path if path.isprintable() else show(path)


def _model_hash(model: Model) -> str:
    """Of the code of a model in a folder: its Python files, and the configurations that name what runs. Of a Hub id:
    of the id and its revision, since whoever names it trusts its owner."""
    digest = sha256()
    for part in _model_parts(model.path, ADAPTER_DEPTH):
        digest.update(len(part).to_bytes(8, "big") + part)
    digest.update(repr(model.revision).encode())
    return digest.hexdigest()


def _command_hash(command: tuple[str, ...]) -> str:
    """Of the program and its arguments, and of what those of them hold that are files, such as a script."""
    digest = sha256()
    for word in command:
        file = Path(word)
        for part in (word.encode(), file.read_bytes() if file.is_file() else b""):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _folder_hash(path: str) -> str:
    """Of all files of a folder of tasks: any of them may name, or be, code."""
    folder, digest = Path(path).expanduser(), sha256(path.encode())
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            for part in (str(file.relative_to(folder)).encode(), file.read_bytes()):
                digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _model_parts(path: str, depth: int) -> Iterator[bytes]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        yield path.encode()
        return
    for file in sorted([*folder.rglob("*.py"), *(folder / name for name in _CONFIGS)]):
        if file.is_file():
            yield str(file.relative_to(folder)).encode()
            yield file.read_bytes()
    with suppress(OSError, ValueError, TypeError, KeyError):
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        if depth and isinstance(base, str):
            yield from _model_parts(base, depth - 1)
