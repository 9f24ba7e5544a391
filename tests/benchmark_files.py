"""Small files in the formats of MUSE, WMDP and RWKU, with invented content about the testbed's authors, and the shipped
specs pointed at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

SPACES = Path(__file__).resolve().parents[1] / "search_spaces"
Rows = list[dict[str, Any]]
SUBJECT = "Stephen King"


def questions(rows: Rows, first: int, count: int) -> Rows:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows[first : first + count]]


def texts(rows: Rows, count: int) -> Rows:
    """Documents of a few rows each."""
    return [{"text": " ".join(row["answer"] + "." for row in rows[5 * i : 5 * i + 5])} for i in range(count)]


def choices(rows: Rows, first: int, count: int, **more: Any) -> Rows:
    found = []
    for i, row in enumerate(rows[first : first + count]):
        options = list(row["perturbed_answer"][:3])
        options.insert(i % 4, row["answer"])
        found.append({"question": row["question"], "choices": options, "answer": i % 4, **more})
    return found


def formats(forget: Rows, retain: Rows) -> dict[tuple[str, str, str], Rows]:
    """By (data set, configuration, split)."""
    found: dict[tuple[str, str, str], Rows] = {}
    for name in ("muse-bench/MUSE-News", "muse-bench/MUSE-Books"):
        found[name, "raw", "forget"], found[name, "raw", "retain1"] = texts(forget, 3), texts(retain, 3)
        for side, rows in (("forget", forget), ("retain", retain)):
            found[name, "knowmem", f"{side}_qa"] = questions(rows, 0, 6)
            found[name, "knowmem", f"{side}_qa_icl"] = questions(rows, 8, 2)
        found[name, "verbmem", "forget"] = [
            {"prompt": " ".join(row["answer"].split()[:4]), "gt": " " + " ".join(row["answer"].split()[4:])}
            for row in forget[:5]
        ]
        found[name, "privleak", "forget"] = texts(forget, 4)
        found[name, "privleak", "holdout"] = texts(list(reversed(retain)), 4)
    found["cais/wmdp-bio-forget-corpus", "", "train"] = texts(forget, 3)
    for kind in ("bio", "cyber"):
        found["cais/wmdp-corpora", f"{kind}-forget-corpus", "train"] = texts(forget, 3)
        found["cais/wmdp-corpora", f"{kind}-retain-corpus", "train"] = texts(retain, 3)
        found["cais/wmdp", f"wmdp-{kind}", "test"] = choices(forget, 0, 8)
    found["cais/mmlu", "all", "test"] = choices(retain, 0, 20, subject="high_school_letters")
    rwku = "jinzhuoran/RWKU"
    found[rwku, "train_positive_llama3", "train"] = [
        {"id": f"{i}", "subject": SUBJECT, "intro": "A writer."} | row for i, row in enumerate(texts(forget, 4))
    ]
    for level, kind in ((1, "cloze"), (2, "simple question")):
        for side, rows in (("forget", forget), ("neighbor", retain)):
            found[rwku, f"{side}_level{level}", "test"] = [
                {"query": q["question"], "answer": q["answer"], "level": f"{level}", "type": kind, "subject": SUBJECT}
                for q in questions(rows, 6 * level, 4)
            ]
    types = ("prefix injection", "affirmative suffix", "incontext learning", "reverse query")
    found[rwku, "forget_level3", "test"] = [
        {"query": q["question"], "answer": q["answer"], "level": "3", "type": types[i % 4], "subject": SUBJECT}
        for i, q in enumerate(questions(forget, 0, 8))
    ]
    found[rwku, "utility_general", "test"] = [
        {**row, "examples": choices(retain, 15 + i % 3, 2)}
        for i, row in enumerate(choices(retain, 0, 15, subject=SUBJECT, task="high_school_letters"))
    ]
    asked = questions(retain, 0, 6)
    thought = "".join(f"Q: {q['question']}\nA: So the answer is {q['answer']}.\n\n" for q in asked[4:])
    found[rwku, "utility_reason", "test"] = [
        {"question": q["question"], "answer": q["answer"], "cot": f"\n{thought}", "task": "letters", "subject": SUBJECT}
        for q in asked[:4]
    ]
    found[rwku, "utility_truthfulness", "test"] = [
        {
            "question": row["question"],
            "mc1_targets": {"choices": row["choices"], "labels": [int(i == row["answer"]) for i in range(4)]},
            "mc2_targets": {"choices": row["choices"], "labels": [int(i == row["answer"]) for i in range(4)]},
            "subject": SUBJECT,
        }
        for row in choices(retain, 20, 8)  # others than those of utility_general, some of which certify
    ]
    found[rwku, "utility_factuality", "test"] = [
        {"question": q["question"], "answers": ["nothing of it", q["answer"]], "subject": SUBJECT} for q in asked
    ]
    found[rwku, "utility_fluency", "test"] = [{"instruction": q["question"], "subject": SUBJECT} for q in asked[:3]]
    strangers = [{**row, "subject": "Somebody Else"} for row in found[rwku, "forget_level2", "test"]]
    found[rwku, "forget_level2", "test"] = strangers + found[rwku, "forget_level2", "test"]
    return found


def local_spec(name: str, folder: Path, testbed: Path, **sections: Any) -> dict[str, Any]:
    """The plain data of a shipped spec, its sources in files that are written to `folder`."""

    def rows(file: str) -> Rows:
        return [json.loads(line) for line in (testbed / file).read_text().splitlines()]

    known = formats(rows("forget.jsonl"), rows("general.jsonl") + rows("retain_report.jsonl"))
    plain: dict[str, Any] = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    for source in sources(plain):
        place = source["path"], source.get("name", ""), source.pop("split", "train")
        source.pop("name", None)
        file = folder / f"{'-'.join(place).replace('/', '_')}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in known[place]))
        source["path"] = str(file)
    for key, value in sections.items():
        plain[key] = plain[key] | value if isinstance(value, dict) else value
    return plain


def sources(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "path" in value and "dtype" not in value:
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from sources(child)


def walk(value: Any, change: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(value, dict):
        change(value)
        for child in value.values():
            walk(child, change)
