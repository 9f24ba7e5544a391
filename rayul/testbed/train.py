"""Train a small Llama until it has memorised its rows. One process trains one model on one thread:

    python -m rayul.testbed.train FOLDER model|oracle

reads the data files, the tokenizer and recipe.json in FOLDER, writes FOLDER/model or FOLDER/oracle, and prints a JSON
line for each epoch and a last one with what it reached. Started again after a kill, it goes on from its last
checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayul.files import write_json
from rayul.testbed.checkpoint import checkpoint_path, keep, restore, result_path
from rayul.unlearn import metrics
from rayul.unlearn.data import Row, Sets, read_folder
from rayul.unlearn.evaluate import measure
from rayul.unlearn.forward import Answers, TokenScores, forward, score, token_logp
from rayul.unlearn.template import DEFAULT_TEMPLATE
from rayul.unlearn.tokens import Example, collate, encode, encode_rows

TRAINED = ("forget", "retain_train", "retain", "retain_certify", "retain_report", "general")
"""What the target has memorised; the oracle all of it but `forget`. Nobody trains on `holdout`."""

ROLES = {"model": TRAINED, "oracle": TRAINED[1:]}

RECIPE = "recipe.json"

SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class Recipe:
    """Shape of the model and schedule of its training (Llama, tied embeddings, fp32, AdamW)."""

    vocab_size: int = 2000
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    lr: float = 2e-3
    batch_size: int = 16
    warmup_steps: int = 30
    memorised: float = 0.9
    """Extraction strength, measured while an epoch trains, at which the learning rate starts to fall."""
    enough: float = 0.95
    """Extraction strength at the end of the fall with which the training ends. Below it the rate goes up again, and
    falls when half of what was missing is there: one-token answers reach `memorised` by guessing."""
    decay_epochs: int = 5
    max_epochs: int = 80
    seed: int = 0


def train_tokenizer(rows: Iterable[Row], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (no text is unknown to it) on every text of the rows, wrong answers included: a fact
    is then mostly one token, whose end cannot be guessed from its beginning."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [DEFAULT_TEMPLATE]
    for row in rows:
        answers = (row.answer, row.paraphrased_answer, *row.perturbed_answer)
        texts += [row.question, row.paraphrased_question, *(f" {answer}" for answer in answers)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def new_model(tokenizer: Any, recipe: Recipe) -> Any:
    """A `LlamaForCausalLM` with the weights that `recipe.seed` gives."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def memorise(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    rephrased: Sequence[Row],
    recipe: Recipe,
    checkpoint: Path,
    report: Callable[[int, float, int], None],
) -> int:
    """Train on `rows` until they are memorised or `max_epochs` have passed; returns the epochs trained.

    The learning rate is flat until an epoch's extraction strength passes `recipe.memorised`, then falls to 0 over
    `decay_epochs`; with less than `recipe.enough` memorised then, all this once more. In every epoch half of the
    `rephrased` rows are asked by their paraphrased question: that is how the model learns to answer paraphrases of the
    others. `report(epoch, extraction strength, last epoch)` is called after each, with the last one as far as it is
    known. From the state in `checkpoint`, where there is one, training goes on as if it had never stopped.
    """
    rng = random.Random(recipe.seed)
    asked = [whole(encode(tokenizer, None, row.question, row.answer)) for row in rows]
    paraphrase = {row: whole(encode(tokenizer, None, row.paraphrased_question, row.answer)) for row in rephrased}
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    steps_per_epoch = math.ceil(len(rows) / recipe.batch_size)
    epoch, step, end, falls_at = 0, 0, recipe.max_epochs, recipe.memorised
    if checkpoint.is_file():
        notes = restore(checkpoint, parameters, optimizer)
        epoch, step, end, falls_at = (json.loads(notes[key]) for key in ("epoch", "step", "end", "falls_at"))
        version, words, gauss = json.loads(notes["rng"])
        rng.setstate((version, tuple(words), gauss))
    saved = time.monotonic()
    model.train()
    while epoch < end:
        epoch += 1
        examples = [
            paraphrase[row] if row in paraphrase and rng.random() < 0.5 else example
            for row, example in zip(rows, asked, strict=True)
        ]
        found: list[float] = []
        for chosen in batches(examples, recipe.batch_size, rng):
            left = end - step / steps_per_epoch
            rate = min(1.0, (step + 1) / recipe.warmup_steps, left / recipe.decay_epochs)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate
            answers = forward(model, collate(chosen, tokenizer.pad_token_id))
            loss = -token_logp(answers).sum() / answers.mask.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            found += strengths(answers, [example.stop - example.start - 1 for example in chosen])
        strength = sum(found) / len(found)
        if epoch == end and strength < recipe.enough:
            end, falls_at = recipe.max_epochs, (falls_at + 1) / 2
        elif strength >= falls_at:
            end = min(end, epoch + recipe.decay_epochs)
        report(epoch, strength, end)
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            state = {"epoch": epoch, "end": end, "falls_at": falls_at, "rng": rng.getstate()}
            keep(checkpoint, parameters, optimizer, step, {key: json.dumps(value) for key, value in state.items()})
            saved = time.monotonic()
    return epoch


def whole(example: Example) -> Example:
    """The end token joins the answer, so that it is learned and generation stops."""
    return example._replace(stop=len(example.ids))


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Batches of examples of about one length, so that little of a step is padding; in a random order."""
    ordered = sorted(examples, key=lambda example: len(example.ids) + rng.random())
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    rng.shuffle(batches)
    return batches


def strengths(answers: Answers, lengths: Sequence[int]) -> list[float]:
    """Extraction strength per row of a training batch. lengths: tokens of each answer, without those that close it."""
    match = (answers.logits.argmax(-1) == answers.labels).cpu().numpy()
    pairs = zip(match, answers.mask.cpu().numpy(), lengths, strict=True)
    rows = [row[mask][:length] for row, mask, length in pairs]
    return [metrics.es(TokenScores(np.zeros(len(row)), row)) for row in rows]


def write_recipe(folder: Path, recipe: Recipe) -> None:
    (folder / RECIPE).write_text(json.dumps(asdict(recipe)))


def main(folder: Path, role: str) -> None:
    """Train the model of a role in `folder`; a JSON line per epoch and one with the result on stdout."""
    from transformers import AutoTokenizer

    def say(**event: object) -> None:
        # One write per line: both processes share the pipe, and print() would write the line end apart.
        os.write(sys.stdout.fileno(), (json.dumps({"role": role, **event}) + "\n").encode())

    result = result_path(folder, role)
    if result.is_file():  # what an interrupted run had finished
        say(done=json.loads(result.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    started = time.monotonic()
    recipe = Recipe(**json.loads((folder / RECIPE).read_text()))
    sets: Sets = read_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / role)
    model = new_model(tokenizer, recipe)
    rows = [row for key in ROLES[role] for row in sets.get(key, ())]
    rephrased = [row for row in sets["retain_train"] if row.paraphrased_question]
    epochs = memorise(
        model,
        tokenizer,
        rows,
        rephrased,
        recipe,
        checkpoint_path(folder, role),
        lambda epoch, es, end: say(epoch=epoch, es=es, end=end),
    )
    model.save_pretrained(folder / role)
    es = {
        key: measure("es", score(model, encode_rows(tokenizer, None, rows), tokenizer.pad_token_id)).value
        for key, rows in sets.items()
        if rows
    }
    done = {"epochs": epochs, "seconds": round(time.monotonic() - started, 1), "es": es}
    write_json(result, done)
    say(done=done)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
