"""The lines of an audit: written, read back, and cut off."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rayul.errors import RayulError
from rayul.records.audited import Audited, Scored, audit_journal, audited_from_json, audited_to_json


def line(seed: int = 1, attack: str = "relearn") -> Audited:
    one = Scored(
        "5 steps",
        (0, 2),
        {"forget.es": 0.25, "forget.ppl": math.inf},
        {"forget.es": math.nan},
        {"forget.es": (0.0, 0.5)},
    )
    return Audited("0014-35-0.5", seed, attack, 0.5, (one,), "", 1.5, "cpu")


def test_a_line_comes_back_as_it_was_and_is_strict_json() -> None:
    text = audited_to_json(line())
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = audited_from_json(text)
    assert math.isnan(back.scored[0].stderr["forget.es"])
    assert audited_to_json(back) == text
    assert back.scored[0].metrics == line().scored[0].metrics
    assert back.scored[0].judged == (0, 2)
    assert back.key == ("0014-35-0.5", 1, "relearn")


def test_the_journal_keeps_the_first_of_a_key_and_drops_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    journal = audit_journal(tmp_path)
    assert journal.append(line(1))
    assert journal.append(line(2))
    assert not journal.append(line(1))
    with open(journal.path, "ab") as file:
        file.write(b'{"subject": "half')
    again = audit_journal(tmp_path)
    assert [row.seed for row in again] == [1, 2]
    assert again.append(line(3))
    assert [row.seed for row in audit_journal(tmp_path)] == [1, 2, 3]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "evaluations.jsonl").write_text(audited_to_json(line()) + "\n{}\n")
    with pytest.raises(RayulError, match=r"evaluations\.jsonl:2"):
        audit_journal(tmp_path)
