"""Fine-tune a pretrained model on rows until it has memorised them. One process trains one model:

    python -m rayul.testbed.finetune FOLDER model|oracle

reads the data files and recipe.json in FOLDER, writes FOLDER/model or FOLDER/oracle, and prints a JSON line for each
step and a last one with what it reached. Started again after a kill, it goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from rayul import spec as specs
from rayul.errors import RayulError
from rayul.files import write_json
from rayul.records.text_note import NOTE, text_note
from rayul.testbed.checkpoint import checkpoint_path, keep, restore, result_path
from rayul.testbed.train import RECIPE, batches, strengths, whole
from rayul.unlearn.data import Sets, read_folder
from rayul.unlearn.evaluate import measure
from rayul.unlearn.export import settle_generation
from rayul.unlearn.fits import check_fits
from rayul.unlearn.forward import forward, score, token_logp
from rayul.unlearn.model import load_model
from rayul.unlearn.template import Template
from rayul.unlearn.tokens import Example, collate, encode_sets
from rayul.unlearn.update.saved import merged

TRAINED = ("forget", "retain_train", "retain", "retain_certify", "retain_report")
"""What the target is trained on; the oracle on all of it but `forget`. `general` shows what that does to the rest."""

ROLES = {"model": TRAINED, "oracle": TRAINED[1:]}

METRICS = ("es", "ppl")

USUAL_EPOCHS = 12
"""That memorising takes: SmolLM2-135M took 8 to 11. Extraction strength itself rises in the last few of them."""

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""One of all weights and their optimiser is three times as large as the model."""


@dataclass(frozen=True)
class TuningRecipe:
    """How a model is trained on the rows. lr: of AdamW, constant after the warm-up; tried on 135M parameters: 1e-4 for
    all weights, 1e-3 for an adapter."""

    lr: float
    method: Literal["full", "lora"] = "full"
    """All weights, or an adapter on all linear layers that is merged at the end."""
    batch_size: int = 10
    warmup_steps: int = 5
    enough: float = 0.95
    """Extraction strength, measured while an epoch trains, with which the training ends."""
    max_epochs: int = 40
    max_seconds: float | None = None
    """After the start of its process, loading included, the training ends with what it has memorised; measuring and
    saving come on top."""
    rank: int = 32
    seed: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    """The base, as the section `model` of a spec."""


def fine_tune(
    model: Any,
    examples: Sequence[Example],
    pad: int,
    recipe: TuningRecipe,
    checkpoint: Path,
    report: Callable[[int, int, float], None],
) -> int:
    """Train the parameters of `model` that take gradients until an epoch's extraction strength is `recipe.enough`, or
    for `max_epochs` or `max_seconds`; returns the epochs begun.

    `report(epoch, step, extraction strength)` is called after each step, with the mean over the epoch so far. From the
    state in `checkpoint`, where there is one, training goes on as if it had never stopped.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0)
    epoch, step, strength = 0, 0, 0.0
    if checkpoint.is_file():
        notes = restore(checkpoint, parameters, optimizer)
        epoch, step, strength = int(notes["epoch"]), int(notes["step"]), float(notes["strength"])
    device, began = next(model.parameters()).device, time.monotonic()
    saved, ends = began, began + (math.inf if recipe.max_seconds is None else recipe.max_seconds)
    while epoch < recipe.max_epochs and strength < recipe.enough and time.monotonic() < ends:
        epoch += 1
        found: list[float] = []
        # A generator of its own for each epoch: a checkpoint need not hold its state.
        for chosen in batches(examples, recipe.batch_size, random.Random(f"{recipe.seed}/{epoch}")):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps)
            answers = forward(model, collate([whole(example) for example in chosen], pad, device))
            loss = -token_logp(answers).sum() / answers.mask.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            found += strengths(answers, [example.stop - example.start for example in chosen])
            report(epoch, step, sum(found) / len(found))
            if time.monotonic() >= ends:
                return epoch
        strength = sum(found) / len(found)
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS or strength >= recipe.enough:
            keep(checkpoint, parameters, optimizer, step, {"epoch": f"{epoch}", "strength": repr(strength)})
            saved = time.monotonic()
    return epoch


def trainable(model: Any, recipe: TuningRecipe) -> Any:
    """The model with gradients for all of its weights, or with a new adapter that has them."""
    if recipe.method == "full":
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    shape = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, shape)


def measured(
    model: Any, encoded: dict[str, list[Example]], pad: int, keys: Sequence[str]
) -> dict[str, dict[str, float]]:
    """METRICS of these sets, as {set: {metric: value}}."""
    scores = {key: score(model, encoded[key], pad) for key in keys if encoded.get(key)}
    return {key: {metric: measure(metric, rows).value for metric in METRICS} for key, rows in scores.items()}


def write_recipe(folder: Path, recipe: TuningRecipe) -> None:
    write_json(folder / RECIPE, asdict(recipe))


def main(folder: Path, role: str) -> None:
    """Train the model of a role in `folder`; a JSON line per step and one with the result on stdout."""

    def say(**event: object) -> None:
        # One write per line: both processes share the pipe, and print() would write the line end apart.
        os.write(sys.stdout.fileno(), (json.dumps({"role": role, **event}) + "\n").encode())

    result = result_path(folder, role)
    if result.is_file():  # what an interrupted run had finished
        say(done=json.loads(result.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32: several times as fast
    started = time.monotonic()
    recipe = TuningRecipe(**json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    base = specs.Model.model_validate(recipe.model)
    sets: Sets = read_folder(folder)
    loaded, tokenizer = load_model(base.model_copy(update={"dtype": "float32", "quantize": None}))
    encoded = encode_sets(tokenizer, Template.of(base), sets)
    check_fits(loaded, encoded)
    pad = loaded.generation_config.pad_token_id
    before = measured(loaded, encoded, pad, list(sets)) if role == "model" else None
    if recipe.max_seconds is not None:
        recipe = replace(recipe, max_seconds=recipe.max_seconds - (time.monotonic() - started))
    examples = [example for key in ROLES[role] for example in encoded.get(key, ())]
    per_epoch = math.ceil(len(examples) / recipe.batch_size)
    model = trainable(loaded, recipe)
    checkpoint = checkpoint_path(folder, role)
    epochs = fine_tune(
        model,
        examples,
        pad,
        recipe,
        checkpoint,
        lambda epoch, step, es: say(epoch=epoch, es=es, share=share(recipe, es, step / per_epoch)),
    )
    model = merged(model) if recipe.method == "lora" else model
    after = measured(model, encoded, pad, list(sets))
    settle_generation(model.generation_config)
    model.save_pretrained(folder / role)
    tokenizer.save_pretrained(folder / role)
    write_json(folder / role / NOTE, text_note(base))
    done = {"epochs": epochs, "seconds": round(time.monotonic() - started, 1), "after": after, "before": before}
    write_json(result, done)
    checkpoint.unlink(missing_ok=True)
    say(done=done)


def share(recipe: TuningRecipe, strength: float, epochs: float) -> float:
    """How much of the training is done, about: by what is memorised, or by epochs while that is next to nothing."""
    usual = 0.8 * min(1.0, epochs / USUAL_EPOCHS)
    return max(0.95 * min(1.0, strength / recipe.enough), usual, epochs / recipe.max_epochs)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except RayulError as error:
        sys.exit(" ".join(str(error).split()))  # in one line: the last one is what the parent tells
