"""Adapters on a testbed with hundreds of authors, each scored on every author along its dial: what the benchmark of
the certificate (certificate.py) draws its select and certify sets from.

    nice python tests/benchmarks/certificate_record.py --work DIR [--adapters N] [--part I/N]

Trains the model once, into DIR/testbed. Then gradient ascent and GradDiff with settings drawn at random from
search_spaces/ga.yaml, one trial after the other; a line in DIR/scored.jsonl for each adapter: forget.es and the es of
each population author at every mixing coefficient of its dial. A line that is there is not computed again, and several
processes may fill one file.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 5
"""Rows of a population author."""

AUTHORS = 230

STEPS = (15, 30, 45, 60)
"""Steps of a trial at which its adapter is scored."""

RUINED = 0.5
"""Share of the baseline's es below which the rest of a dial is not scored: no arm chooses there."""


def rows() -> dict[str, tuple[Any, ...]]:
    """forget and retain_train of the embedded testbed with 10 rows an author, general, and the population under
    `retain`: authors of other seeds, none of which shares its name with another."""
    from rayul.testbed.authors import generate

    sets = generate(0)
    chosen = {key: sets[key] for key in ("forget", "retain_train", "general")}
    known = {row.author for found in chosen.values() for row in found}
    population: dict[str, list[Any]] = {}
    seed = 0
    while len(population) < AUTHORS:
        seed += 1
        by_author: dict[str, list[Any]] = {}
        for found in generate(seed).values():
            for row in found:
                if row.author and row.author not in known:
                    by_author.setdefault(row.author, []).append(row)
        for author, own in by_author.items():
            if len(own) >= ROWS and len(population) < AUTHORS:
                population.setdefault(author, own[:ROWS])
    return chosen | {"retain": tuple(row for own in population.values() for row in own)}


def build(folder: Path) -> None:
    """Train the model that has memorised all of `rows`."""
    from rayul.testbed.train import Recipe, memorise, new_model, train_tokenizer

    found = rows()
    recipe = Recipe()
    tokenizer = train_tokenizer((row for part in found.values() for row in part), recipe.vocab_size)
    model = new_model(tokenizer, recipe)
    trained = [row for part in found.values() for row in part]
    rephrased = [row for row in found["retain_train"] if row.paraphrased_question]

    def report(epoch: int, es: float) -> None:
        print(f"epoch {epoch} es {es:.3f} {time.process_time():.0f} s", flush=True)

    memorise(model, tokenizer, trained, rephrased, recipe, report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
