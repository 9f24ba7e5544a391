"""The rows of every set are recorded, and a sweep is not resumed on others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayul.errors import InputError
from rayul.records.manifest import Manifest
from rayul.sweep.folder import checked_rows


def test_each_set_has_its_rows_and_a_hash_of_their_text(sets: dict[str, Any]) -> None:
    facts = checked_rows(sets, Manifest())
    assert {name: f.rows for name, f in facts.items()} == {name: len(rows) for name, rows in sets.items()}
    assert len({f.sha256 for f in facts.values()}) == len(sets)
    assert all(len(f.sha256) == 64 for f in facts.values())
    assert checked_rows({name: tuple(rows) for name, rows in sets.items()}, Manifest()) == facts


def test_a_resume_on_changed_rows_names_the_set(sets: dict[str, Any]) -> None:
    begun = Manifest(data=checked_rows(sets, Manifest()))
    assert checked_rows(sets, begun) == begun.data
    changed = sets | {"retain": (replace(sets["retain"][0], answer="another"), *sets["retain"][1:])}
    with pytest.raises(InputError, match="the rows of retain have changed"):
        checked_rows(changed, begun)
    with pytest.raises(InputError, match="the rows of forget have changed"):
        checked_rows(sets | {"forget": sets["forget"][::-1]}, begun)
