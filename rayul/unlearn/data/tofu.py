"""TOFU (arXiv 2401.06121): 200 fictional authors with 20 rows each, as sets."""

from __future__ import annotations

from pathlib import Path

from rayul.spec import TofuData
from rayul.unlearn.data.files import read_rows
from rayul.unlearn.data.hub import load_dataset
from rayul.unlearn.data.row import Row, Sets, row_of

ROWS_PER_AUTHOR = 20
CONTROL_AUTHORS = 20
"""TOFU's `retain_perturbed` is the first 400 rows: the first 20 authors judge the retention, nobody trains on them."""

LOCAL_ONLY = ("holdout10",)
"""Files that the data set on the Hub does not have."""


def tofu_sets(data: TofuData) -> Sets:
    """TOFU from the Hub or from a folder of its files, cut to `authors` of its 200.

    The forget set is the last authors, as in TOFU's own splits; the first 20 authors are retain (10) and
    retain_report (10); the authors after them, up to the total, are retain_train.
    """
    place, forget_authors = data.tofu, data.forgotten_authors
    full = _tofu_file(place, "full")
    train_authors = data.authors - CONTROL_AUTHORS - forget_authors
    named = [_with_author(row, i // ROWS_PER_AUTHOR) for i, row in enumerate(full)]
    control = CONTROL_AUTHORS * ROWS_PER_AUTHOR
    perturbed = {row.question: row for row in _tofu_file(place, "retain_perturbed", optional=True)}
    # forget05_perturbed is a slice of forget10_perturbed, and so on: the largest split has them all.
    perturbed |= {row.question: row for row in _tofu_file(place, "forget10_perturbed", optional=True)}
    if not any(row.question in perturbed for row in named[len(named) - forget_authors * ROWS_PER_AUTHOR :]):
        perturbed |= {row.question: row for row in _tofu_file(place, "forget01_perturbed", optional=True)}
    judged = [_merged(row, perturbed.get(row.question)) for row in named[:control]]
    facts = {
        name: tuple(_tofu_file(place, f"{name}_perturbed", optional=True)) for name in ("real_authors", "world_facts")
    }
    sets = {
        "forget": tuple(
            _merged(row, perturbed.get(row.question)) for row in named[-forget_authors * ROWS_PER_AUTHOR :]
        ),
        "retain_train": tuple(named[control : control + train_authors * ROWS_PER_AUTHOR]),
        "retain": tuple(judged[: control // 2]),
        "retain_report": tuple(judged[control // 2 :]),
        "general": tuple(row for rows in facts.values() for row in rows),
        "holdout": tuple(_tofu_file(place, "holdout10", optional=True)),
    } | facts
    return {key: rows for key, rows in sets.items() if rows}


def _tofu_file(place: str, name: str, optional: bool = False) -> list[Row]:
    folder = Path(place).expanduser()
    if folder.is_dir():
        path = folder / f"{name}.json"
        if optional and not path.exists():
            return []
        return read_rows(path)
    if name in LOCAL_ONLY:
        return []
    return [row_of(r, f"{place}/{name}: row {i}", {}) for i, r in enumerate(load_dataset(place, name, "train"))]


def _with_author(row: Row, author: int) -> Row:
    return Row(row.question, row.answer, group=f"author {author:03d}")


def _merged(row: Row, other: Row | None) -> Row:
    if other is None:
        return row
    return Row(
        row.question,
        row.answer,
        other.paraphrased_question,
        other.paraphrased_answer,
        other.perturbed_answer,
        row.group,
    )
