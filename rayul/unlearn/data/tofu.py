"""TOFU (arXiv 2401.06121): 200 fictional authors with 20 rows each, as sets."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

from rayul.spec import TofuData
from rayul.unlearn.data.files import read_rows
from rayul.unlearn.data.hub import load_dataset
from rayul.unlearn.data.row import Row, Sets, row_of

ROWS_PER_AUTHOR = 20

LOCAL_ONLY = ("holdout10",)
"""Files that the data set on the Hub does not have."""


def tofu_sets(data: TofuData) -> Sets:
    """TOFU from the Hub or from a folder of its files, cut to `authors` of its 200.

    The forget set is the last authors, as in TOFU's own splits; the first judge what is kept
    (`TofuData.judging_authors`); the authors after them, up to the total, are retain_train.
    """
    place, forget_authors = data.tofu, data.forgotten_authors
    full = _tofu_file(place, "full")
    named = [_with_author(row, i // ROWS_PER_AUTHOR) for i, row in enumerate(full)]
    # By question and answer: "What is the full name of the author?" is asked of two authors.
    perturbed = {row.key: row for row in _tofu_file(place, "retain_perturbed", optional=True)}
    # forget05_perturbed is a slice of forget10_perturbed, and so on: the largest split has them all.
    perturbed |= {row.key: row for row in _tofu_file(place, "forget10_perturbed", optional=True)}
    if not any(row.key in perturbed for row in named[len(named) - forget_authors * ROWS_PER_AUTHOR :]):
        perturbed |= {row.key: row for row in _tofu_file(place, "forget01_perturbed", optional=True)}
    ends = [ROWS_PER_AUTHOR * end for end in accumulate(data.judging_authors.values(), initial=0)]
    judging = {
        name: tuple(_merged(row, perturbed.get(row.key)) for row in named[begin:end])
        for name, (begin, end) in zip(data.judging_authors, pairwise(ends), strict=True)
    }
    facts = {
        name: tuple(_tofu_file(place, f"{name}_perturbed", optional=True)) for name in ("real_authors", "world_facts")
    }
    sets = {
        "forget": tuple(_merged(row, perturbed.get(row.key)) for row in named[-forget_authors * ROWS_PER_AUTHOR :]),
        "retain_train": tuple(named[ends[-1] : (data.authors - forget_authors) * ROWS_PER_AUTHOR]),
        **judging,
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
