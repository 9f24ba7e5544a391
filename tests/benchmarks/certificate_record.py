"""Adapters on a testbed with hundreds of authors, each scored on every author along its dial: what the benchmark of
the certificate (certificate.py) draws its select and certify sets from.

    nice python tests/benchmarks/certificate_record.py --work DIR [--trials N] [--part I/N]

Trains the model once, into DIR/testbed. Then gradient ascent and GradDiff with settings drawn at random from
search_spaces/ga.yaml, one trial after the other; a line in DIR/scored.jsonl for each adapter: forget.es and the es of
each population author at the mixing coefficients of its dial. A trial that is there is not run again, and several
processes may fill one file. The last call writes results/certificate/scored.parquet.
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
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 5
"""Rows of a population author."""

AUTHORS = 230

COEFFICIENTS = 10
"""Of a dial: half as many as rayul's own, for the time."""

STEPS = (20, 40, 60)
"""Steps of a trial at which its adapter is scored."""

SLOWEST = 5e-4
"""Draws with a lower learning rate are left out: in 60 steps they forget nothing here."""

UNMOVED = 0.95
"""Share of the baseline's forget.es above which an adapter has forgotten nothing and is left out."""

RUINED = 0.6
"""Share of the baseline's es below which the rest of a dial is not scored: no arm chooses there."""


def rows() -> dict[str, tuple[Any, ...]]:
    """forget and retain_train of the embedded testbed with 10 rows an author, general, and the population under
    `retain`: authors of other seeds, none of which shares its name with another."""
    from rayul.testbed.authors import generate

    sets = generate(0)
    chosen = {key: sets[key] for key in ("forget", "retain_train", "general")}
    known = {row.group for found in chosen.values() for row in found}
    population: dict[str, list[Any]] = {}
    seed = 0
    while len(population) < AUTHORS:
        seed += 1
        by_author: dict[str, list[Any]] = {}
        for found in generate(seed).values():
            for row in found:
                if row.group and row.group not in known:
                    by_author.setdefault(row.group, []).append(row)
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


def spec_of(testbed: Path) -> Any:
    """ga.yaml on the model of `testbed`, without limits, and evaluated at STEPS on a few rows: the dials count here."""
    from rayul.spec import load_spec

    found = load_spec(Path(__file__).parents[2] / "search_spaces" / "ga.yaml")
    changes = {
        "model": found.model.model_copy(update={"path": str(testbed)}),
        "evaluate": found.evaluate.model_copy(update={"metrics": ("es",), "max_rows": 10}),
        "training": found.training.model_copy(update={"steps": STEPS[-1], "evaluate_every": STEPS[0]}),
        "control": found.control.model_copy(update={"criteria": (), "mixing": False}),
    }
    return found.model_copy(update=changes)


def drawn(space: dict[str, Any], number: int) -> dict[str, Any]:
    """The settings of a trial, as random search draws them from ga.yaml, whose ranges are all logarithmic."""
    from rayul.spec import Choice

    rng = random.Random(number)
    return {
        key: rng.choice(values.options)
        if isinstance(values, Choice)
        else float(np.exp(rng.uniform(np.log(values.low), np.log(values.high))))
        for key, values in space.items()
    }


class Scorer:
    """forget.es, and the es of each population author [AUTHORS]."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.examples = [*task.examples["forget"], *task.examples["retain"]]
        self.forgets = len(task.examples["forget"])

    def __call__(self, model: Any) -> tuple[float, list[float]]:
        from rayul.unlearn.evaluate import per_row
        from rayul.unlearn.forward import score

        es = per_row("es", score(model, self.examples, self.task.pad, 32))
        return float(es[: self.forgets].mean()), es[self.forgets :].reshape(AUTHORS, ROWS).mean(1).round(4).tolist()


def dials(scorer: Scorer, spec: Any, number: int, baseline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train one trial; a line for each of its adapters that has forgotten something."""
    from rayul.pareto.certificate import dial
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    params = drawn(spec.space, number)
    kept = float(np.mean(baseline["authors"]))
    metrics = {"forget.es": baseline["forget"], "retain.es": kept}
    for snapshot in run_trial(scorer.task, TrialJob(f"{number:04d}", spec.at(params), number, params, metrics)):
        if snapshot.update is None or snapshot.evaluations[-1].step == 0:
            continue
        line: dict[str, Any] = {"trial": number, "step": snapshot.evaluations[-1].step, "params": params}
        line |= {"mixing": [], "forget": [], "authors": []}
        with snapshot.update.mixed(1.0):
            last = scorer(snapshot.update.model)
        if last[0] > UNMOVED * baseline["forget"]:
            continue
        for a in dial(points=COEFFICIENTS).tolist():
            with snapshot.update.mixed(a):
                forget, authors = last if a == 1 else scorer(snapshot.update.model)
            for key, value in (("mixing", a), ("forget", forget), ("authors", authors)):
                line[key].append(value)
            if np.mean(authors) < RUINED * kept:
                break
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--part", default="1/1")
    asked = parser.parse_args()
    import torch

    from rayul.unlearn.task import load_task

    torch.set_num_threads(1)
    testbed, path = asked.work / "testbed", asked.work / "scored.jsonl"
    if not testbed.exists():
        build(testbed)
    spec = spec_of(testbed)
    scorer = Scorer(load_task(spec, rows()))
    path.touch()
    forget, authors = scorer(scorer.task.base)
    baseline = {"trial": -1, "step": 0, "params": {}, "mixing": [0.0], "forget": [forget], "authors": [authors]}
    part, parts = map(int, asked.part.split("/"))
    numbers = [n for n in range(asked.trials) if drawn(spec.space, n)["training.lr"] >= SLOWEST]
    for number in numbers[part - 1 :: parts]:
        done = {json.loads(line)["trial"] for line in path.read_text().splitlines()}
        if number in done:
            continue
        began = time.process_time()
        found = list(dials(scorer, spec, number, {"forget": forget, "authors": authors}))
        append(path, [*([] if -1 in done else [baseline]), *found])
        shown = [(line["step"], len(line["mixing"]), line["forget"][-1]) for line in found]
        print(f"trial {number} {shown} {time.process_time() - began:.0f} s of CPU", flush=True)
    write(path, Path(__file__).parents[2] / "results" / "certificate" / "scored.parquet")


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def write(lines: Path, table: Path) -> None:
    """A row for each adapter and mixing coefficient, the baseline's first (trial -1)."""
    adapters = {(r["trial"], r["step"]): r for r in map(json.loads, lines.read_text().splitlines())}
    columns: dict[str, list[Any]] = {"trial": [], "step": [], "params": [], "mixing": [], "forget": [], "authors": []}
    for _, line in sorted(adapters.items()):
        for i, a in enumerate(line["mixing"]):
            row = {**line, "params": json.dumps(line["params"]), "mixing": a}
            row |= {"forget": line["forget"][i], "authors": line["authors"][i]}
            for key, values in columns.items():
                values.append(row[key])
    table.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"authors": pa.list_(pa.float32())}
    arrays = {key: pa.array(values, type=kinds.get(key)) for key, values in columns.items()}
    pq.write_table(pa.table(arrays), table, compression="zstd")


if __name__ == "__main__":
    main()
