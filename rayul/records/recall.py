"""What a saved model still recalls, by group: recall.json beside its weights, read by the report and the model card.

It is written where the model was loaded again and measured. It may hold rows (`samples`), so no export copies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Strict, TypeAdapter
from pydantic_core import from_json

from rayul.errors import RayulError
from rayul.files import write_json
from rayul.records.certificate import CERTIFIED, Dial
from rayul.records.evaluations import ADAPTERS, Evaluation, adapter_name
from rayul.records.json_lines import REPAIR
from rayul.records.schema import Count, Share, why

RECALL = "recall.json"

Text = Annotated[str, Strict()]


@dataclass(frozen=True)
class Counted:
    """The rows of one set, by group, of one model; columns of one length.

    groups: names, "" for all rows that name none. rows: how many. es: their mean extraction strength in [0, 1].
    verbatim: how many of them greedy decoding gives word for word (an extraction strength of 1).
    """

    groups: tuple[Text, ...]
    rows: tuple[Count, ...]
    es: tuple[Share, ...]
    verbatim: tuple[Count, ...]

    @property
    def row_count(self) -> int:
        return sum(self.rows)

    @property
    def verbatim_count(self) -> int:
        return sum(self.verbatim)


@dataclass(frozen=True)
class Sample:
    """A row, and the greedy answers to its question before and after unlearning."""

    set: Text
    group: Text
    question: Text
    answer: Text
    before: Text
    after: Text


def _checked(by_set: dict[str, Counted]) -> dict[str, Counted]:
    for name, one in by_set.items():
        if len({len(one.groups), len(one.rows), len(one.es), len(one.verbatim)}) > 1 or 0 in one.rows:
            raise ValueError(f"the groups of {name} and their numbers do not match")
        if any(v > n for v, n in zip(one.verbatim, one.rows, strict=True)):
            raise ValueError(f"{name} has more rows that come back than rows")
    return by_set


@dataclass(frozen=True)
class Recall:
    """before: of the model before unlearning, after: of this one; both by set, with the same groups in the same
    order. samples: rows, where the spec asked for them."""

    before: Annotated[dict[str, Counted], AfterValidator(_checked)] = field(default_factory=dict)
    after: Annotated[dict[str, Counted], AfterValidator(_checked)] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        groups: list[Mapping[str, Any]] = [
            {name: (c.groups, c.rows) for name, c in by_set.items()} for by_set in (self.before, self.after)
        ]
        if groups[0] != groups[1]:
            raise ValueError("it has other groups before and after")


class Found(NamedTuple):
    """A dial that was walked; recall: of its certified model, None where nothing was certified."""

    dial: Dial
    recall: Recall | None = None


def write_recall(model: Path, recall: Recall) -> None:
    """Write recall.json into the folder of a saved model, whole or not at all."""
    write_json(model / RECALL, asdict(recall))


def read_recall(model: Path) -> Recall | None:
    """Of the folder of a saved model; None where it has none. Raises RayulError where it is broken."""
    path = model / RECALL
    try:
        return _RECALL.validate_python(from_json(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise RayulError(f"{path} is not as rayul writes it: {why(error)}", REPAIR) from error


def recall_of(folder: Path, e: Evaluation) -> Recall | None:
    """What a results folder has on a point, certified or of the front; None for one that was not measured again."""
    for place in (CERTIFIED, ADAPTERS):
        found = read_recall(folder / place / adapter_name(e))
        if found is not None:
            return found
    return None


_RECALL = TypeAdapter(Recall)
