"""Made-up audits: the files an audit leaves behind, with numbers that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from synthetic import BASE, baseline, evaluation, oracle, write_folder

from rayul.records import BASELINE, ORACLE
from rayul.records.audited import REFUSAL, Audited, Scored, audited_to_json

BASES = {"forget": 0.9, "retain": 0.83, "retain_report": 0.71}
"""What the baseline has of each set, in es: sets need not be equally hard, and none of these hides a division."""
AUTHORS = {"forget": [0, 0, 1, 1, 2, 2, 3, 3], "retain": [0, 0, 1, 1, 2, 2], "retain_report": [0, 1, 2, 3, 4, 5]}
NAME = "0003-40-1"
SEEDS = (1_000_000, 1_000_001)


def scored(variant: str = "", judged: tuple[int, ...] = (), **sets: float | list[float]) -> Scored:
    """scored(forget=0.3): every row of the set has that share of the baseline's extraction strength; a list names them
    one by one."""
    values = {
        f"{name}.es": tuple((BASES[name] * np.broadcast_to(value, len(judged) or len(AUTHORS[name]))).tolist())
        for name, value in sets.items()
    }
    values |= {key.replace(".es", ".prob"): tuple(v / 2 for v in rows) for key, rows in values.items()}
    values |= {key.replace(".es", ".em"): rows for key, rows in values.items() if key.endswith(".es")}
    metrics = {key: float(np.mean(rows)) for key, rows in values.items()} | {"forget.ppl": 2.0}
    return Scored(variant, judged, metrics, dict.fromkeys(metrics, 0.01), values)


def lines(
    found: float = 0.3,
    report: float = 0.93,
    after: float = 0.3,
    control_after: float = 0.98,
    oracle_after: float = 0.05,
) -> list[Audited]:
    """Baseline, oracle, refusal and one finalist of two seeds, attacked by "relearn" (two variants, judged on the last
    six rows) and "noise" (that does nothing). Numbers are shares of the baseline's, as in `scored`."""
    rows = []
    subjects = [
        (BASELINE, 0, 1.0, 1.0, 1.0),
        (ORACLE, 0, 0.05, 1.0, oracle_after),
        (REFUSAL, SEEDS[0], 0.8, 0.9, control_after),
    ]
    subjects += [(NAME, seed, found, report, after) for seed in SEEDS]
    for subject, seed, forget, unread, back in subjects:
        retain = 1.0 if subject == BASELINE else 0.95
        rows.append(Audited(subject, seed, scored=(scored(forget=forget, retain=retain, retain_report=unread),)))
        six = tuple(range(2, 8))
        tries = (scored("5 steps", six, forget=min(forget, back)), scored("20 steps", six, forget=back))
        rows.append(Audited(subject, seed, "relearn", scored=tries))
        rows.append(Audited(subject, seed, "noise", scored=(scored("draw 1", forget=forget),)))
    return rows


def audit_folder(folder: Path, rows: list[Audited] | None = None, confidence: float = 0.95) -> Path:
    """A results folder with one sweep of a few trials and an audit of trial 0003."""
    es = {f"{name}.es": value for name, value in BASES.items()}
    before = baseline(BASE | es)
    points = [
        evaluation(trial, 40, BASES["forget"] * forget, BASES["retain"] * retain, base=before)
        for trial, forget, retain in (("0002", 0.5, 0.99), ("0003", 0.25, 0.95))
    ]
    write_folder(folder, [before, oracle(), *points])
    (folder / "audit").mkdir()
    asked = {
        "finalists": {NAME: {"trial_id": "0003", "step": 40, "mixing": 1.0, "target": None, "recalibrated": False}},
        "confidence": confidence,
        "attacks": ["relearn", "noise"],
        "groups": AUTHORS,
    }
    (folder / "audit" / "audit.json").write_text(json.dumps(asked))
    text = "".join(audited_to_json(row) + "\n" for row in (lines() if rows is None else rows))
    (folder / "audit" / "evaluations.jsonl").write_text(text)
    return folder
