"""Five requests to forget, one author each and one after another, and one sweep that forgets all five at once.

    python tests/benchmarks/deletion_requests.py --work DIR [--trials 12] [--limit 85]

On the testbed. Each request is a small sweep of gd with mixing (search_spaces/gd.yaml), certified on seven authors that
nothing has read, exported, and followed by `rayul init --after`. What is in DIR already is not run again, so that the
command may be repeated. The table is es, extraction strength, of each exported model: of the authors
that were to be forgotten until then, of those still to be asked for, and of rows to keep that nothing chose by.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rayul.spec import Model, load_spec
from rayul.unlearn.data import FILES, Row, read_folder, write_rows
from rayul.unlearn.model import load_model
from rayul.unlearn.suite import evaluate_model

ROOT = Path(__file__).resolve().parents[2]
REQUESTS, LOT = 5, 7
TOGETHER = "together"


def rayul(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "rayul", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def by_author(rows: Sequence[Row]) -> list[list[Row]]:
    authors: dict[str, list[Row]] = {}
    for row in rows:
        authors.setdefault(row.group, []).append(row)
    return list(authors.values())


def flat(parts: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for part in parts for row in part]


def prepare(work: Path) -> tuple[list[list[Row]], dict[str, list[Row]]]:
    """The rows of the authors to be forgotten, and sets that every model is measured on. Writes the testbed, the data
    of the first request and of the single sweep, and a file of rows for each further request."""
    testbed = work / "testbed"
    if not testbed.is_dir():
        rayul("testbed", testbed)
    sets = read_folder(testbed)
    asked = by_author(sets["forget"])[:REQUESTS]
    unread = by_author((*sets["retain_certify"], *sets["retain_report"]))
    lots = [flat(unread[LOT * i : LOT * (i + 1)]) for i in range(REQUESTS)]
    report = flat(unread[LOT * REQUESTS :])
    for name, now in (("request-1", asked[:1]), (TOGETHER, asked)):
        data = work / f"{name}-data"
        data.mkdir(exist_ok=True)
        later = [author for author in asked if author not in now]
        rows = {"forget": flat(now), "retain_train": [*sets["retain_train"], *flat(later)], "retain": sets["retain"]}
        rows |= {"retain_certify": lots[0], "retain_report": report, "general": sets["general"]}
        for key, some in rows.items():
            write_rows(data / FILES[key], some)
        write_rows(data / "reserve.jsonl", flat(lots[1:]))
    for number, author in enumerate(asked[1:], 2):
        write_rows(work / f"new-{number}.jsonl", author)
    return asked, {"retain": report, "general": list(sets["general"])}


def sweep(work: Path, name: str, spec: Path, options: Sequence[str]) -> Path:
    """Sweep, certify and export; the exported folder."""
    out = work / f"{name}-export"
    if not out.is_dir():
        rayul("sweep", spec, "--results", work / "results", "--resume-if-any", *options)
        rayul("export", work / "results" / name, "--certified", "--merge", "--out", out)
    return out


def measured(
    model: Path, asked: Sequence[Sequence[Row]], kept: dict[str, list[Row]]
) -> tuple[list[float], list[float]]:
    """es of each author, and of the other sets."""
    loaded, tokenizer = load_model(Model(path=str(model)))

    def es(rows: Sequence[Row]) -> float:
        found = evaluate_model(loaded, tokenizer, {"forget": tuple(rows)}, metrics=["es"])
        return found.measured["forget.es"].value

    return [es(author) for author in asked], [es(rows) for rows in kept.values()]


def line(name: str, forgotten: Sequence[float], still: Sequence[float], kept: Sequence[float]) -> str:
    def mean(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.2f}" if values else ""

    each = ", ".join(f"{value:.2f}" for value in forgotten)
    return f"| {name} | {mean(forgotten)} | {each} | {mean(still)} | {kept[0]:.2f} | {kept[1]:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--limit", type=float, default=85, help="of retain.es, in percent of the baseline")
    asked_for = parser.parse_args()
    work: Path = asked_for.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    asked, kept = prepare(work)
    base = load_spec(ROOT / "search_spaces" / "gd.yaml")
    assert base.control.mixing
    common = [
        f"model={work / 'testbed' / 'model'}",
        f"search.trials={asked_for.trials}",
        f"control.criteria=[{{metric: retain.es, at_least: {asked_for.limit:g}% of baseline}}]",
        "certify.points=2",
    ]

    def first(name: str) -> list[str]:
        values = [f"name={name}", f"data={work / f'{name}-data'}", *common]
        return [part for value in values for part in ("--set", value)]

    print("| after | es, forgotten | of each author | es, still to come | es, retain-report | es, general |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    authors, others = measured(work / "testbed" / "model", asked, kept)
    print(line("nothing", [], authors, others), flush=True)
    gd = ROOT / "search_spaces" / "gd.yaml"
    export = sweep(work, "request-1", gd, first("request-1"))
    for number in range(1, REQUESTS + 1):
        if number > 1:
            spec = work / f"request-{number}.yaml"
            if not spec.exists():
                rayul("init", "--after", export, "--forget", work / f"new-{number}.jsonl", "--out", spec)
            export = sweep(work, f"request-{number}", spec, [])
        authors, others = measured(export / "merged", asked, kept)
        print(line(f"request {number}", authors[:number], authors[number:], others), flush=True)
    export = sweep(work, TOGETHER, gd, first(TOGETHER))
    authors, others = measured(export / "merged", asked, kept)
    print(line("one sweep on all five", authors, [], others), flush=True)
    authors, others = measured(work / "testbed" / "oracle", asked, kept)
    print(line("the oracle", authors, [], others), flush=True)


if __name__ == "__main__":
    main()
