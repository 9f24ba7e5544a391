"""`rayul testbed DIR --base MODEL`: a pretrained model fine-tuned on rows until it has memorised them, and an oracle
from the same base that never saw the rows to forget.

model/ oracle/                                          plain Hugging Face folders
forget.jsonl retain_train.jsonl retain_select.jsonl ...    the rows, split by group
testbed.json                                            base, recipe, versions, metrics before and after
spec.yaml                                               a sweep of the target
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayul import spec as specs
from rayul.cores import usable_cores
from rayul.errors import InputError
from rayul.testbed.authors import generate
from rayul.testbed.build import SUMMARY, check_memorised, clear
from rayul.testbed.finetune import TuningRecipe, write_recipe
from rayul.testbed.general import general_rows
from rayul.testbed.processes import Progress, train_roles
from rayul.testbed.resolve import dated
from rayul.testbed.sweep_spec import sweep_spec
from rayul.testbed.workplace import made_of, workplace
from rayul.unlearn.data import FILES, Row, Sets, write_rows
from rayul.unlearn.gguf import plain_model
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.template import Template
from rayul.unlearn.tokens import encode_sets

LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}
"""Tried on SmolLM2-135M. Larger models take smaller ones."""

ALL_AUTHORS = 84
FEWEST_AUTHORS = 12
"""Two to forget, two or more in each of the other sets, and five for the certificate."""


def invented(authors: int) -> Sets:
    """The rows of so many invented authors, in the testbed's sets and shares. Raises InputError."""
    if not FEWEST_AUTHORS <= authors <= ALL_AUTHORS:
        raise InputError(
            f"--authors {authors}: there are {FEWEST_AUTHORS} to {ALL_AUTHORS} invented authors",
            "choose a number between them, or name rows of your own with --data",
        )
    judging = {key: round(authors * 20 / ALL_AUTHORS) for key in ("retain", "retain_certify", "retain_report")}
    counts = {"forget": max(2, round(authors * 8 / ALL_AUTHORS)), "holdout": max(2, round(authors * 10 / ALL_AUTHORS))}
    counts |= {key: max(5 if key == "retain_certify" else 1, count) for key, count in judging.items()}
    if authors == FEWEST_AUTHORS:
        counts |= {"retain": 2, "retain_report": 1}
    counts["retain_train"] = authors - sum(count for key, count in counts.items() if key != "holdout")
    rows = generate(0)
    return {key: _first_groups(rows[key], counts[key]) for key in FILES if key in counts}


def _first_groups(rows: Sequence[Row], count: int) -> tuple[Row, ...]:
    groups = list(dict.fromkeys(row.group for row in rows))[:count]
    return tuple(row for row in rows if row.group in groups)


def write_testbed_on_base(
    folder: Path,
    base: specs.Model,
    sets: Sets,
    recipe: TuningRecipe,
    progress: Progress | None = None,
    memorised: float = 0.0,
) -> dict[str, Any]:
    """Fine-tune `base` into `folder`, absent or empty; returns what testbed.json says.

    Without rows in `general` those of `general_rows` are measured there; nobody trains on them. A build that was
    interrupted is gone on with by the same call. memorised: the extraction strength of the rows to forget that the
    target has to reach. Raises InputError for a folder that is not empty and for rows that do not fit into the model,
    and RayulError when a training process fails, and for a target that falls short of `memorised`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty", "name a new folder, or remove this one")
    folder = folder.absolute()
    report = progress or (lambda message, done: None)
    sets = {"general": general_rows(), **sets}
    base = dated(base, None)
    plain = plain_model(base, report)
    told = base.model_dump(mode="json", exclude_defaults=True)  # a package or a file by its name, not its folder
    encode_sets(load_tokenizer(plain), Template.of(plain), sets)  # what cannot be read is refused before it is built
    recipe = TuningRecipe(**asdict(recipe) | {"model": plain.model_dump(mode="json", exclude_defaults=True)})
    undated = {key: value for key, value in recipe.model.items() if key != "date"}
    with workplace(folder, made_of(sets, asdict(recipe) | {"model": undated})) as partial:
        for key, rows in sets.items():
            write_rows(partial / FILES[key], rows)
        write_recipe(partial, recipe)
        at_once, cores = fits_twice(plain, recipe.method), usable_cores()
        done = train_roles(
            partial,
            "rayul.testbed.finetune",
            lambda event: float(event["share"]),
            report,
            at_once=at_once,
            threads=max(1, cores // 2 if at_once else cores),
        )
        summary = {
            "rows": {key: len(rows) for key, rows in sets.items()},
            "base": told,
            "recipe": {key: value for key, value in asdict(recipe).items() if key != "model"},
            "before": done["model"]["before"],
            "memorised": {
                role: {name: one[name] for name in ("epochs", "seconds")}
                | {metric: {key: values[metric] for key, values in one["after"].items()} for metric in ("es", "ppl")}
                for role, one in done.items()
            },
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        }
        check_memorised(summary, memorised)
        (partial / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (partial / "spec.yaml").write_text(sweep_spec(folder, sets, base), encoding="utf-8")
        clear(partial)
    return summary


def fits_twice(model: specs.Model, method: str) -> bool:
    """Whether two trainings of the model fit into the memory that is free, with room to spare. False where neither
    can be known: of a model on the Hub, of a machine that does not say."""
    import torch

    folder = Path(model.path).expanduser()
    if usable_cores() < 2 or not folder.is_dir():
        return False
    saved = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return False
    free = int(available.split()[1]) * 1024
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0]
    weights = saved if config.get("dtype", "float32") == "float32" else 2 * saved
    # Weights, gradients and the two moments of AdamW, and as much as the weights for activations.
    return 2 * weights * (5 if method == "full" else 2) < 0.8 * free


def table(summary: dict[str, Any]) -> str:
    """What fine-tuning did, before and after, for the terminal."""
    memorised = summary["memorised"]
    lines = [f"{'':<22}{'base':>10}{'model':>10}{'oracle':>10}"]
    shown = [(key, "es") for key in ("forget", "retain_train", "retain", "general")] + [("general", "ppl")]
    for key, metric in shown:
        if key in summary["before"]:
            values = [summary["before"][key][metric], *(memorised[role][metric][key] for role in ("model", "oracle"))]
            name = f"{'retain-select' if key == 'retain' else key.replace('_', '-')} {metric}"
            lines.append(f"{name:<22}" + "".join(f"{value:>10.3g}" for value in values))
    return "\n".join(lines)
