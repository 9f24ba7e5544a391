"""The rows of every set are in the provenance, and a sweep is not resumed on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rayul.errors import InputError
from rayul.sweep.folder import with_data


def test_each_set_has_its_rows_and_a_hash_of_their_text(make_spec: Callable[..., Any], sets: dict[str, Any]) -> None:
    facts = with_data(make_spec(), sets).provenance["data"]
    assert {name: f["rows"] for name, f in facts.items()} == {name: len(rows) for name, rows in sets.items()}
    assert len({f["sha256"] for f in facts.values()}) == len(sets)
    assert all(len(f["sha256"]) == 64 for f in facts.values())
    again = with_data(make_spec(), {name: tuple(rows) for name, rows in sets.items()})
    assert again.provenance["data"] == facts


def test_a_resume_on_changed_rows_names_the_set(make_spec: Callable[..., Any], sets: dict[str, Any]) -> None:
    begun = with_data(make_spec(), sets)
    assert with_data(begun, sets).provenance == begun.provenance
    changed = sets | {"retain": (replace(sets["retain"][0], answer="another"), *sets["retain"][1:])}
    with pytest.raises(InputError, match="the rows of retain have changed"):
        with_data(begun, changed)
    with pytest.raises(InputError, match="the rows of forget have changed"):
        with_data(begun, sets | {"forget": sets["forget"][::-1]})
